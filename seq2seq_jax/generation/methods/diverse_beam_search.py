"""Diverse beam search."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiverseBeamSearch(GenerationMethod):
    """Beam search in groups that avoid each other's tokens."""

    beam_size: int = 4
    """Hypotheses kept for each source, in all groups together."""
    groups: int = 2
    """Groups, which divide beam_size; 1 = beam search."""
    diversity: float = 0.5
    """Taken from the log-probability of a token, when a group chooses, for every hypothesis of an earlier group that
    has just chosen it; 0 = all groups find the same."""
    n_best: int = 1
    """Texts returned for each source: the best of every group, best first, then the second of every group, ..."""
    length_penalty: float = 1.0
    """Exponent alpha of the length normalisation, score = log p / ((5 + length) / 6) ^ alpha; 0 = none."""
    max_compactions: int = 0
    """Maximum number of batch compactions (halvings as sources finish); each compiles the search step once more."""

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("beam_size", "groups", "n_best")
        self._check_amounts("length_penalty", "diversity")
        if self.max_compactions < 0:
            raise ValueError(f"max_compactions must not be negative, got {self.max_compactions}: set it to 0 or more")
        if self.beam_size % self.groups:
            raise ValueError(
                f"groups must divide beam_size, got {self.groups} groups and beam_size {self.beam_size}: change either"
            )
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
        from seq2seq_jax.generation.diverse_search import diverse_beam_search

        return diverse_beam_search(
            context,
            beam_size=self.beam_size,
            groups=self.groups,
            diversity=self.diversity,
            n_best=self.n_best,
            length_penalty=self.length_penalty,
            max_compactions=self.max_compactions,
        )
