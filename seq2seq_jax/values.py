"""What every value of a config must be, whatever it means: of its field's type, finite, of a size that arrays take."""

import dataclasses
import functools
import types
import typing
from typing import Any

INTEGERS = 2**31
"""Whole numbers lie below this, as indices and counts of 32 bits do on every device."""
SEEDS = 2**32
"""Seeds lie below this: a key of jax is made of 32 bits, so that a larger seed would draw what a smaller one draws."""

SIZES = {"num_layers": 2**12, "_dim": 2**20, "kernel_size": 2**12}
"""The largest sizes of a model by the ends of their fields' names, far beyond any that was trained. A stack of a
billion layers would be traced without end, and the compiler aborts where the elements of a matrix are more than 64 bits
count."""

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest finite number of 32 bits, in which all arithmetic with the numbers of a config is done."""


def check_seed(name: str, seed: int) -> None:
    """Refuse a seed that another one would draw the same numbers as.

    Raises:
        ValueError: with the name of the field or argument.
    """
    if not 0 <= seed < SEEDS:
        raise ValueError(f"{name} must lie in [0, 2**32), and is {_shown(seed)}: give another, such as {seed % SEEDS}.")


def check_values(config: Any, name: str = "") -> None:
    """Check every field of a config dataclass, and of those in it, against its type.

    A type that is none of ours (None, bool, int, float, str, Literal, tuple, dataclass, and unions of these) admits
    anything.

    Args:
        name: dotted name of the config, for messages.

    Raises:
        ValueError: a value has another type than its field, is infinite (in 32 bits) or not a number, is a whole number
            beyond `INTEGERS` or `SIZES` (a `seed`: see `check_seed`), or is an empty text or one that is not Unicode.
    """
    hints = _hints(type(config))
    for field in dataclasses.fields(config):
        check_value(getattr(config, field.name), hints[field.name], f"{name}.{field.name}".removeprefix("."))


_hints = functools.cache(typing.get_type_hints)


def check_value(value: Any, hint: Any, name: str) -> None:
    """Check one value against the type of its field, as `check_values` does.

    Raises:
        ValueError: see `check_values`.
    """
    kinds = options(hint)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_values(value, name)
    elif not any(_fits(value, kind) for kind in kinds):
        expected = " or ".join(dict.fromkeys(map(_described, kinds)))
        raise ValueError(f"{name} must be {expected}, and is {_shown(value)}.")
    elif isinstance(value, tuple):
        (kind,) = [kind for kind in kinds if _fits(value, kind)][:1]
        inner = typing.get_args(kind)
        for index, each in enumerate(value):
            check_value(each, inner[0] if len(inner) == 2 and inner[1] is Ellipsis else Any, f"{name}[{index}]")
    elif isinstance(value, str):
        _check_text(value, name, optional=type(None) in kinds)
    elif isinstance(value, int) and not isinstance(value, bool) and float not in kinds:
        if name.rpartition(".")[2] == "seed":
            check_seed(name, value)
        elif not -INTEGERS <= value < INTEGERS:
            raise ValueError(f"{name} must be below {INTEGERS:,}, and is {_shown(value)}: give a smaller number.")
        elif value > (most := next((size for end, size in SIZES.items() if name.endswith(end)), INTEGERS)):
            raise ValueError(f"{name} must be at most {most:,}, and is {value:,}: give a smaller number.")
    elif float in kinds and not isinstance(value, bool) and value is not None and not _is_finite(value):
        raise ValueError(f"{name} must be a finite number of 32 bits, and is {_shown(value)}.")


def options(hint: Any) -> tuple[Any, ...]:
    """The types that a type hint allows: the parts of a union, or itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind))
    if kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if origin is tuple:
        return isinstance(value, tuple)
    # A part of the experiment that was given as something else; other types admit anything.
    return not dataclasses.is_dataclass(kind)


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    names = {type(None): "None", bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    if kind in names:
        return names[kind]
    return "a sequence of values" if typing.get_origin(kind) is tuple else f"a {getattr(kind, '__name__', kind)}"


def _check_text(value: str, name: str, *, optional: bool) -> None:
    if not value:
        raise ValueError(f"{name} is empty: give a value" + (", or None." if optional else "."))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be Unicode text, and has bytes that are not UTF-8: {value!a}. Rename what it names, or make "
            "a symbolic link to it."
        ) from error
    if "\0" in value:
        raise ValueError(f"{name} has a character of value 0: {value!a}. Leave it out.")


def _is_finite(value: int | float) -> bool:
    try:
        return abs(value) <= LARGEST
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    """A value in a message: Python refuses to write whole numbers of thousands of digits, and nobody reads them."""
    if isinstance(value, int) and abs(value) >= 2**128:
        return f"{'-' if value < 0 else ''}a number of {value.bit_length()} bits"
    return repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:100]}..."
