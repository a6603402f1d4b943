"""What the generator of a list thought of its texts."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.reranking.feature import Feature
from seq2seq_jax.reranking.lists import CandidateList

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Feature):
    """The score by which the generator ranked, of beam search the log-probability over the length penalty."""

    name: ClassVar[str] = "score"

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        return _given(lists, self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogProbability(Feature):
    """The log-probability (nats) of the generator's model."""

    name: ClassVar[str] = "log_probability"

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        return _given(lists, self.name)


def _given(lists: Sequence[CandidateList], name: str) -> "list[np.ndarray]":
    import numpy as np

    values = [np.array([getattr(each, name) for each in one.candidates], np.float64) for one in lists]
    for number, each in enumerate(values, 1):
        if np.isnan(each).any():
            raise ValueError(
                f"the n-best list {number} has no {name} for its texts: leave the feature {name} out, or take "
                "forward,run=RUN, which computes one."
            )
    return values
