"""How long a text is."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from seq2seq_jax.reranking.feature import Feature
from seq2seq_jax.reranking.lists import CandidateList

if TYPE_CHECKING:
    import numpy as np

    from seq2seq_jax.reranking.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length(Feature):
    """The length of a text, which the sums of log-probabilities are biased against."""

    name: ClassVar[str] = "length"

    unit: Literal["words", "characters"] = "words"
    """What is counted: words between spaces, or characters, for writing without spaces."""

    def values(self, lists: Sequence[CandidateList], runs: "Runs") -> "list[np.ndarray]":
        import numpy as np

        def length(text: str) -> int:
            return len(text) if self.unit == "characters" else len(text.split())

        return [np.array([length(each.text) for each in one.candidates], np.float64) for one in lists]
