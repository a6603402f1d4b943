"""Controls of single lines: prefixes and phrases, from files or from fields of the input."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from seq2seq_jax.commands.sources import Source
from seq2seq_jax.data.lines import Input, open_input
from seq2seq_jax.generation.controls import LineControls, phrases_of


class LineControlsInput(NamedTuple):
    """Where prefixes and phrases come from."""

    attach: Callable[[Iterator[Source]], Iterator[Source]]
    """Gives sources with their controls; from a pipe once."""
    may_wait: bool
    """Whether a file is a pipe."""


@contextlib.contextmanager
def open_line_controls(
    *, prefixes: str | None, phrases: str | None, prefix_field: str | None, phrases_field: str | None, max_bytes: int
) -> Iterator[LineControlsInput | None]:
    """Open the files that prefixes and phrases are read from; None = no line has any.

    Args:
        prefixes: file with a line per source.
        phrases: likewise, with phrases separated by tabs.
        prefix_field: name of the field of a source's example that holds its prefix.
        phrases_field: name of the field that holds its phrases: a text, or a list of texts.
        max_bytes: of a line.

    Raises:
        ValueError: a file cannot be read.
    """
    with contextlib.ExitStack() as opened:
        paths = {"prefixes": prefixes, "phrases": phrases}
        files = {
            name: opened.enter_context(open_input(path, max_bytes=max_bytes))
            for name, path in paths.items()
            if path is not None
        }
        fields = {name: field for name, field in (("prefix", prefix_field), ("phrases", phrases_field)) if field}
        if files:
            yield LineControlsInput(
                lambda sources: _from_files(sources, files), any(file.may_wait for file in files.values())
            )
        elif fields:
            yield LineControlsInput(lambda sources: _from_fields(sources, fields), may_wait=False)
        else:
            yield None


def _from_files(sources: Iterator[Source], files: dict[str, Input]) -> Iterator[Source]:
    """Raises: ValueError: a file has more or fewer lines than there are sources, or a phrase is blank."""
    lines = {name: file.lines() for name, file in files.items()}
    number = 0
    for number, source in enumerate(sources, 1):
        found = {name: next(each, None) for name, each in lines.items()}
        for name, line in found.items():
            if line is None:
                raise ValueError(
                    f"--{name} {files[name].name} has {number - 1} lines, and there are more sources: give a line for "
                    "each source, an empty one where there is none."
                )
        phrases = found.get("phrases") or None
        yield _with(source, number, found.get("prefixes") or "", () if phrases is None else phrases.split("\t"))
    for name, each in lines.items():
        if next(each, None) is not None:
            raise ValueError(
                f"--{name} {files[name].name} has more lines than there are sources, {number}: give a line for each."
            )


def _from_fields(sources: Iterator[Source], fields: dict[str, str]) -> Iterator[Source]:
    """Raises: ValueError: an example lacks a field, or it holds something else than text."""
    for number, source in enumerate(sources, 1):
        found: dict[str, Any] = {"prefix": "", "phrases": ()}
        for name, field in fields.items():
            if source.fields is None or field not in source.fields:
                raise ValueError(
                    f"expected the field {field!r} (--{name}-field) in line {number}; it has "
                    f"{', '.join(source.fields or ()) or 'no other field'}: name a field that every line has."
                )
            value = source.fields[field]
            try:
                found[name] = phrases_of(value) if name == "phrases" else _prefix(value)
            except ValueError as error:
                raise ValueError(f"{field!r} (--{name}-field) in line {number}: {error}. Correct it.") from error
        yield _with(source, number, found["prefix"], found["phrases"])


def _prefix(value: Any) -> str:
    if not isinstance(value, str | None):
        raise ValueError(f"expected a text, and got {value!r}")
    return value or ""


def _with(source: Source, number: int, prefix: str, phrases: Any) -> Source:
    try:
        return dataclasses.replace(source, controls=LineControls(prefix=prefix, phrases=tuple(phrases)))
    except ValueError as error:
        raise ValueError(f"line {number}: {error}.") from error
