"""How well a target leads back to its source."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.reranking.feature import RunFeature
from seq2seq_jax.reranking.lists import CandidateList, check_sources

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reverse(RunFeature):
    """log p(source | target) of a run of the reverse direction, with any tokenizer.

    With log p(target | source) it is maximum mutual information: Li et al. 2016, arXiv:1510.03055, equation 10.
    """

    name: ClassVar[str] = "reverse"

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        runs.check_reverse(self.run, self.name)
        check_sources(lists, self.name)
        return runs.score(self.run, self.checkpoint, lists, lambda each, text: (text, each.source))
