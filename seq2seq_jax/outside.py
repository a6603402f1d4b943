"""Classes and functions from outside the package, which configs name as "module:Name"."""

import importlib
from typing import Any

PACKAGE = __name__.partition(".")[0]


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
    module, _, member = name.partition(":")
    if not module or not member:
        raise ValueError(f'{what} is {name!r}: give it as "module:{kind}"')
    try:
        return getattr(importlib.import_module(module), member)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{what} {name} cannot be imported ({type(error).__name__}: {error}): give a module on Python's path, such "
            f"as one in a directory of PYTHONPATH, and a {kind} in it"
        ) from error
