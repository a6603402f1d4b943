"""Dataclasses overridden on the command line. Imports nothing heavy, so that a mistake is reported at once."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from seq2seq_jax.old_names import FIELDS


def split_names(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first option, such as configs and directories of runs, and the rest."""
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    return names, list(arguments[len(names) :])


def is_given(field: str, arguments: Sequence[str]) -> bool:
    """Whether a command line sets a field, whatever the value is."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    return field in (option.removeprefix("--").replace("-", "_") for option in options)


def override(experiment: Any, arguments: Sequence[str], *, program: str, description: str = "") -> Any:
    """A config dataclass with fields replaced by command-line arguments (--part.field value).

    Args:
        program: how the command was called, for messages.
        description: stands at the top of --help.

    Raises:
        ValueError: an unknown field, or a value that does not fit.
        SystemExit: status 0, after --help.
    """
    import tyro

    errors = io.StringIO()
    help_is_asked = bool({"-h", "--help"} & set(arguments))
    # tyro draws the boxes that `_one_line` opens with other characters where standard output has no UTF-8.
    output = contextlib.nullcontext() if help_is_asked else contextlib.redirect_stdout(_Utf8())
    try:
        with contextlib.redirect_stderr(errors), output, _wide_terminal(unless=help_is_asked):
            return tyro.cli(
                type(experiment),
                default=experiment,
                args=list(arguments),
                prog=program,
                description=description,
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        message = (
            _old_name(experiment, arguments)
            or _field_of_another_class(experiment, arguments)
            or _one_line(errors.getvalue())
        )
        raise ValueError(f"{message} See {program} --help.") from None


class _Utf8(io.StringIO):
    encoding = "utf-8"


@contextlib.contextmanager
def _wide_terminal(*, unless: Any) -> Iterator[None]:
    """Within, tyro lays its messages out for a terminal of 80 columns, so that `_one_line` finds no word cut in two."""
    before = os.environ.get("COLUMNS")
    if not unless:
        os.environ["COLUMNS"] = "80"
    try:
        yield
    finally:
        if before is not None:
            os.environ["COLUMNS"] = before
        elif not unless:
            del os.environ["COLUMNS"]


def _old_name(config: Any, arguments: Sequence[str]) -> str | None:
    """What is wrong with the first option that names a field as an earlier version did."""
    parts = dict(_parts(config))
    for argument in arguments:
        option = argument.partition("=")[0]
        place, _, name = option.removeprefix("--").replace("-", "_").rpartition(".")
        part, _ = parts.get(place, (None, []))
        for parent in type(part).__mro__:
            current = FIELDS.get(parent.__name__, {}).get(name)
            if option.startswith("--") and current is not None and not hasattr(part, name):
                return f"{option} is an old name: give --{place}.{current}."
    return None


def _field_of_another_class(config: Any, arguments: Sequence[str]) -> str | None:
    """What is wrong with the first option that names a field of a class which could stand where another stands."""
    parts = dict(_parts(config))
    for argument in arguments:
        option = argument.partition("=")[0]
        place, _, name = option.removeprefix("--").replace("-", "_").rpartition(".")
        part, candidates = parts.get(place, (None, []))
        owners = [each.__name__ for each in candidates if name in {field.name for field in dataclasses.fields(each)}]
        if option.startswith("--") and owners and type(part).__name__ not in owners:
            kind = type(part).__name__
            article, has = "an" if kind[0] in "AEIOU" else "a", "has" if len(owners) == 1 else "have"
            others = " and ".join(filter(None, [", ".join(owners[:-1]), owners[-1]]))
            return (
                f"{option} has no effect: {place} is {article} {kind} here, which has no {name}; {others} {has} it. "
                f"Choose a config whose {place} has it, or leave it out."
            )
    return None


def _parts(config: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, list[type]]]]:
    """Dotted name of every part of a config -> the part, and the classes that it may be of."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for name, kind in typing.get_type_hints(type(config)).items():
        part = getattr(config, name)
        if dataclasses.is_dataclass(part):
            # The fields of a part that tyro is told to give an empty name stand beside those of the whole.
            unnamed = any(getattr(note, "name", None) == "" for note in getattr(hints[name], "__metadata__", ()))
            inner = place if unnamed else f"{place}.{name}".removeprefix(".")
            yield inner, (part, dataclasses_of(kind))
            yield from _parts(part, inner)


def _one_line(box: str) -> str:
    """The message in tyro's box: its first paragraph, and the option that it thinks was meant."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    paragraphs = re.split(r"\n\n+", "\n".join(lines).strip())
    body = " ".join(paragraphs[0].splitlines()[1:] if len(paragraphs) > 1 else paragraphs[0].splitlines())
    if len(paragraphs) > 1 and len(paragraphs[0].splitlines()) == 1:
        body = " ".join(paragraphs[1].splitlines())
    meant = re.search(r"Perhaps you meant:\s+(--\S+)", " ".join(lines))
    message = " ".join(body.split()).rstrip(".") + "."
    return message + (f" Did you mean {meant[1]}?" if meant else "")


def dataclasses_of(hint: Any) -> list[type]:
    """The dataclasses that a field with this type hint may hold."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]
