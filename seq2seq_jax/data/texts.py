"""Examples that are read from files, or made, whenever they are needed: nothing of them is kept but a fingerprint."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from seq2seq_jax.data.source import SPLITS, Corpus

logger = logging.getLogger(__name__)

Example = tuple[Any, ...]
ReadExamples = Callable[[], Iterator[Example]]
"""Gives the examples of one split, from the first, each time it is called."""

EXAMPLES_PER_UPDATE = 1024


class Texts(Corpus):
    """Examples that are read anew each time, by split.

    Each split is read once at the beginning, for its number of examples and its fingerprint. Who reads a split to its
    end again learns whether it has changed since.

    Attributes:
        num_left_out: examples of each split that `is_kept` leaves out.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        read_splits: Mapping[str, ReadExamples],
        *,
        is_kept: Callable[[str, Example], bool],
        start: Callable[[str], bytes],
        framed: Callable[[Example], bytes],
    ):
        """Args:
        columns: names of an example's values.
        read_splits: by name, in the order in which the splits are hashed.
        is_kept: whether an example of a split is used.
        start, framed: what is hashed of a split's name and of an example.
        """
        self._columns = columns
        self._read_splits = dict(read_splits)
        self._is_kept, self._start, self._framed = is_kept, start, framed
        self._numbers: dict[str, int] = {}
        self._fingerprints: dict[str, str] = {}
        self.num_left_out: dict[str, int] = {}
        content = hashlib.sha256()
        for split in self._read_splits:
            self._numbers[split] = sum(1 for _ in self._hashed(split, content))
        self._fingerprint = content.hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        return self._columns

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def split_fingerprint(self, split: str) -> str:
        return self._fingerprints[split]

    @property
    def splits(self) -> dict[str, int]:
        return self._numbers

    def examples(self, split: str) -> Iterator[Example]:
        if split not in self._read_splits:
            raise ValueError(
                f"expected one of the splits {', '.join(self._read_splits)}; got {split!r}: name one of these, or give "
                f"the data source a {split} split"
            )
        return self._hashed(split)

    def _hashed(self, split: str, *further: Any) -> Iterator[Example]:
        """The examples of a split, which update its hash, and further ones, as they pass by.

        Raises:
            ValueError: they are not those that the split had at first.
        """
        of_split = hashlib.sha256()
        pending, num_left_out = [self._start(split)], 0
        for example in self._read_splits[split]():
            if not self._is_kept(split, example):
                num_left_out += 1
                continue
            pending.append(self._framed(example))
            # One update for many examples.
            if len(pending) == EXAMPLES_PER_UPDATE:
                _update((of_split, *further), pending)
            yield example
        _update((of_split, *further), pending)
        self.num_left_out.setdefault(split, num_left_out)
        if self._fingerprints.setdefault(split, of_split.hexdigest()) != of_split.hexdigest():
            raise ValueError(
                f"expected the {split} examples to stay what they were; they have changed since they were first read: "
                "start again"
            )


def _update(hashes: Sequence[Any], pending: list[bytes]) -> None:
    data = b"".join(pending)
    for hashed in hashes:
        hashed.update(data)
    pending.clear()


def pairs(read_splits: Mapping[str, ReadExamples], *, further_columns: tuple[str, ...] = ()) -> Texts:
    """Examples with a source and a target.

    Training pairs with an empty side (white space alone) are left out and their number is logged; the other splits
    keep theirs, so that outputs match inputs line for line.

    Args:
        read_splits: by the name of the split.
        further_columns: what an example has behind source and target.

    Raises:
        ValueError: a split has no pair, or every training pair has an empty side.
    """
    further = [split for split in read_splits if split not in SPLITS]
    texts = Texts(
        ("source", "target", *further_columns),
        {split: read_splits[split] for split in (*SPLITS, *further) if split in read_splits},
        is_kept=lambda split, pair: split != "train" or bool(pair[0].strip() and pair[1].strip()),
        start=str.encode,
        framed=_framed,
    )
    for split, num_kept in texts.splits.items():
        num_left_out = texts.num_left_out[split]
        if num_kept == num_left_out == 0:
            raise ValueError(
                f"expected {split} examples; there are none in what was read: give data that has some, or no {split} "
                "split"
            )
        if num_kept == 0:
            raise ValueError(
                f"expected {split} pairs with text on both sides; all {num_left_out} have an empty source or "
                "target: check which files and fields are named"
            )
        if num_left_out:
            logger.warning(
                "left out %d of %d %s pairs: source or target is empty", num_left_out, num_left_out + num_kept, split
            )
    return texts


def _framed(example: Example) -> bytes:
    # No further references are no part of what is hashed: text that is trained on stays what it is without them.
    values = [
        value.encode() if isinstance(value, str) else json.dumps(value).encode() for value in example if value != []
    ]
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    return b"\n%b\n%b" % (b" ".join([b"%d" % len(value) for value in values]), b"".join(values))


def documents(read_splits: Mapping[str, Callable[[], Iterator[str]]], *, places: Mapping[str, str]) -> Texts:
    """Documents, in a column `text`; those of white space alone are left out.

    Args:
        read_splits: in the order in which they are hashed.
        places: of each split, for the message.

    Raises:
        ValueError: a split has no text.
    """
    texts = Texts(
        ("text",),
        {split: (lambda read=read: ((document,) for document in read())) for split, read in read_splits.items()},
        is_kept=lambda split, document: bool(document[0].strip()),
        start=lambda split: f"{split}\n".encode(),
        framed=lambda document: f"{document[0]}\n".encode(),
    )
    for split, number in texts.splits.items():
        if not number:
            raise ValueError(f"expected {split} documents; {places[split]} has none: name a file with text")
    return texts
