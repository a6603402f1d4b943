"""What methods that search with a beam have in common."""

import dataclasses
from typing import ClassVar

from seq2seq_jax.generation.method import GenerationMethod


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searching(GenerationMethod):
    """One or more searches with a beam."""

    beam_size: int = 4
    """Hypotheses kept for each source; 1 = greedy decoding."""
    length_penalty: float = 1.0
    """Exponent alpha of the length normalisation, score = log p / ((5 + length) / 6) ^ alpha; 0 = none."""
    max_compactions: int = 0
    """Maximum number of batch compactions, each of which halves the batch when half of its sources are finished, and
    compiles the step once more."""

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("beam_size")
        self._check_amounts("length_penalty")
        self._check_not_negative("max_compactions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beams(Searching):
    """Live hypotheses for each source, of which the finished ones are ranked."""

    n_best: int = 1
    """Hypotheses returned for each source, best first."""

    texts_field: ClassVar[str | None] = "n_best"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("n_best")
        self._check_best(self.n_best, of=self.beam_size)

    @property
    def num_hypotheses(self) -> int:
        return self.beam_size

    @property
    def num_texts(self) -> int:
        return self.n_best

    @property
    def ranks_finished(self) -> bool:
        return True
