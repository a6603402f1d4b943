"""Columns: what the named parts of an example are, how they are stored, and what happens to those that are too long.

An example is a mapping from column names to values of any length. Stored, a column is one flat array with the values of
all examples, and the offset of each example in it.
"""

import abc
import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Integer

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.tokenizer import Tokenizer

Truncate = Literal["left", "right"]
"""Which end of a longer value is cut off."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Values of several examples, one after the other.

    Attributes:
        values: of all examples, [total length, ...].
        offsets: where each example begins, and the end of the last.
    """

    values: np.ndarray
    offsets: Integer[np.ndarray, " examples_and_end"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int | np.integer) -> np.ndarray:
        """The values of one example."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Length of each example, as int32."""
        return np.diff(self.offsets.astype(np.int64, copy=False)).astype(np.int32)

    def bounds(
        self, examples: Int[np.ndarray, " chosen"]
    ) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
        """Where some examples begin, and their lengths, as int64."""
        starts = self.offsets[examples].astype(np.int64)
        return starts, self.offsets[examples + 1].astype(np.int64) - starts

    def take(self, examples: Int[np.ndarray, " chosen"]) -> "Ragged":
        """Some examples."""
        starts, lengths = self.bounds(examples)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Ragged(self.values[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])], offsets)

    def with_examples(self, which: Int[np.ndarray, " chosen"], others: "Ragged") -> "Ragged":
        """The examples, some of them replaced by others."""
        order = np.arange(len(self))
        order[which] = len(self) + np.arange(len(others))
        joined = Ragged(
            np.concatenate([self.values, others.values]),
            np.concatenate([self.offsets, self.offsets[-1] + others.offsets[1:]]),
        )
        return joined.take(order)


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
    """The same values, run together and cut into examples of one length; the last may be shorter.

    It holds no number per example: a corpus may have hundreds of millions.
    """

    values: np.ndarray
    length: int

    def __len__(self) -> int:
        return (len(self.values) + self.length - 1) // self.length

    def bounds(
        self, examples: Int[np.ndarray, " chosen"]
    ) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
        """See `Ragged.bounds`."""
        starts = np.asarray(examples, np.int64) * self.length
        return starts, np.minimum(len(self.values) - starts, self.length)


def ragged(values: Sequence[Sequence[Any]], dtype: np.dtype | type) -> Ragged:
    """A column of given values."""
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values], dtype=np.int64)])
    return Ragged(np.fromiter(itertools.chain.from_iterable(values), dtype, offsets[-1]), offsets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column(abc.ABC):
    """What a column is; one subclass per kind."""

    read_from: str | None = None
    """The column of the data that it is made of; None = the one of its own name."""
    max_length: int | None = None
    """The length that an example may have; None = any."""
    truncate: Truncate | None = None
    """Which end of a longer example is cut off, in training, evaluation and generation; None = it is left out."""

    @abc.abstractmethod
    def dtype(self, vocabulary: Vocabulary) -> np.dtype:
        """Type of the stored values."""

    @abc.abstractmethod
    def encode(self, values: list[Any], tokenizer: Tokenizer) -> Ragged:
        """The column of some examples.

        Args:
            values: of the data's column.

        Raises:
            ValueError: a value is not of this kind.
        """

    @abc.abstractmethod
    def stored(self, tokenizer: Tokenizer) -> list[Any]:
        """JSON values that, with the data's content, decide what is stored."""

    @property
    def is_uniform(self) -> bool:
        """Whether all examples are of one length (but perhaps the last)."""
        return False

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of each of an example's values."""
        return ()

    def decode(self, values: np.ndarray) -> Any:
        """The value of one example, from what is stored."""
        return values

    def examples(self, stored: Ragged) -> Ragged | Chunks:
        """The examples that are made of those stored."""
        return stored

    def row_lengths(self, lengths: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """Positions of a row that examples of these lengths take up."""
        return lengths

    def cut(self, lengths: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """Lengths of examples after longer ones have been cut."""
        return lengths if self.max_length is None else np.minimum(lengths, self.max_length)

    def fetch(self, column: Ragged | Chunks, examples: Int[np.ndarray, " chosen"], *, vocabulary: Vocabulary) -> Ragged:
        """Some examples of a stored column, each cut to `max_length`."""
        starts, lengths = column.bounds(examples)
        kept = self.cut(lengths)
        if self.truncate == "left":
            starts = starts + lengths - kept
        offsets = np.concatenate([[0], np.cumsum(kept)])
        if len(kept) and (kept == kept[0]).all():
            places = (starts[:, None] + np.arange(kept[0])).reshape(-1)
        else:
            # No loop over examples: a number per value says where it is.
            places = np.repeat(starts - offsets[:-1], kept) + np.arange(offsets[-1])
        return Ragged(column.values[places], offsets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(Column):
    """Token ids of a text."""

    side: Literal["source", "target"] = "source"
    """Whose tokenizer encodes it."""
    ends_in_eos: bool = True
    """Whether an EOS token ends each example, also one that was cut."""
    concatenate: bool = False
    """Run the texts of a split together, and cut them into examples of max_length; the last may be shorter."""

    def dtype(self, vocabulary: Vocabulary) -> np.dtype:
        """The smallest type that holds all ids."""
        size = vocabulary.source_size if self.side == "source" else vocabulary.target_size
        return np.dtype("<u2" if size <= 2**16 else "<u4")

    def encode(self, values: list[str], tokenizer: Tokenizer) -> Ragged:
        if not self.ends_in_eos:
            ids = tokenizer.encode_documents(values)
        else:
            ids = (tokenizer.encode_source if self.side == "source" else tokenizer.encode_target)(values)
        return ragged(ids, self.dtype(tokenizer.vocabulary))

    def stored(self, tokenizer: Tokenizer) -> list[Any]:
        return ["tokens", self.side, self.ends_in_eos, tokenizer.fingerprint]

    @property
    def is_uniform(self) -> bool:
        return self.concatenate

    def examples(self, stored: Ragged) -> Ragged | Chunks:
        return Chunks(stored.values, self.max_length) if self.concatenate else stored

    def cut_ids(self, ids: list[int], tokenizer: Tokenizer) -> list[int]:
        """Like `fetch`, for the ids of one example.

        Args:
            ids: of the whole text, by the tokenizer.
            tokenizer: which tells what they stand for.
        """
        longest = self.max_length
        if longest is None or self.truncate is None or len(ids) <= longest:
            return ids
        if self.truncate == "left":
            return ids[-longest:]
        return [*ids[: longest - 1], ids[-1]] if self.ends_in_eos else ids[:longest]

    def fetch(self, column: Ragged | Chunks, examples: Int[np.ndarray, " chosen"], *, vocabulary: Vocabulary) -> Ragged:
        found = super().fetch(column, examples, vocabulary=vocabulary)
        if self.ends_in_eos:
            found.values[found.offsets[1:] - 1] = vocabulary.end_id(self.side)
        return found


DECODING_VERSION = 2
"""Counts changes of what is decoded of a file of audio; what is stored of an older one is made again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames(Column):
    """Vectors over time, such as the features of speech: [time, features]."""

    num_features: int
    """Values per frame."""
    kind: Literal["float32", "float16", "int16"] = "float32"
    """Type of a stored value."""
    stride: int = 1
    """Frames of a position of a row, of which a model makes one state."""

    def dtype(self, vocabulary: Vocabulary) -> np.dtype:
        return np.dtype(self.kind).newbyteorder("<")

    @property
    def value_shape(self) -> tuple[int, ...]:
        return (self.num_features,)

    def row_lengths(self, lengths: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """Positions that examples of these lengths (frames) take up: whole strides."""
        return -(-lengths // self.stride)

    def check(self, value: np.ndarray) -> None:
        """Refuse what are no such frames.

        Raises:
            ValueError: with the shape and type that were expected.
        """
        if value.ndim != 2 or value.shape[1] != self.num_features or value.dtype != self.kind:
            raise ValueError(
                f"expected frames of {self.num_features} {self.kind} features, as [time, features]; got "
                f"{value.dtype} {list(value.shape)}: convert them"
            )

    def encode(self, values: list[np.ndarray], tokenizer: Tokenizer) -> Ragged:
        for value in values:
            self.check(value)
        offsets = np.concatenate([[0], np.cumsum([len(value) for value in values], dtype=np.int64)])
        return Ragged(np.concatenate(values) if values else np.empty((0, self.num_features), self.kind), offsets)

    def fetch(self, column: Ragged | Chunks, examples: Int[np.ndarray, " chosen"], *, vocabulary: Vocabulary) -> Ragged:
        starts, lengths = column.bounds(examples)
        kept = self.cut(lengths)
        if self.truncate == "left":
            starts = starts + lengths - kept
        # Examples are long: a copy of each is faster than an index of every value.
        parts = [
            column.values[start : start + size] for start, size in zip(starts.tolist(), kept.tolist(), strict=True)
        ]
        values = np.concatenate(parts) if parts else column.values[:0]
        return Ragged(values, np.concatenate([[0], np.cumsum(kept)]))

    def stored(self, tokenizer: Tokenizer) -> list[Any]:
        return ["frames", self.num_features, self.kind, DECODING_VERSION]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Column):
    """Text as it is, or several texts such as references, kept to be scored with."""

    def dtype(self, vocabulary: Vocabulary) -> np.dtype:
        return np.dtype("u1")

    def encode(self, values: list[str | list[str]], tokenizer: Tokenizer) -> Ragged:
        # As JSON one text and a list of one text stay apart.
        written = [json.dumps(value, ensure_ascii=False).encode() for value in values]
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in written], dtype=np.int64)])
        return Ragged(np.frombuffer(b"".join(written), np.uint8), offsets)

    def decode(self, values: np.ndarray) -> str | list[str]:
        return json.loads(values.tobytes())

    def stored(self, tokenizer: Tokenizer) -> list[Any]:
        return ["text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label(Column):
    """One of some classes."""

    num_classes: int
    """Labels are 0 to num_classes - 1."""

    def dtype(self, vocabulary: Vocabulary) -> np.dtype:
        return np.dtype("<i4")

    def encode(self, values: list[int], tokenizer: Tokenizer) -> Ragged:
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < self.num_classes:
                raise ValueError(f"expected a label of 0 to {self.num_classes - 1}; got {value!r}: correct the data")
        return Ragged(np.array(values, "<i4"), np.arange(len(values) + 1))

    def decode(self, values: np.ndarray) -> int:
        return int(values[0])

    def stored(self, tokenizer: Tokenizer) -> list[Any]:
        return ["label"]
