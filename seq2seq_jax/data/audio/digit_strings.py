"""Strings of recorded digits: recordings of single words, put behind each other."""

import dataclasses
import functools
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int16

from seq2seq_jax.data.audio.augmentation import SoundAugmentationConfig
from seq2seq_jax.data.audio.files import as_samples, decode_audio
from seq2seq_jax.data.audio.source import Row, SpeechCorpus, SpeechSource, in_order
from seq2seq_jax.data.source import SPLITS, Corpus
from seq2seq_jax.data.tables import without_last_blanks
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.effects import changes
from seq2seq_jax.files import file_digest
from seq2seq_jax.hashing import random_words

NOISE = 3
"""Largest absolute value of the samples of silence: a microphone never gives zeros alone."""


class Recording(NamedTuple):
    """A recording of a word."""

    file: str
    speaker: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitString:
    """What a string is made of."""

    name: str
    speaker: str
    text: str
    files: tuple[str, ...]
    silences: tuple[int, ...]
    """Samples before, between and behind the files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitStrings(SpeechSource):
    """Strings of words from recordings of single words of one speaker, with faint noise between them.

    The directory has recordings.tar, and recordings.tsv with the columns split, file, speaker and text. A string to
    train on is a function of (seed, index); those to validate and to test on are in files with the columns id, speaker,
    text, files (names of recordings) and silences (samples), values separated by spaces.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the recordings are; "~" is the home directory."""
    rate: int = 8_000
    """Samples per second of the recordings."""
    train_examples: int = 10_000
    """Strings to train on."""
    validation: str | None = dataclasses.field(default="strings_dev.tsv", metadata=changes("nothing"))
    """File of the strings to validate on; None = there are none."""
    test: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """File of the strings to test on; None = there are none."""
    fewest_words: int = 3
    """Words of the shortest string to train on."""
    most_words: int = 7
    """Words of the longest."""
    longest_silence: float = 0.3
    """Seconds before, between and behind words at most; drawn evenly, from 0."""
    strings_seed: int = 0
    """Of the strings to train on."""

    augmentation: SoundAugmentationConfig = SoundAugmentationConfig()
    """What is done to training examples, otherwise in every epoch: speed, noise."""

    unit: ClassVar[str] = "sample"

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.fewest_words <= self.most_words:
            raise ValueError(
                f"data.fewest_words and most_words must ascend from 1, and are {self.fewest_words} and "
                f"{self.most_words}."
            )
        if self.train_examples < 1 or self.rate < 1 or self.longest_silence < 0.0 or self.strings_seed < 0:
            raise ValueError(
                "data.train_examples and rate must be at least 1, longest_silence and strings_seed 0; they are "
                f"{self.train_examples}, {self.rate}, {self.longest_silence:g} and {self.strings_seed}."
            )

    @property
    def values_per_second(self) -> float:
        return float(self.rate)

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Read the tables; recordings are read when they are needed.

        Raises:
            ValueError: a file is missing, or a table lacks a column or names a recording that is not there.
        """
        archive = find_file(self.directory, "recordings.tar", split="train")
        table = find_file(self.directory, "recordings.tsv", split="train")
        rows = [
            (row["split"], Recording(row["file"], row["speaker"], row["text"]))
            for row in read_table(table, ("split", "file", "speaker", "text"))
        ]
        train = tuple(recording for split, recording in rows if split == "train")
        known = {recording.file for _, recording in rows}
        files = {"validation": self.validation, "test": self.test}
        paths = {
            split: find_file(self.directory, name, split=split)
            for split, name in files.items()
            if name is not None and split in splits
        }
        strings = {split: read_strings(path, known) for split, path in paths.items()}
        if "train" in splits:
            strings["train"] = tuple(self.string(index, train) for index in range(self.train_examples))
        audio = functools.partial(_read_recordings, archive, rate=self.rate)
        order = in_order(strings)
        return SpeechCorpus(
            {split: functools.partial(_examples, strings[split], audio) for split in order},
            {split: functools.partial(_texts, strings[split]) for split in order},
            sizes={split: len(strings[split]) for split in order},
            facts={
                split: [file_digest(archive), self.rate, [dataclasses.astuple(each) for each in strings[split]]]
                for split in order
            },
        )

    def string(self, index: int, recordings: Sequence[Recording]) -> DigitString:
        """The string to train on of an index: a function of the seed, the index and the recordings.

        Args:
            recordings: that it is made of.
        """
        of_speakers = _by_speaker(tuple(recordings))
        key = np.array([self.strings_seed * 2**32 + index], np.uint64)
        [words] = random_words(key, 2 + 2 * self.most_words + 1)
        draws = (words >> np.uint64(11)).astype(np.float64) / 2**53
        speaker = sorted(of_speakers)[int(draws[0] * len(of_speakers))]
        number = self.fewest_words + int(draws[1] * (self.most_words - self.fewest_words + 1))
        own = of_speakers[speaker]
        chosen = [own[int(draw * len(own))] for draw in draws[2 : 2 + number]]
        longest = round(self.longest_silence * self.rate)
        silences = [int(draw * (longest + 1)) for draw in draws[2 + self.most_words :][: number + 1]]
        return DigitString(
            name=f"train_{index}",
            speaker=speaker,
            text=" ".join(each.text for each in chosen),
            files=tuple(each.file for each in chosen),
            silences=tuple(silences),
        )


@functools.lru_cache(maxsize=4)
def _by_speaker(recordings: tuple[Recording, ...]) -> dict[str, list[Recording]]:
    found: dict[str, list[Recording]] = {}
    for each in recordings:
        found.setdefault(each.speaker, []).append(each)
    return found


def spoken(string: DigitString, recordings: Mapping[str, np.ndarray]) -> Int16[np.ndarray, "samples"]:
    """The samples of a string: its recordings, and noise of at most NOISE between them, a function of its name.

    Args:
        recordings: samples by the name of the file.
    """
    total = sum(string.silences)
    key = np.frombuffer(string.name.encode().ljust(8, b"\0")[-8:], "<u8").astype(np.uint64)
    # Eight samples of each word.
    [words] = random_words(key, total // 8 + 1)
    noise = (words.view(np.uint8)[:total] % (2 * NOISE + 1)).astype(np.int16) - NOISE
    parts, begin = [], 0
    for silence, file in zip(string.silences, (*string.files, None), strict=True):
        parts.append(noise[begin : begin + silence])
        begin += silence
        if file is not None:
            parts.append(recordings[file])
    return np.concatenate(parts)


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a file with tab-separated columns, whose names are in line 1; blank last lines are passed over.

    Raises:
        ValueError: a column is missing or there twice, or a line has another number of values.
    """
    lines = read_lines(path)
    names = next(lines, "").split("\t")
    for column in columns:
        if names.count(column) != 1:
            raise ValueError(
                f"expected a column {column!r} once in line 1 of {path}; it has {', '.join(names)}: name the columns "
                "there"
            )
    for number, line in without_last_blanks(lines, first=2):
        values = line.split("\t")
        if len(values) != len(names):
            raise ValueError(
                f"expected {len(names)} values, separated by tabs, in line {number} of {path}; got {len(values)}: "
                "correct it"
            )
        yield dict(zip(names, values, strict=True))


def read_strings(path: Path, known: Collection[str]) -> tuple[DigitString, ...]:
    """The strings of a file.

    Raises:
        ValueError: a line names a recording that is not there, or its silences are no numbers, or not one more.
    """
    found = []
    rows = read_table(path, ("id", "speaker", "text", "files", "silences"))
    for number, row in enumerate(rows, start=2):
        files, silences = row["files"].split(), row["silences"].split()
        for file in files:
            if file not in known:
                raise ValueError(
                    f"line {number} of {path} names {file}, which recordings.tsv does not have: correct it"
                )
        if len(silences) != len(files) + 1 or not all(each.isdecimal() for each in silences):
            raise ValueError(
                f"expected {len(files) + 1} numbers of samples as silences in line {number} of {path}; got "
                f"{row['silences']!r}: correct it"
            )
        found.append(
            DigitString(
                name=row["id"],
                speaker=row["speaker"],
                text=row["text"],
                files=tuple(files),
                silences=tuple(map(int, silences)),
            )
        )
    return tuple(found)


@functools.lru_cache(maxsize=1)
def _read_recordings(archive: Path, *, rate: int) -> dict[str, np.ndarray]:
    """Samples of all recordings, by name."""
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    name = f"{member.name} in {archive}"
                    samples, own_rate = decode_audio(tar.extractfile(member).read(), name)
                    if own_rate != rate or samples.shape[1] != 1:
                        raise ValueError(
                            f"expected one channel of {rate} samples per second in {name}; got {samples.shape[1]} of "
                            f"{own_rate}: set data.rate, or convert it"
                        )
                    found[member.name.removeprefix("./")] = as_samples(samples, name)
    except UNREADABLE_TAR as error:
        raise damaged_tar(archive, error) from error
    return found


UNREADABLE_TAR = (tarfile.TarError, OSError, EOFError, zlib.error)
"""What reading a damaged tar file raises, gzipped or not."""


def damaged_tar(archive: Path, error: Exception) -> ValueError:
    """What is to be said of one, on a line."""
    return ValueError(f"{archive} is no whole tar file ({' '.join(str(error).split())}): copy it again")


def _examples(strings: Sequence[DigitString], audio) -> Iterator[Row]:
    recordings = audio()
    for string in strings:
        for file in string.files:
            if file not in recordings:
                raise ValueError(f"recordings.tar has no {file}, which the string {string.name} needs: copy it again")
        yield spoken(string, recordings)[:, None], string.text, string.speaker, string.name


def _texts(strings: Sequence[DigitString]) -> Iterator[tuple[str, str, str]]:
    return ((string.text, string.speaker, string.name) for string in strings)
