"""Code from outside the package that a config names, as "module:name": its classes and functions, and who may import
them. Imports nothing heavy.
"""

import dataclasses
import importlib
from collections.abc import Collection
from typing import Any

PACKAGE = __name__.partition(".")[0]

EVERYTHING = "True"
"""What --trust-code takes for all modules that a run names."""


@dataclasses.dataclass(frozen=True)
class Trust:
    """Which modules that a run directory names may be imported, which executes them.

    Attributes:
        modules: names of modules, or of packages with all that is in them; None = all.
    """

    modules: frozenset[str] | None

    @classmethod
    def of(cls, given: bool | Collection[str]) -> "Trust":
        """The trust that `trust_code` of a function or --trust-code stands for: all, none, or names of modules."""
        if isinstance(given, bool):
            return cls(None if given else frozenset())
        return cls(None if EVERYTHING in given else frozenset(given))

    def includes(self, name: str) -> bool:
        """Whether the module of "module:name" may be imported."""
        parts = name.partition(":")[0].split(".")
        packages = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        return self.modules is None or bool((self.modules | {PACKAGE}) & packages)


NOTHING = Trust.of(False)
ALL = Trust.of(True)


class UntrustedCodeError(ValueError):
    """A run names code from outside the package that must not be imported."""

    def __init__(self, where: str, what: str):
        """Args:
        where: it is named.
        what: it is, with its name.
        """
        super().__init__(
            f"{where} names {what}, which would be imported and executed. If you trust it, say so: --trust-code "
            f"{EVERYTHING}."
        )


def is_ours(kind: type) -> bool:
    """Whether a class is one of this package."""
    return kind.__module__.partition(".")[0] == PACKAGE


def name_of_class(kind: type) -> str:
    """A class as configs name it, "module:Class"."""
    return f"{kind.__module__}:{kind.__qualname__}"


def load(name: str, *, what: str, kind: str) -> Any:
    """What "module:Name" names, imported now.

    Args:
        what: names it in messages, such as "objective.reward.function".
        kind: what Name must be, for messages: "function".

    Raises:
        ValueError: the name is none, or it cannot be imported.
    """
    module, _, path = name.partition(":")
    if not module or not path:
        raise ValueError(f'{what} is {name!r}: give it as "module:{kind}"')
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{what} {name} cannot be imported ({type(error).__name__}: {error}): give a module on Python's path, such "
            f"as one in a directory of PYTHONPATH, and a {kind} in it"
        ) from error
    return found


def load_config_class(name: str, *, place: str, trust: Trust) -> type:
    """The class of a config that "module:Class" names.

    Args:
        place: dotted name of the part of the experiment, for messages.

    Raises:
        ValueError: it is not trusted, cannot be imported, or is no config.
    """
    if not trust.includes(name):
        raise UntrustedCodeError(place, f"the class {name}")
    found = load(name, what=f"the class of {place},", kind="Class")
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{place} names {name}, which is no dataclass. Correct the name.")
    return found


def classes_of(config: Any) -> dict[str, type]:
    """Dotted name of every part of a config -> its class, where that is from outside the package."""
    found = {}

    def walk(part: Any, place: str) -> None:
        if not is_ours(type(part)):
            found[place] = type(part)
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if dataclasses.is_dataclass(value):
                walk(value, f"{place}.{field.name}".removeprefix("."))
            for index, each in enumerate(value if isinstance(value, tuple) else ()):
                if dataclasses.is_dataclass(each):
                    walk(each, f"{place}.{field.name}.{index}".removeprefix("."))

    walk(config, "")
    return found


def refuse_unnamed(config: Any) -> None:
    """Refuse classes that a run could not be opened with later, such as those that a config file defines itself.

    Raises:
        ValueError: with the part and its class.
    """
    for place, kind in classes_of(config).items():
        try:
            is_there = load(name_of_class(kind), what=place, kind="Class") is kind
        except ValueError:
            is_there = False
        if not is_there:
            raise ValueError(
                f"{place} is of the class {kind.__name__}, which cannot be imported as {name_of_class(kind)}, so that "
                "no command could open the run. Move it to a module on Python's path, and import it in the config."
            )
