"""What sources of speech have in common: an example has audio, as frames, and a text."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from seq2seq_jax.data.source import SPLITS, Corpus, PairSource

if TYPE_CHECKING:
    import seq2seq_jax.data.columns

logger = logging.getLogger(__name__)

AUDIO, TEXT, SPEAKER, NAME = "audio", "target", "speaker", "id"
"""Columns of an example: its frames, [time, features]; its text; who speaks; and what it is called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechSource(PairSource):
    """Where speech comes from and how it becomes rows.

    Lengths of sources are in positions, of `stride` samples (or frames of features) each: of these the model makes one
    state, and every example begins at one. At 8,000 samples per second and a stride of 320 a position is 40 ms.
    """

    stride: int
    """Samples, or frames of features, of a position: as many as model.front_end and model.encoder make a state of."""
    max_source_length: int = 512
    """Positions of a source row, and of the longest example."""

    unit: ClassVar[str]
    """What a stride counts, for messages."""

    def __post_init__(self):
        super().__post_init__()
        if self.stride < 1:
            raise ValueError(f"data.stride must be at least 1 {self.unit}, not {self.stride}.")
        if self.augmentation.source.is_on or (
            self.augmentation.samples_subwords and self.augmentation.sampled_side != "target"
        ):
            raise ValueError(
                "data.augmentation.source and sampled_side change words of sources, and those are sounds: leave source "
                "as it is, and set sampled_side to target."
            )
        if self.too_long != "drop":
            raise ValueError(
                "data.too_long must be drop: of speech that is cut, nobody knows which part of its text is left."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (AUDIO, TEXT, SPEAKER, NAME)

    @property
    def num_features(self) -> int:
        """Values of a stored vector."""
        return 1

    @property
    def kind(self) -> str:
        """Their type."""
        return "int16"

    @property
    def values_per_second(self) -> float:
        """Samples, or frames of features, per second."""
        raise NotImplementedError

    def source_column(self) -> "seq2seq_jax.data.columns.Frames":
        from seq2seq_jax.data.columns import Frames

        return Frames(
            read_from=AUDIO,
            num_features=self.num_features,
            kind=self.kind,
            stride=self.stride,
            max_length=self.max_source_length * self.stride,
        )


Row = tuple[np.ndarray, str, str, str]
"""An example: see the columns."""


class SpeechCorpus(Corpus):
    """Speech that is read when it is needed.

    Attributes:
        num_rows: by split.
    """

    def __init__(
        self,
        read_splits: Mapping[str, Callable[[], Iterator[Row]]],
        read_texts: Mapping[str, Callable[[], Iterator[tuple[str, str, str]]]],
        *,
        sizes: Mapping[str, int],
        facts: Mapping[str, Any],
    ):
        """Args:
        read_splits: gives the examples of a split.
        read_texts: gives what they are without their audio, which takes much less time: text, speaker, name.
        sizes: examples of each split.
        facts: JSON values of each split that decide its content.
        """
        self._read_splits = dict(read_splits)
        self._read_texts = dict(read_texts)
        self._sizes = dict(sizes)
        self._fingerprints = {
            split: hashlib.sha256(json.dumps([split, of_split]).encode()).hexdigest()
            for split, of_split in facts.items()
        }
        for split, size in sizes.items():
            if not size:
                raise ValueError(f"expected {split} examples of speech; there are none: name a file that has some")

    @property
    def columns(self) -> tuple[str, ...]:
        return (AUDIO, TEXT, SPEAKER, NAME)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self._fingerprints[split] for split in self._sizes).encode()).hexdigest()

    def split_fingerprint(self, split: str) -> str:
        return self._fingerprints[split]

    @property
    def splits(self) -> dict[str, int]:
        return self._sizes

    def examples(self, split: str) -> Iterator[Row]:
        return self._of(split, self._read_splits)()

    def read(self, split: str, columns: Collection[str]) -> Iterator[tuple[Any, ...]]:
        """See Corpus.read; without the audio, no file of it is opened."""
        if AUDIO in columns:
            return super().read(split, tuple(columns))
        names = (TEXT, SPEAKER, NAME)
        if unknown := set(columns) - set(names):
            return super().read(split, tuple(unknown))
        return (
            tuple(values[names.index(column)] for column in columns) for values in self._of(split, self._read_texts)()
        )

    def _of(self, split: str, readers: Mapping[str, Any]) -> Any:
        if split not in readers:
            raise ValueError(
                f"expected one of the splits {', '.join(readers)}; got {split!r}: name one of these, or give the data "
                f"source a {split} split"
            )
        return readers[split]


def in_order(splits: Collection[str]) -> list[str]:
    """Splits in the order in which they are hashed, whichever are required."""
    return [*[split for split in SPLITS if split in splits], *sorted(set(splits) - set(SPLITS))]
