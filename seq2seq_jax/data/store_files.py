"""Arrays on disk under a key of what decides them: made once, whole or not there, mapped into memory."""

import hashlib
import json
import logging
import pathlib
import secrets
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

HEADER_FILE = "header.json"

logger = logging.getLogger(__name__)


class DamagedStoreError(Exception):
    """The files of a store are not what its header says."""


Store = TypeVar("Store")


def digest(*facts: Any) -> str:
    """Key of a store whose content these JSON values decide."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def open_or_build(
    open_store: Callable[[pathlib.Path], Store], root: pathlib.Path, key: str, build: Callable[[pathlib.Path], None]
) -> Store:
    """The store `key` below `root`; built now if it is not there whole.

    Safe with several processes: each builds under a name of its own, and the first to finish is kept.

    Args:
        open_store: opens a directory, or raises DamagedStoreError.
        build: writes the store's files to a directory.
    """
    path = root / key
    if (store := _open_whole(open_store, path)) is not None:
        return store
    unfinished = root / f"{key}.unfinished.{secrets.token_hex(8)}"
    unfinished.mkdir(parents=True)
    try:
        build(unfinished)
        if _open_whole(open_store, path) is None:
            shutil.rmtree(path, ignore_errors=True)
            unfinished.rename(path)
    except OSError:
        # Between the look and the rename another process may have put its own copy there.
        if _open_whole(open_store, path) is None:
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return open_store(path)


def _open_whole(open_store: Callable[[pathlib.Path], Store], path: pathlib.Path) -> Store | None:
    if not path.exists():
        return None
    try:
        return open_store(path)
    except DamagedStoreError as error:
        logger.warning("encoding a split again, its token store is damaged: %s", error)
        return None


def token_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest type that holds all ids of a vocabulary."""
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<u4")


def write_header(directory: pathlib.Path, header: dict[str, Any]) -> None:
    """Write what a store holds, with its own digest; the last thing that is written.

    Args:
        header: JSON; `files` has the dtype and the length of each array.
    """
    stored = {"header": header, "sha256": _header_digest(header)}
    (directory / HEADER_FILE).write_text(json.dumps(stored, indent=1))


def read_header(directory: pathlib.Path) -> dict[str, Any]:
    """What `write_header` wrote.

    Raises:
        DamagedStoreError: it is missing or altered.
    """
    try:
        stored = json.loads((directory / HEADER_FILE).read_text())
        header, expected = stored["header"], stored["sha256"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedStoreError(f"{directory / HEADER_FILE} cannot be read") from error
    if _header_digest(header) != expected:
        raise DamagedStoreError(f"{directory / HEADER_FILE} is not what was written")
    return header


def _header_digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def map_array(directory: pathlib.Path, name: str, header: dict[str, Any]) -> np.ndarray:
    """An array of a store, mapped into memory.

    Raises:
        DamagedStoreError: it is missing or has another size.
    """
    path = directory / name
    entry = header["files"][name]
    dtype = np.dtype(entry["dtype"]).newbyteorder("<")
    if not path.is_file() or path.stat().st_size != entry["length"] * dtype.itemsize:
        raise DamagedStoreError(f"{path} does not have {entry['length']} values of {dtype.itemsize} bytes")
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
