"""Features that others have computed: a flat file of numbers, and a table of the examples in it."""

import dataclasses
import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from seq2seq_jax.data.audio.augmentation import FeatureAugmentationConfig
from seq2seq_jax.data.audio.digit_strings import read_table
from seq2seq_jax.data.audio.inputs import as_stored
from seq2seq_jax.data.audio.source import Row, SpeechCorpus, SpeechSource, in_order
from seq2seq_jax.data.source import SPLITS, Corpus
from seq2seq_jax.data.text_files import find_file
from seq2seq_jax.effects import changes
from seq2seq_jax.files import file_digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechFeatures(SpeechSource):
    """Frames of features, such as cepstra, of all examples of a split behind each other in one file, [frames, features]
    little-endian float32, and a table with the columns id, speaker, frames and text, in the same order.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the files are; "~" is the home directory."""
    features: int = 13
    """Features of a frame."""
    frames_per_second: float = 100.0
    """Frames per second of speech."""
    stored: Literal["float32", "float16"] = "float32"
    """Type in which they are kept in the cache and sent to the device."""
    suffix: str = dataclasses.field(default=".cepstra.f32", metadata=changes("nothing"))
    """What the name of a file of numbers has behind the name of its table: train.tsv and train.cepstra.f32."""
    train: str = dataclasses.field(default="train", metadata=changes("nothing"))
    """Name of the files of the training split, without suffixes."""
    validation: str | None = dataclasses.field(default="dev", metadata=changes("nothing"))
    """Likewise of the validation split; None = there is none."""
    test: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Likewise of the test split; None = there is none."""

    augmentation: FeatureAugmentationConfig = FeatureAugmentationConfig()
    """What is done to training examples, otherwise in every epoch: tempo."""

    unit: ClassVar[str] = "frame"

    def __post_init__(self):
        super().__post_init__()
        if self.features < 1 or not self.frames_per_second > 0.0:
            raise ValueError(
                f"data.features must be at least 1 and frames_per_second above 0; they are {self.features} and "
                f"{self.frames_per_second:g}."
            )

    @property
    def num_features(self) -> int:
        return self.features

    @property
    def kind(self) -> str:
        return self.stored

    @property
    def values_per_second(self) -> float:
        return self.frames_per_second

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Read the tables, and compare them with the numbers.

        Raises:
            ValueError: a file is missing, a table lacks a column, or has other numbers of frames than the file.
        """
        names = {"train": self.train, "validation": self.validation, "test": self.test}
        tables, values = {}, {}
        for split, name in names.items():
            if name is None or split not in splits:
                continue
            path = find_file(self.directory, f"{name}.tsv", split=split)
            values[split] = find_file(self.directory, f"{name}{self.suffix}", split=split)
            tables[split] = _read(path, values[split], self.features)
        order = in_order(tables)
        return SpeechCorpus(
            {
                split: functools.partial(_examples, values[split], tables[split], self.features, self.stored)
                for split in order
            },
            {split: functools.partial(iter, [row[1:] for row in tables[split]]) for split in order},
            sizes={split: len(tables[split]) for split in order},
            facts={split: [file_digest(values[split]), self.features, tables[split]] for split in order},
        )


def _read(path: Path, values: Path, features: int) -> list[tuple[int, str, str, str]]:
    """Frames, text, speaker and name of each example.

    Raises:
        ValueError: the table does not fit the file of numbers.
    """
    rows = []
    for number, row in enumerate(read_table(path, ("id", "speaker", "frames", "text")), start=2):
        if not row["frames"].isdecimal() or int(row["frames"]) == 0:
            raise ValueError(
                f"expected a number of frames, 1 or more, in line {number} of {path}; got {row['frames']!r}: correct it"
            )
        rows.append((int(row["frames"]), row["text"], row["speaker"], row["id"]))
    size, expected = values.stat().st_size, sum(row[0] for row in rows) * features * 4
    if size != expected:
        raise ValueError(
            f"expected {expected:,} bytes in {values}, {features} float32 features of each frame that {path.name} "
            f"counts; it has {size:,}: copy it again, or set data.features"
        )
    return rows


def _examples(path: Path, rows: list[tuple[int, str, str, str]], features: int, stored: str) -> Iterator[Row]:
    values = np.memmap(path, "<f4", "r").reshape(-1, features)
    begin = 0
    for frames, *rest in rows:
        found = np.asarray(values[begin : begin + frames])
        begin += frames
        yield as_stored(found, stored, f"{rest[2]} in {path}"), *rest
