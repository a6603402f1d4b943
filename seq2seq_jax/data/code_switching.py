"""Code-switching: some words of the sources of parallel text in the target language, by a dictionary."""

import dataclasses
import functools
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from seq2seq_jax.data.source import SPLITS, Corpus
from seq2seq_jax.data.text_files import ParallelText, find_file, read_lines, read_parallel
from seq2seq_jax.data.texts import pairs
from seq2seq_jax.effects import changes
from seq2seq_jax.hashing import mixed_64, uniform_numbers

WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeSwitching(ParallelText):
    """Parallel text with words of the training sources replaced by translations, a function of seed and line.

    Source: Yang et al. 2020, "CSP: Code-Switching Pre-training for Neural Machine Translation", section 3.
    """

    dictionary: str = dataclasses.field(metadata=changes("nothing"))
    """File in the directory with a word, a tab and its translation per line; a word may have several lines."""
    switched: float = 0.3
    """Probability that a word that the dictionary has is replaced, in (0, 1]."""
    seed: int = 0
    """Of the words that are replaced."""

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 < self.switched <= 1.0:
            raise ValueError(f"data.switched must lie in (0, 1], and is {self.switched}.")

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Raises:
            ValueError: see `ParallelText.open`; or a line of the dictionary is no pair.
        """
        translations = read_dictionary(find_file(self.directory, self.dictionary, split="train"))
        read = {}
        for split, name in self.names_of_files.items():
            if split in splits:
                source, target = (
                    find_file(self.directory, f"{name}.{side}", split=split) for side in (self.source, self.target)
                )
                read[split] = functools.partial(self._read, source, target, split, translations)
        return pairs(read)

    def _read(
        self, source: Path, target: Path, split: str, translations: dict[str, list[str]]
    ) -> Iterator[tuple[str, str]]:
        for index, (text, translation) in enumerate(read_parallel(source, target)):
            if split == "train":
                text = switched(text, translations, self.switched, key=_key(self.seed, index))
            yield text, translation


def read_dictionary(path: Path) -> dict[str, list[str]]:
    """Word in lower case -> its translations.

    Raises:
        ValueError: a line is not a word, a tab and a translation.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), 1):
        word, tab, translation = line.partition("\t")
        if not word.strip() or not tab or not translation.strip():
            raise ValueError(
                f"expected a word, a tab and its translation in line {number} of {path}; got {line[:60]!r}: correct it"
            )
        found.setdefault(word.strip().lower(), []).append(translation.strip())
    return found


def switched(text: str, translations: dict[str, list[str]], probability: float, *, key: int) -> str:
    """A text with some of its words replaced; a capital stays one.

    Args:
        probability: that a word which has translations is replaced.
        key: decides which, and by which of its translations.
    """
    draws = uniform_numbers(key)
    parts, end = [], 0
    for word in WORD.finditer(text):
        draw, choice = next(draws), next(draws)
        options = translations.get(word[0].lower())
        if options and draw <= probability:
            chosen = options[min(int(choice * len(options)), len(options) - 1)]
            parts += [text[end : word.start()], chosen[:1].upper() + chosen[1:] if word[0][0].isupper() else chosen]
            end = word.end()
    return "".join([*parts, text[end:]])


def _key(seed: int, index: int) -> int:
    keys = np.array([[seed + 1], [index + 1]], np.uint64)
    return int(mixed_64(keys[0] ^ mixed_64(keys[1]))[0])
