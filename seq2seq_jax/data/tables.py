"""Tables: files with one example a line and named fields, tab-separated or JSON lines."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from seq2seq_jax.data.prepared import prepare_pairs
from seq2seq_jax.data.source import PairCorpus, PairSource
from seq2seq_jax.data.text_files import find_file, read_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(PairSource):
    """Two fields of tables, UTF-8, plain or gzipped, whose kind the file's name tells.

    .tsv: the first line names the fields; tabs separate them, and quotes mean nothing. .jsonl: an object a line.
    """

    directory: str
    """Where the files are; "~" is the home directory."""
    source: str
    """Name of the source field."""
    target: str
    """Name of the target field."""
    train: str = "train.jsonl"
    """Name of the training file; found with .gz behind it, too."""
    validation: str | None = "validation.jsonl"
    """Name of the validation file; None = there is none."""
    test: str | None = "test.jsonl"
    """Name of the test file; None = there is none."""

    def open(self) -> PairCorpus:
        """Write the pairs as a dataset if that is not there yet, and open it.

        Training pairs with an empty side are left out and their number is logged.

        Raises:
            ValueError: a file is missing, empty, not UTF-8 or of an unknown kind, or a line of it is malformed, lacks
                a field, or has something other than text there.
        """
        read_splits = {
            split: functools.partial(_reader(name), find_file(self.directory, name), self.source, self.target)
            for split, name in (("train", self.train), ("validation", self.validation), ("test", self.test))
            if name is not None
        }
        return prepare_pairs(read_splits, cache_directory=self.cache_directory)


def _reader(name: str) -> Callable[[Path, str, str], Iterator[tuple[str, str]]]:
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in _READERS:
        raise ValueError(
            f"expected a file of the kind {' or '.join(_READERS)} (or the same with .gz); got {name!r}: "
            "convert or rename it"
        )
    return _READERS[suffix]


def read_tab_separated(path: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    """The pairs of a file whose first line names its tab-separated fields.

    Raises:
        ValueError: as read_lines does, or a field is missing, or a line has more or fewer fields than the first.
    """
    lines = read_lines(path)
    fields = next(lines).split("\t")
    for field in (source, target):
        if fields.count(field) != 1:
            raise ValueError(
                f"expected the field {field!r} once in line 1 of {path}; that line names the fields "
                f"{', '.join(fields)}: name one of these"
            )
    source_column, target_column = fields.index(source), fields.index(target)
    number = 1
    for number, line in enumerate(lines, start=2):
        values = line.split("\t")
        if len(values) != len(fields):
            raise ValueError(
                f"expected {len(fields)} tab-separated fields in line {number} of {path}, as line 1 "
                f"names; got {len(values)}: correct the line"
            )
        yield values[source_column], values[target_column]
    if number == 1:
        raise ValueError(
            f"expected lines of text in {path} below the names of the fields; there are none: give a file with text"
        )


def read_json_lines(path: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    """The pairs of a file with a JSON object a line.

    Raises:
        ValueError: as read_lines does, or a line is not an object that has both fields as strings.
    """
    for number, line in enumerate(read_lines(path), start=1):
        try:
            example = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"expected a JSON object in line {number} of {path}; {error.msg} at character "
                f"{error.pos + 1}: correct the line"
            ) from error
        if not isinstance(example, dict):
            raise ValueError(
                f"expected a JSON object in line {number} of {path}; got a {type(example).__name__}: "
                'write {"field": "text", ...}'
            )
        for field in (source, target):
            if field not in example:
                raise ValueError(
                    f"expected the field {field!r} in line {number} of {path}; it has "
                    f"{', '.join(example) or 'none'}: name a field that every line has"
                )
            if not isinstance(example[field], str):
                raise ValueError(
                    f"expected a string as {field!r} in line {number} of {path}; got a "
                    f"{type(example[field]).__name__}: name a field that holds text"
                )
            try:
                example[field].encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"expected Unicode text as {field!r} in line {number} of {path}; character "
                    f"{error.start + 1} is half of a surrogate pair: correct the line"
                ) from error
        yield example[source], example[target]


_READERS = {".tsv": read_tab_separated, ".jsonl": read_json_lines}
