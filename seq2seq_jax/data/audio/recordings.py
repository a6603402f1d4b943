"""Recordings, and manifests that say what is spoken in them."""

import dataclasses
import functools
import logging
import tarfile
import threading
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from seq2seq_jax.data.audio.augmentation import SoundAugmentationConfig
from seq2seq_jax.data.audio.digit_strings import UNREADABLE_TAR, damaged_tar, read_table
from seq2seq_jax.data.audio.files import MISSING_SECONDS, as_samples, decode_audio, read_audio, to_int16
from seq2seq_jax.data.audio.resampling import resample
from seq2seq_jax.data.audio.source import Row, SpeechCorpus, SpeechSource, in_order
from seq2seq_jax.data.source import SPLITS, Corpus
from seq2seq_jax.data.tables import check_text, json_lines
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.effects import changes

logger = logging.getLogger(__name__)

MARKED_BYTES = 4096
"""Of the middle of a file, which distinguish it from another of its size; all are not read again at every start."""


class Entry(NamedTuple):
    """A row of a manifest."""

    file: str
    """Path, or member of the archive."""
    text: str
    speaker: str
    name: str
    begin: float | None
    """Seconds; None = from the beginning."""
    end: float | None
    """Seconds; None = to the end."""
    line: int
    """In the manifest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recordings(SpeechSource):
    """Audio files, or members of a tar file, and manifests of them: tables with tabs (.tsv) or JSON lines (.jsonl).

    A row has file and text, and may have speaker, id, and begin and end (seconds of the file). Files are those in the
    manifest's directory, or in the archive. Their samples are kept in the cache, as 16 bits.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the manifests and the archive are; "~" is the home directory."""
    rate: int = 16_000
    """Samples per second that the model reads."""
    archive: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Name of a tar file that holds the audio files; None = they are files."""
    train: str = dataclasses.field(default="train.tsv", metadata=changes("nothing"))
    """Name of the manifest of the training split; NAME:SPLIT = its rows that have SPLIT in the column split."""
    validation: str | None = dataclasses.field(default="validation.tsv", metadata=changes("nothing"))
    """Likewise of the validation split; None = there is none."""
    test: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Likewise of the test split; None = there is none."""
    other_rates: Literal["refuse", "resample"] = "refuse"
    """What happens to a file with another rate."""
    channels: Literal["refuse", "mean"] = "refuse"
    """What happens to a file with several channels."""
    lowercase: bool = False
    """Whether texts are lowercased."""

    augmentation: SoundAugmentationConfig = SoundAugmentationConfig()
    """What is done to training examples, otherwise in every epoch: speed, noise."""

    unit: ClassVar[str] = "sample"

    def __post_init__(self):
        super().__post_init__()
        if self.rate < 1:
            raise ValueError(f"data.rate must be at least 1 sample per second, not {self.rate}.")

    @property
    def values_per_second(self) -> float:
        return float(self.rate)

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Read the manifests; audio is read when it is needed.

        Raises:
            ValueError: a file is missing, or a row of a manifest lacks a value or has a wrong one.
        """
        names = {"train": self.train, "validation": self.validation, "test": self.test}
        archive = None if self.archive is None else find_file(self.directory, self.archive, split="train")
        entries = {}
        for split, name in names.items():
            if name is not None and split in splits:
                entries[split] = (self._path(name, split), self._entries(name, split))
        files = _Files(archive)
        order = in_order(entries)
        for split in order:
            files.check(*entries[split])
        return SpeechCorpus(
            {split: functools.partial(self._examples, files, *entries[split]) for split in order},
            {split: functools.partial(_texts, entries[split][1]) for split in order},
            sizes={split: len(entries[split][1]) for split in order},
            facts={
                split: [
                    self.rate,
                    self.other_rates,
                    self.channels,
                    [[*entry, *files.mark(entries[split][0], entry)] for entry in entries[split][1]],
                ]
                for split in order
            },
        )

    def _path(self, name: str, split: str) -> Path:
        return find_file(self.directory, name.partition(":")[0], split=split)

    def _entries(self, name: str, split: str) -> list[Entry]:
        path, part = self._path(name, split), name.partition(":")[2]
        found = []
        for line, row in read_manifest(path):
            if part and row.get("split") != part:
                continue
            text = row["text"].lower() if self.lowercase else row["text"]
            begin, end = seconds_in(row, path, line)
            file = row["file"]
            found.append(Entry(file, text, row.get("speaker", ""), row.get("id") or file, begin, end, line))
        if not found and part:
            raise ValueError(f"no row of {path} has {part!r} in the column split: name another, or leave it out")
        return found

    def _examples(self, files: "_Files", manifest: Path, entries: list[Entry]) -> Iterator[Row]:
        for entry in entries:
            where = f"line {entry.line} of {manifest}: "
            try:
                yield self._frames(*files.read(manifest, entry), entry), entry.text, entry.speaker, entry.name
            except ValueError as error:
                raise ValueError(f"{where}{error}") from error

    def _frames(self, samples: np.ndarray, rate: int, entry: Entry) -> np.ndarray:
        name = entry.file
        if samples.shape[1] != 1 and self.channels == "refuse":
            raise ValueError(
                f"{name} has {samples.shape[1]} channels, and one is expected: convert it, or set data.channels to mean"
            )
        if rate != self.rate and self.other_rates == "refuse":
            raise ValueError(
                f"{name} has {rate:,} samples per second, and {self.rate:,} are expected: convert it, or set "
                "data.other_rates to resample"
            )
        part = as_samples(part_of(samples, float(rate), entry.begin, entry.end, name=name), name)
        part = part if rate == self.rate else to_int16(resample(part, up=self.rate, down=rate))
        return part[:, None]


def read_manifest(path: Path, *, needed: tuple[str, ...] = ("file", "text")) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line, and values by name, of each row of a manifest.

    Args:
        needed: names that every row has.

    Raises:
        ValueError: it is of another kind, or a row lacks a value.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".tsv":
        yield from enumerate(read_table(path, needed), start=2)
        return
    if suffix != ".jsonl":
        raise ValueError(f"expected a manifest that is a .tsv or a .jsonl file; got {path}: rename or convert it")
    for line, row in json_lines(read_lines(path), str(path)):
        for name in needed:
            check_text(row.get(name), name, line, str(path))
        yield line, {name: str(value) for name, value in row.items() if value is not None}


def seconds_in(row: dict[str, str], path: Path, line: int) -> tuple[float | None, float | None]:
    """Where a row begins and ends, in seconds; None = it does not say.

    Raises:
        ValueError: they are no seconds, or do not ascend.
    """
    begin, end = (_seconds(row, column, path, line) for column in ("begin", "end"))
    if begin is not None and end is not None and begin >= end:
        raise ValueError(f"line {line} of {path} begins at {begin:g} s and ends at {end:g}: correct it")
    return begin, end


def _seconds(row: dict[str, str], column: str, path: Path, line: int) -> float | None:
    value = row.get(column)
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < 1e9:
        raise ValueError(f"expected seconds as {column} in line {line} of {path}; got {value!r}: correct it")
    return seconds


def part_of(values: np.ndarray, rate: float, begin: float | None, end: float | None, *, name: str) -> np.ndarray:
    """The samples or frames from one second to another.

    Args:
        values: in order of time.
        rate: of them per second.
        begin, end: seconds; None = the first and the last.
        name: for messages.

    Raises:
        ValueError: there is less.
    """
    first, last = (None if time is None else round(time * rate) for time in (begin, end))
    if (first is not None and first >= len(values)) or (last or 0) > len(values) + MISSING_SECONDS * rate:
        raise ValueError(
            f"{name} has {len(values) / rate:.2f} seconds, and the part from {begin or 0:g} to "
            f"{'its end' if end is None else f'{end:g}'} is named: is it cut short?"
        )
    return values[first:last]


class _Files:
    """Audio files beside a manifest, or in a tar file."""

    def __init__(self, archive: Path | None):
        self._archive = archive
        self._lock = threading.Lock()
        self._last: tuple[Any, tuple[np.ndarray, int]] | None = None
        self._marks: dict[Path, tuple[int, int]] = {}

    @functools.cached_property
    def _tar(self) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
        try:
            tar = tarfile.open(self._archive)  # noqa: SIM115
            return tar, {member.name.removeprefix("./"): member for member in tar if member.isfile()}
        except UNREADABLE_TAR as error:
            raise damaged_tar(self._archive, error) from error

    def size(self, manifest: Path, entry: Entry) -> int:
        """Bytes of a file.

        Raises:
            ValueError: there is none.
        """
        if self._archive is not None:
            if entry.file not in self._tar[1]:
                raise ValueError(f"line {entry.line} of {manifest} names {entry.file}, which {self._archive} has not")
            return self._tar[1][entry.file].size
        path = manifest.parent / entry.file
        if not path.is_file():
            raise ValueError(f"line {entry.line} of {manifest} names {path}, and there is no such file: correct it")
        return path.stat().st_size

    def mark(self, manifest: Path, entry: Entry) -> tuple[int, int]:
        """What distinguishes a file from one that it replaces: its number of bytes, and a checksum of its middle; for a
        member of a tar file its time instead.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        size = self.size(manifest, entry)
        if self._archive is not None:
            return size, int(self._tar[1][entry.file].mtime)
        path = manifest.parent / entry.file
        if path not in self._marks:
            try:
                with path.open("rb") as file:
                    file.seek(max(0, size - MARKED_BYTES) // 2)
                    self._marks[path] = size, zlib.crc32(file.read(MARKED_BYTES))
            except OSError as error:
                raise ValueError(
                    f"line {entry.line} of {manifest} names {path}, which cannot be read ({error.strerror}): correct it"
                ) from error
        return self._marks[path]

    def check(self, manifest: Path, entries: list[Entry]) -> None:
        """Refuse a manifest with files that are not there, with the first of them and their number."""
        missing = []
        for entry in entries:
            try:
                self.size(manifest, entry)
            except ValueError as error:
                missing.append(error)
        if missing:
            more = f" ({len(missing)} of {len(entries)} files are missing)" if len(missing) > 1 else ""
            raise ValueError(f"{missing[0]}{more}")

    def read(self, manifest: Path, entry: Entry) -> tuple[np.ndarray, int]:
        """Samples and rate of a file; of rows one after the other that name one file, it is read once."""
        key = manifest.parent, entry.file
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        if self._archive is None:
            found = read_audio(manifest.parent / entry.file)
        else:
            tar, members = self._tar
            with self._lock:
                data = tar.extractfile(members[entry.file]).read()
            found = decode_audio(data, f"{entry.file} in {self._archive}")
        self._last = key, found
        return found


def _texts(entries: list[Entry]) -> Iterator[tuple[str, str, str]]:
    return ((entry.text, entry.speaker, entry.name) for entry in entries)
