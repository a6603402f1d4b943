"""Dataclasses overridden on the command line. Imports nothing heavy, so that a mistake is reported at once."""

import contextlib
import copy
import dataclasses
import io
import itertools
import os
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from seq2seq_jax.old_names import FIELDS, MOVED


def split_names(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before the first option, such as configs and directories of runs, and the rest."""
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    return names, list(arguments[len(names) :])


def is_given(field: str, arguments: Sequence[str]) -> bool:
    """Whether a command line sets a field, whatever the value is."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    return field in (option.removeprefix("--").replace("-", "_") for option in options)


def values_of_option(field: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """What a command line gives after --FIELD, for an option that must be known before the others can be read."""
    for index, argument in enumerate(arguments):
        option, assigned, value = argument.partition("=")
        if option.startswith("--") and option.removeprefix("--").replace("-", "_") == field:
            following = itertools.takewhile(lambda given: not given.startswith("--"), arguments[index + 1 :])
            return (value,) if assigned else tuple(following)
    return ()


def override(experiment: Any, arguments: Sequence[str], *, program: str, description: str = "") -> Any:
    """A config dataclass with fields replaced by command-line arguments (--part.field value).

    Where a part may be of several classes, `--part name` replaces it by one of another class (`BeamSearch` is
    beam_search), which keeps the fields that both have.

    Args:
        program: how the command was called, for messages.
        description: stands at the top of --help.

    Raises:
        ValueError: an unknown field, or a value that does not fit.
        SystemExit: status 0, after --help.
    """
    import tyro

    experiment, arguments = _with_classes(experiment, arguments)
    errors, refused = io.StringIO(), []
    help_is_asked = bool({"-h", "--help"} & set(arguments))
    if help_is_asked:
        description += _missing_parts(experiment)
    # tyro draws the boxes that `_one_line` opens with other characters where standard output has no UTF-8.
    output = contextlib.nullcontext() if help_is_asked else contextlib.redirect_stdout(_Utf8())
    try:
        with (
            contextlib.redirect_stderr(errors),
            output,
            _wide_terminal(unless=help_is_asked),
            warnings.catch_warnings(),
        ):
            # A part of a class from outside the package is not listed by its field; tyro takes its class as it is.
            warnings.filterwarnings("ignore", ".* does not match any type in Union")
            return tyro.cli(
                type(experiment),
                default=experiment,
                args=list(arguments),
                prog=program,
                description=description,
                use_underscores=True,
                registry=_named_values(refused.append),
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        message = (
            "".join(refused[:1])
            or _old_name(experiment, arguments)
            or _field_of_another_class(experiment, arguments)
            or _one_line(errors.getvalue())
        )
        raise ValueError(f"{message} See {program} --help.") from None


def option_name(kind: type) -> str:
    """How the command line names a class of a part: BeamSearch is beam_search, RecurrentEncoderConfig
    recurrent_encoder.
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__.removesuffix("Config")).lower()


def _with_classes(config: Any, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The config with parts of the classes that a command line names, and what else that says.

    Raises:
        ValueError: no such class, or one that needs values which the part does not have.
    """
    rest, given = [], iter(arguments)
    for argument in given:
        option, assigned, value = argument.partition("=")
        place = option.removeprefix("--").replace("-", "_")
        part, candidates = dict(_parts(config)).get(place, (None, []))
        if not option.startswith("--") or len(candidates) < (1 if part is None else 2):
            rest.append(argument)
            continue
        name = value if assigned else next(given, "")
        kinds = {option_name(kind): kind for kind in candidates}
        if name.replace("-", "_") not in kinds:
            raise ValueError(f"{option} must be one of {', '.join(kinds)}, and is {name!r}.")
        config = _replaced(config, place.split("."), _converted(part, kinds[name.replace("-", "_")], option))
    return config, rest


def _converted(part: Any, kind: type, option: str) -> Any:
    """A part, or None, as one of another class, with the fields that both have."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    own = () if part is None else dataclasses.fields(part)
    common = {field.name: getattr(part, field.name) for field in own if field.name in fields}
    needed = [
        name
        for name, field in fields.items()
        if name not in common and dataclasses.MISSING is field.default is field.default_factory
    ]
    if needed:
        raise ValueError(
            f"{option} {option_name(kind)} needs {needed[0]}, which has no default: write a config that has it."
        )
    return part if type(part) is kind else kind(**common)


def _replaced(config: Any, path: Sequence[str], part: Any) -> Any:
    """The config with another part at a path of field names.

    Whether the parts fit each other is checked when the values that follow are known too, which may be what makes them
    fit.
    """
    if not path:
        return part
    name, rest = (path[0], path[1:]) if hasattr(config, path[0]) else (_unnamed(config)[0], path)
    changed = copy.copy(config)
    object.__setattr__(changed, name, _replaced(getattr(config, name), rest, part))
    return changed


def _named_values(refuse: Callable[[str], None]) -> Any:
    """What makes options of classes that a single word names: those with `from_text`, which `str` undoes.

    Args:
        refuse: takes what is wrong with a word, which tyro does not pass on where a field may be None, too.
    """
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    def make(kind: Any, word: str) -> Any:
        try:
            return kind.from_text(word)
        except ValueError as error:
            refuse(str(error))
            raise

    @registry.primitive_rule
    def from_text(info: Any) -> Any:
        kind = info.type
        if not isinstance(kind, type) or not hasattr(kind, "from_text"):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda words: make(kind, words[0]),
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


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
        for old, (new, _) in itertools.chain.from_iterable(moved.items() for moved in MOVED.values()):
            path = option.removeprefix("--").replace("-", "_")
            if option.startswith("--") and f"{path}.".startswith(f"{old}."):
                return f"{option} is an old name: give --{new}{path.removeprefix(old)}."
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
            if part is None:
                return f"{option} has no effect without {place}: add it with --{place} {option_name(candidates[0])}."
            kind = type(part).__name__
            article, has = "an" if kind[0] in "AEIOU" else "a", "has" if len(owners) == 1 else "have"
            others = " and ".join(filter(None, [", ".join(owners[:-1]), owners[-1]]))
            return (
                f"{option} has no effect: {place} is {article} {kind} here, which has no {name}; {others} {has} it. "
                f"Choose a config whose {place} has it, or leave it out."
            )
    return None


def _parts(config: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, list[type]]]]:
    """Dotted name of every part of a config -> the part, None where the config has none, and the classes that it may be
    of.
    """
    unnamed = _unnamed(config)
    for name, kind in typing.get_type_hints(type(config)).items():
        part = getattr(config, name)
        inner = place if name in unnamed else f"{place}.{name}".removeprefix(".")
        if dataclasses.is_dataclass(part):
            yield inner, (part, dataclasses_of(kind))
            yield from _parts(part, inner)
        elif part is None and dataclasses_of(kind):
            yield inner, (None, dataclasses_of(kind))


def _missing_parts(config: Any) -> str:
    """What the help says of parts that a config may have, and does not."""
    missing = [
        f"--{place} ({', '.join(map(option_name, kinds))})" for place, (part, kinds) in _parts(config) if part is None
    ]
    return f"\n\nParts that may be added: {'; '.join(missing)}\n" if missing else ""


def _unnamed(config: Any) -> list[str]:
    """The fields of a config that tyro is told to give an empty name: theirs stand beside those of the whole."""
    return [
        name
        for name, hint in typing.get_type_hints(type(config), include_extras=True).items()
        if any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))
    ]


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


def inner_of_tuple(hint: Any) -> Any:
    """The type of the elements of tuples of any length; None = the hint is no such tuple."""
    inner = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    return inner[0] if len(inner) == 2 and inner[1] is Ellipsis else None


def dataclasses_of(hint: Any) -> list[type]:
    """The dataclasses that a field with this type hint may hold."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]
