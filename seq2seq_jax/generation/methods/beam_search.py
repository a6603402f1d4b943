"""Beam search."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearch(GenerationMethod):
    """Beam search: approximately the most probable texts."""

    beam_size: int = 4
    """Hypotheses kept for each source; 1 = greedy decoding."""
    n_best: int = 1
    """Hypotheses returned for each source, best first."""
    length_penalty: float = 1.0
    """Exponent alpha of the length normalisation, score = log p / ((5 + length) / 6) ^ alpha; 0 = none."""
    sibling_penalty: float = 0.0
    """Taken from a continuation, when continuations are chosen, for every more probable one of the same hypothesis, so
    that n-best lists differ in more than their last words; 0 = none."""
    max_compactions: int = 0
    """Maximum number of batch compactions (halvings as sources finish); each compiles the search step once more."""

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("beam_size", "n_best")
        self._check_amounts("length_penalty", "sibling_penalty")
        if self.max_compactions < 0:
            raise ValueError(f"max_compactions must not be negative, got {self.max_compactions}: set it to 0 or more")
        if self.n_best > self.beam_size:
            raise ValueError(
                f"n_best must be at most beam_size, got n_best {self.n_best} and beam_size {self.beam_size}: "
                "lower n_best or raise beam_size"
            )

    @property
    def num_hypotheses(self) -> int:
        return self.beam_size

    @property
    def num_texts(self) -> int:
        return self.n_best

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.search import beam_search

        return beam_search(
            context,
            beam_size=self.beam_size,
            n_best=self.n_best,
            length_penalty=self.length_penalty,
            sibling_penalty=self.sibling_penalty,
            max_compactions=self.max_compactions,
        )
