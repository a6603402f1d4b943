"""Generation by connectionist temporal classification alone, without the decoder."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


class _Ctc(GenerationMethod):
    """What both methods have in common."""

    needs_ctc: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.controls != Controls():
            raise ValueError(
                f"generation.controls are not supported with {type(self).__name__}: leave them as they are, or choose "
                "--generation beam_search."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcGreedy(_Ctc):
    """Greedy CTC: the text of the most probable path, position by position."""

    @property
    def num_hypotheses(self) -> int:
        return 1

    @property
    def num_texts(self) -> int:
        return 1

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.ctc import greedy

        return greedy(context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtcBeamSearch(_Ctc):
    """CTC with a beam of prefixes: approximately the most probable texts, over all of their paths."""

    beam_size: int = 8
    """Prefixes that are kept at each position of a source."""
    n_best: int = 1
    """Texts returned for each source, best first."""

    texts_field: ClassVar[str | None] = "n_best"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("beam_size", "n_best")
        self._check_best(self.n_best, of=self.beam_size)

    @property
    def num_hypotheses(self) -> int:
        return self.beam_size

    @property
    def num_texts(self) -> int:
        return self.n_best

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.ctc import prefix_search

        return prefix_search(context, beam_size=self.beam_size, n_best=self.n_best)
