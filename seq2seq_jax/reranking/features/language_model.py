"""How probable a target is, whatever its source."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.reranking.feature import RunFeature
from seq2seq_jax.reranking.lists import CandidateList

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(RunFeature):
    """log p(target) of a run whose source says nothing: one that was trained on pairs with the same source in each.

    A negative weight takes texts that are probable whatever the source is back (Li et al. 2016, arXiv:1510.03055,
    equation 9).
    """

    name: ClassVar[str] = "language_model"

    source: str | None = None
    """The source that it was trained with; None = an empty one."""

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        runs.check_target(self.run, self.name)
        return runs.score(self.run, self.checkpoint, lists, lambda each, text: (self.source or "", text))
