"""Diverse beam search."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.generation.methods.beams import Beams

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiverseBeamSearch(Beams):
    """Beam search in groups that avoid each other's tokens."""

    groups: int = 2
    """Groups, which divide beam_size; 1 = beam search."""
    diversity: float = 0.5
    """Taken from the log-probability of a token, when a group chooses, for every hypothesis of an earlier group that
    has just chosen it; 0 = all groups find the same."""
    n_best: int = 1
    """Texts returned for each source: the best of every group, best first, then the second of every group, ..."""

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("groups")
        self._check_amounts("diversity")
        if self.beam_size % self.groups:
            raise ValueError(
                f"groups must divide beam_size, got {self.groups} groups and beam_size {self.beam_size}: change either"
            )

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
