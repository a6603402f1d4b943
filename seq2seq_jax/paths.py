"""Paths as people write them."""

import os
from pathlib import Path


def user_path(path: str | os.PathLike) -> Path:
    """The path with "~" or "~user" at its beginning replaced by that home directory.

    Raises:
        ValueError: the path is empty, or the home directory is not known.
    """
    text = os.fspath(path)
    if not text:
        raise ValueError("expected a path; got an empty one: give the path, or leave the option out")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"the home directory in {text} is not known, as HOME is not set and the system has no user of that name or "
            "number: set HOME, or give a path without ~ (data.cache_directory is one)"
        ) from error


def unicode_path(path: str | os.PathLike) -> Path:
    """See `user_path`; for directories whose name goes into JSON, or to Orbax and TensorStore.

    Raises:
        ValueError: as `user_path` does, or the name is not Unicode text, that of the current directory included.
    """
    expanded = user_path(path)
    try:
        os.fspath(expanded.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected a path of Unicode text; got {os.fsencode(expanded.absolute())!r}, whose bytes are not UTF-8: "
            "rename the directory, or make a symbolic link to it"
        ) from error
    return expanded
