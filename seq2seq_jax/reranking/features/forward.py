"""What another run thinks of a target."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.reranking.feature import RunFeature
from seq2seq_jax.reranking.lists import CandidateList, check_sources

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward(RunFeature):
    """log p(target | source) of a run of the same direction, with any tokenizer."""

    name: ClassVar[str] = "forward"

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        runs.check_forward(self.run, self.name)
        check_sources(lists, self.name)
        return runs.score(self.run, self.checkpoint, lists, lambda each, text: (each.source, text))
