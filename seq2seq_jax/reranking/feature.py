"""What a feature is: a number for every text of every list."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.reranking.lists import CandidateList
from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature(abc.ABC):
    """A number for every text of a list. A subclass is a frozen dataclass in a file of `features/`, and a row of the
    table there.
    """

    name: ClassVar[str]

    weight: float = 1.0
    """Factor in the sum by which texts are ranked; negative = the lower the better."""

    def __post_init__(self):
        check_values(self, f"features.{self.name}")

    def __str__(self) -> str:
        """As a command line names it, without its weight."""
        settings = (
            f"{field.name}={value}"
            for field in dataclasses.fields(self)
            if field.name != "weight" and (value := getattr(self, field.name)) != field.default
        )
        return ",".join((self.name, *settings))

    @classmethod
    def from_text(cls, text: str) -> "Feature":
        """The feature that a command line names. See `seq2seq_jax.reranking.features.parse_feature`.

        Raises:
            ValueError: there is no such feature.
        """
        from seq2seq_jax.reranking.features import parse_feature

        return parse_feature(text)

    @abc.abstractmethod
    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        """The numbers for the texts of each list, [texts]; NaN for a text that has none, which is then never chosen.

        Args:
            runs: opens the runs that features score with.

        Raises:
            ValueError: the lists do not say what the feature needs, or a run does not fit it.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFeature(Feature):
    """A feature that a run computes: its model's log-probability (nats) of something, EOS token included."""

    run: str
    """Directory of the run."""
    checkpoint: str = "best"
    """best, latest, or a step."""
