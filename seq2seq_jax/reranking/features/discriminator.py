"""What a discriminator thinks of a target."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.reranking.feature import RunFeature
from seq2seq_jax.reranking.lists import CandidateList, check_sources

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discriminator(RunFeature):
    """The logit of the discriminator of a run of adversarial training, with any tokenizer: log p(reference) / p(sample)
    where its loss is logistic, so that the sum with log_probability is an energy model (Bhattacharyya et al. 2021).
    """

    name: ClassVar[str] = "discriminator"

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        runs.check_forward(self.run, self.name)
        check_sources(lists, self.name)
        return runs.judge(self.run, self.checkpoint, lists)
