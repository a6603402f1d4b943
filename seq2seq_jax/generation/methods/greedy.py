"""Greedy decoding."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy(GenerationMethod):
    """Greedy decoding: the most probable token in every step."""

    max_compactions: int = 0
    """Maximum number of batch compactions, each of which halves the batch when half of its sources are finished, and
    compiles the step once more."""

    def __post_init__(self):
        super().__post_init__()
        self._check_not_negative("max_compactions")

    @property
    def num_hypotheses(self) -> int:
        return 1

    @property
    def num_texts(self) -> int:
        return 1

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.search import beam_search

        return beam_search(context, beam_size=1, n_best=1, length_penalty=0.0, max_compactions=self.max_compactions)
