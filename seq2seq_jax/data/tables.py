"""Tables: files with one example per line and named fields, tab-separated or JSON lines."""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from seq2seq_jax.data.source import SPLITS, Corpus, PairSource, SplitFiles
from seq2seq_jax.data.templates import Template
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.data.texts import pairs
from seq2seq_jax.effects import changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(SplitFiles, PairSource):
    """Two fields of tables, UTF-8, plain or gzipped, whose kind the file's name tells.

    .tsv: the first line names the fields; tabs separate them, and quotes mean nothing. .jsonl: an object a line.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the files are; "~" is the home directory."""
    source: str = dataclasses.field(metadata=changes("nothing"))
    """Name of the source field, or a text with the names of several in braces:
    "{service} [state] {state} [user] {turn}"."""
    target: str = dataclasses.field(metadata=changes("nothing"))
    """Name of the target field, or a text with the names of several in braces."""
    train: str = dataclasses.field(default="train.jsonl", metadata=changes("nothing"))
    """Name of the training file; found with .gz behind it, too."""
    validation: str | None = dataclasses.field(default="validation.jsonl", metadata=changes("nothing"))
    """Name of the validation file; None = there is none."""
    test: str | None = dataclasses.field(default="test.jsonl", metadata=changes("nothing"))
    """Name of the test file; None = there is none."""
    references: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Name of a field of the validation and test files with further references, a text or a list of texts, which
    outputs are scored with beside the target; None = there is none."""
    separator: str = dataclasses.field(default=" ", metadata=changes("nothing"))
    """Between the texts of a field that holds a list, where several fields make a text."""
    validation_sets: tuple[str, ...] = dataclasses.field(default=(), metadata=changes("nothing"))
    """Names of further validation files: each is a set of its own, which records, plots and training.select_by name."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("source", "target"):
            try:
                Template.parse(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"data.{name}: {error}.") from error

    @property
    def list_separator(self) -> str:
        return self.separator

    def field_of(self, column: str) -> str | None:
        return {"source": self.source, "target": self.target, "references": self.references}.get(column)

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Training pairs with an empty side are left out and their number is logged.

        Raises:
            ValueError: a file is missing, empty, not UTF-8 or of an unknown kind, or a line of it is malformed, lacks
                a field, or has something other than text there.
        """
        return pairs(
            {
                split: functools.partial(
                    self._read, _reader(name), find_file(self.directory, name, split=split), is_scored=split != "train"
                )
                for split, name in self.names_of_files.items()
                if split in splits
            },
            further_columns=() if self.references is None else ("references",),
        )

    def _read(self, read: "ReadFields", path: Path, *, is_scored: bool) -> Iterator[tuple[Any, ...]]:
        fields = (self.source, self.target)
        read = functools.partial(read, separator=self.list_separator)
        if self.references is None:
            return read(read_lines(path), str(path), fields)
        if is_scored:
            return read(read_lines(path), str(path), (*fields, self.references), several=(self.references,))
        # Nothing is trained on further references.
        return ((*pair, []) for pair in read(read_lines(path), str(path), fields))

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target") if self.references is None else ("source", "target", "references")


ReadFields = Callable[..., Iterator[tuple[Any, ...]]]
"""Takes lines, the name of their file for messages, and fields, each the name of one or a template of several (see
`Template.parse`), `several` being those that may hold a list of texts; gives the fields' texts of each example, and
with `whole` behind them a dictionary of all its fields."""


def _reader(name: str) -> ReadFields:
    suffix = suffix_of(name)
    if suffix not in READERS:
        raise ValueError(
            f"expected a file of the kind {' or '.join(READERS)} (or the same with .gz); got {name!r}: "
            "convert or rename it"
        )
    return READERS[suffix]


def suffix_of(name: str) -> str:
    """The ending that tells what a file holds, gzipped or not."""
    return Path(name.removesuffix(".gz")).suffix


def read_tab_separated(
    lines: Iterator[str],
    name: str,
    fields: tuple[str, ...],
    *,
    several: Collection[str] = (),
    separator: str = " ",
    whole: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """Some fields of lines of which the first names the tab-separated fields; blank last lines are passed over.

    Args:
        name: of the file, for messages.
        several: makes no difference here.
        separator: makes no difference here.
        whole: see `ReadFields`.

    Raises:
        ValueError: as the lines do, or a field is missing, or a line has more or fewer fields than the first, or there
            is none below it.
    """
    header = next(lines, "").split("\t")
    templates = [Template.parse(field) for field in fields]
    names = _names(templates)
    for field in names:
        if header.count(field) != 1:
            raise ValueError(
                f"expected the field {field!r} once in line 1 of {name}; that line names the fields "
                f"{', '.join(header)}: name one of these"
            )
    columns = {field: header.index(field) for field in names}
    number = 1
    # Of a single field, a line without a character is an empty text.
    for number, line in enumerate(lines, start=2) if len(header) == 1 else without_last_blanks(lines, first=2):
        values = line.split("\t")
        if len(values) != len(header):
            raise ValueError(
                f"expected {len(header)} tab-separated fields in line {number} of {name}, as line 1 "
                f"names; got {len(values)}: correct the line"
            )
        example = {field: values[column] for field, column in columns.items()}
        filled = [template.fill(example) for template in templates]
        yield (*filled, dict(zip(header, values, strict=True))) if whole else tuple(filled)
    if number == 1:
        raise ValueError(
            f"expected lines of text in {name} below the names of the fields; there are none: give a file with text"
        )


def read_json_lines(
    lines: Iterator[str],
    name: str,
    fields: tuple[str, ...],
    *,
    several: Collection[str] = (),
    separator: str = " ",
    whole: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """Some fields of lines with a JSON object each; blank last lines are passed over.

    Args:
        name: of the file, for messages.
        several: fields that may hold a list of texts, beside those of templates.
        separator: between the texts of a list in a template.
        whole: see `ReadFields`.

    Raises:
        ValueError: as the lines do, or a line is not an object that has the fields as strings.
    """
    templates = [Template.parse(field) for field in fields]
    names = _names(templates)
    several = {*several, *(field for each in templates if each.literals is not None for field in each.names)}
    for number, example in json_lines(lines, name):
        for field in names:
            if field not in example:
                raise ValueError(
                    f"expected the field {field!r} in line {number} of {name}; it has "
                    f"{', '.join(example) or 'none'}: name a field that every line has"
                )
            texts = [example[field]]
            if field in several and isinstance(example[field], list):
                texts = example[field]
            for text in texts:
                check_text(text, field, number, name)
        filled = [template.fill(example, separator=separator) for template in templates]
        yield (*filled, example) if whole else tuple(filled)


def json_lines(lines: Iterator[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of lines with a JSON object each, with their numbers from 1; blank last lines are passed over.

    Args:
        lines: of the file.
        name: of the file, for messages.

    Raises:
        ValueError: as the lines do, or a line is no JSON object.
    """
    for number, line in without_last_blanks(lines, first=1):
        yield number, _json_object(line, number, name)


def _names(templates: list[Template]) -> list[str]:
    """Of all fields, each once."""
    return list(dict.fromkeys(name for template in templates for name in template.names))


def check_text(text: Any, field: str, number: int, name: str) -> None:
    """Refuse what is no text.

    Raises:
        ValueError: it names the field, the line and the file.
    """
    if not isinstance(text, str):
        raise ValueError(
            f"expected a string as {field!r} in line {number} of {name}; got a {type(text).__name__}: name a field "
            "that holds text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected Unicode text as {field!r} in line {number} of {name}; character {error.start + 1} is half of a "
            "surrogate pair: correct the line"
        ) from error


def _json_object(line: str, number: int, name: str) -> dict[str, Any]:
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = (
            f"{error.msg} at character {error.pos + 1}"
            if isinstance(error, json.JSONDecodeError)
            else "it nests too deeply, or holds too long a number"
        )
        raise ValueError(f"expected a JSON object in line {number} of {name}; {what}: correct the line") from error
    if not isinstance(example, dict):
        raise ValueError(
            f"expected a JSON object in line {number} of {name}; got a {type(example).__name__}: "
            'write {"field": "text", ...}'
        )
    return example


def without_last_blanks(lines: Iterator[str], *, first: int) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from `first`; those of spaces alone at the end are left out, not those between."""
    blanks = []
    for number, line in enumerate(lines, start=first):
        if not line.strip(" "):
            blanks.append((number, line))
            continue
        yield from blanks
        blanks.clear()
        yield number, line


READERS: dict[str, ReadFields] = {".tsv": read_tab_separated, ".jsonl": read_json_lines}
"""By the ending of a file's name."""


def fields_of(line: str) -> list[str]:
    """Names of the fields if a line is a JSON object; none if it is not."""
    if not line.lstrip().startswith("{"):
        return []
    try:
        return list(json.loads(line))
    except (ValueError, RecursionError):
        return []
