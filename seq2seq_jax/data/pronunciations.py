"""Pronunciation dictionaries: words, and the phonemes of each of their pronunciations."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from seq2seq_jax.data.source import SPLITS, Corpus, PairSource
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.data.texts import pairs
from seq2seq_jax.effects import changes

PARTS = 100
"""What a word's hash is taken modulo."""
TEST_PARTS, VALIDATION_PARTS = 10, 2
"""Of these, the first are the test words, the next the validation words."""

_VARIANT = re.compile(r"\(\d+\)$")
_STRESS = re.compile(r"\d$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pronunciations(PairSource):
    """Words and their phonemes, from a dictionary as CMUdict is written: UTF-8, plain or gzipped.

    A line holds a word and its phonemes, separated by spaces: "tomato T AH0 M EY1 T OW2". Further pronunciations of a
    word have their number behind it: "tomato(2)". What follows " #" is a comment, and so are lines that begin with
    ";;;".

    A word belongs to a split by its MD5 hash modulo 100, so that all its pronunciations are in one split, whatever
    else the dictionary holds: below 10 test, 10 and 11 validation, the others train. Each pronunciation is an example
    to train on; in the other splits each word is an example, with its first pronunciation as the target and the others
    as further references.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the dictionary is; "~" is the home directory."""
    dictionary: str = dataclasses.field(default="cmudict.dict", metadata=changes("nothing"))
    """Name of the dictionary; found with .gz behind it, too."""
    stress: bool = dataclasses.field(default=False, metadata=changes("nothing"))
    """Whether vowels keep the digit of their stress (AH0, EY1). Pronunciations that differ in nothing else are one
    without."""

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the dictionary through, and open it.

        Raises:
            ValueError: it is missing, empty, not UTF-8 or not whole, or a line of it has no phonemes.
        """
        path = find_file(self.directory, self.dictionary, split="train")
        return pairs(
            {
                split: functools.partial(_examples, path, split, stress=self.stress)
                for split in SPLITS
                if split in splits
            },
            further_columns=("references",),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target", "references")


def split_of(word: str) -> str:
    """The split of a word; see `Pronunciations`."""
    part = int.from_bytes(hashlib.md5(word.encode(), usedforsecurity=False).digest()) % PARTS
    if part < TEST_PARTS:
        return "test"
    return "validation" if part < TEST_PARTS + VALIDATION_PARTS else "train"


def read_dictionary(path: Path, *, stress: bool = True) -> dict[str, list[str]]:
    """Word -> its distinct pronunciations, each its phonemes with spaces between, in the order of the file.

    Args:
        path: of a dictionary.
        stress: whether phonemes keep the digit of their stress.

    Raises:
        ValueError: as `read_lines` does; or a line has no phonemes.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith(";;;"):
            continue
        spelling, *phonemes = re.split(r"\s#", line, maxsplit=1)[0].split() or [""]
        if not spelling:
            continue
        if not phonemes:
            raise ValueError(
                f"expected a word and its phonemes in line {number} of {path}; got {spelling!r} alone: give each word "
                "its phonemes, with spaces between them"
            )
        if not stress:
            phonemes = [_STRESS.sub("", phoneme) for phoneme in phonemes]
        of_word = found.setdefault(_VARIANT.sub("", spelling), [])
        if (text := " ".join(phonemes)) not in of_word:
            of_word.append(text)
    return found


def _examples(path: Path, split: str, *, stress: bool) -> Iterator[tuple[Any, ...]]:
    """Word, pronunciation, further pronunciations: see `Pronunciations`."""
    for word, pronunciations in read_dictionary(path, stress=stress).items():
        if split_of(word) != split:
            continue
        if split == "train":
            yield from ((word, each, []) for each in pronunciations)
        else:
            first, *others = pronunciations
            yield word, first, others
