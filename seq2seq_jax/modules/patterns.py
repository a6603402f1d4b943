"""Patterns of the paths of parameters, such as encoder/* or */cross_attention/*, and trees that are divided by them.

A path is the keys of nested dicts joined by slashes: encoder/layer/attention/query/kernel. In a pattern * is any text,
slashes included, ? one character.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Collection, Iterable
from typing import Any

NOT = "!"
"""Stands before a pattern whose paths are left out again."""
SHOWN = 5
"""Paths that a message names."""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A pattern as a setting has it: [!]PATTERN[=NUMBER].

    Attributes:
        text: the pattern alone.
        is_negated: whether it leaves paths out.
        number: behind the equals sign; None = there is none.
    """

    text: str
    is_negated: bool
    number: float | None

    @classmethod
    def of(cls, text: str, *, setting: str) -> "Pattern":
        """A pattern from its text.

        Args:
            setting: where it stands, for messages.

        Raises:
            ValueError: there is no pattern, or what follows it is no number.
        """
        pattern, _, number = text.partition("=")
        is_negated = pattern.startswith(NOT)
        try:
            found = cls(pattern.removeprefix(NOT), is_negated, float(number) if "=" in text else None)
        except ValueError as error:
            raise ValueError(
                f"{setting} has {text!r}: expected PATTERN=NUMBER, such as encoder/*=0.5, and {number!r} is no number."
            ) from error
        if not found.text:
            raise ValueError(f"{setting} has {text!r}: expected a pattern of parameters, such as encoder/*.")
        return found

    def matches(self, path: str) -> bool:
        """Whether it is a pattern of a path."""
        return fnmatch.fnmatchcase(path, self.text)

    def check(self, paths: Collection[str], *, setting: str) -> None:
        """Return if there is a path that it matches.

        Raises:
            ValueError: there is none.
        """
        if not any(map(self.matches, paths)):
            shown = ", ".join(list(paths)[:SHOWN])
            raise ValueError(
                f"{setting} has {self.text!r}, which no parameter matches; there are {len(paths)}, such as {shown}. * "
                "stands for any text."
            )


def last_match(patterns: Iterable[Pattern], path: str) -> Pattern | None:
    """The last of the patterns that matches a path, which decides; None = none does."""
    found = [pattern for pattern in patterns if pattern.matches(path)]
    return found[-1] if found else None


def map_with_path(function: Callable[[str, Any], Any], tree: Any, path: str = "") -> Any:
    """Nested dicts with `function(path, value)` for each value that is no dict."""
    if not isinstance(tree, dict):
        return function(path, tree)
    return {name: map_with_path(function, inner, f"{path}/{name}" if path else name) for name, inner in tree.items()}


def paths_of(tree: Any) -> list[str]:
    """Paths of all values of nested dicts that are no dicts, in order."""
    paths: list[str] = []
    map_with_path(lambda path, _: paths.append(path), tree)
    return paths


def without(tree: Any, left_out: Collection[str], path: str = "") -> Any:
    """Nested dicts without the values at some paths, and without dicts that are empty then."""
    if not isinstance(tree, dict):
        return tree
    kept = {}
    for name, inner in tree.items():
        place = f"{path}/{name}" if path else name
        if place in left_out:
            continue
        value = without(inner, left_out, place)
        if not isinstance(inner, dict) or value:
            kept[name] = value
    return kept


def merged(tree: Any, given: Any) -> Any:
    """Nested dicts with the values of others in their places."""
    if not (isinstance(tree, dict) and isinstance(given, dict)):
        return given
    return tree | {name: merged(tree[name], inner) if name in tree else inner for name, inner in given.items()}
