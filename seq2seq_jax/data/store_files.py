"""Files on disk under a key of what determines them: made once, complete or absent, verified by digests."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np

from seq2seq_jax.files import file_digest, write_whole

HEADER_FILE = "header.json"
SECONDS_OF_A_WEEK = 7 * 24 * 3600.0
STAMP_FILE = "verified.json"

Verification = Literal["always", "once", "never"]
"""When the digests of a store's files are compared: whenever it is opened; when a file's size, time of change or inode
is another than when it was last compared; or not at all, by a process whose parent has just done so."""

logger = logging.getLogger(__name__)


class DamagedStoreError(Exception):
    """The files of a store are not what its header says."""


Store = TypeVar("Store")


def digest(*facts: Any) -> str:
    """Key of a store whose content these JSON values decide."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def open_or_build(
    open_store: Callable[[pathlib.Path], Store],
    root: pathlib.Path,
    key: str,
    build: Callable[[pathlib.Path], None],
    *,
    found_in: pathlib.Path | None = None,
) -> Store:
    """The store `key` below `root`; built now if it is not there complete.

    Safe with several processes: each builds under a name of its own, and the first to finish is kept.

    Args:
        open_store: opens a directory, or raises DamagedStoreError.
        build: writes the store's files to a directory.
        found_in: another root, where a store is used if it is complete, and nothing is written.
    """
    if found_in is not None and (store := _open_whole(open_store, found_in / key)) is not None:
        return store
    path = root / key
    if (store := _open_whole(open_store, path)) is not None:
        return store
    with unfinished_directory(root, key) as unfinished:
        try:
            build(unfinished)
            if _open_whole(open_store, path, warn=False) is None:
                shutil.rmtree(path, ignore_errors=True)
                unfinished.rename(path)
        except OSError:
            # Between the look and the rename another process may have put its own copy there.
            if _open_whole(open_store, path, warn=False) is None:
                raise
    return open_store(path)


@contextlib.contextmanager
def unfinished_directory(root: pathlib.Path, key: str) -> Iterator[pathlib.Path]:
    """A new directory below root to make something in, which is removed afterwards if it is still there.

    What killed processes have left of theirs is removed first.
    """
    root.mkdir(parents=True, exist_ok=True)
    remove_left_behind(root.glob("*.unfinished.*"))
    while True:
        unfinished = root / f"{key}.unfinished.{socket.gethostname()}.{secrets.token_hex(8)}"
        unfinished.mkdir()
        lock = os.open(unfinished, os.O_RDONLY)
        # The system ends it with this process. Where the file system knows no locks, nobody finds this one free.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if unfinished.exists():
            break
        # Another process took it for left behind before it was locked.
        os.close(lock)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(lock)


def remove_left_behind(directories: Iterable[pathlib.Path]) -> None:
    """Remove unfinished directories that no process is at work in.

    One of this machine has work going on as long as its lock is held. Another machine's lock may not be seen here, and
    other programs hold none: those are left behind when nothing in them was changed for a week.
    """
    for directory in directories:
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = f".unfinished.{socket.gethostname()}." in directory.name
            if is_ours or time.time() - _last_change(directory) > SECONDS_OF_A_WEEK:
                shutil.rmtree(directory, ignore_errors=True)
                logger.info("removed %s, which a preparation that was killed had left", directory)
        except OSError:
            # A process is at work there, or nobody can tell.
            continue
        finally:
            os.close(lock)


def _last_change(directory: pathlib.Path) -> float:
    return max(path.lstat().st_mtime for path in (directory, *directory.rglob("*")))


def _open_whole(open_store: Callable[[pathlib.Path], Store], path: pathlib.Path, *, warn: bool = True) -> Store | None:
    if not path.exists():
        return None
    try:
        return open_store(path)
    except DamagedStoreError as error:
        if warn:
            logger.warning("preparing a part of the data again, its copy in the cache is damaged: %s", error)
        return None


def write_header(directory: pathlib.Path, header: dict[str, Any]) -> None:
    """Write what a store holds, and the sizes and digests of all of its files; the last thing that is written.

    Args:
        header: JSON values.
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    header = header | {
        "files": {
            str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in paths
        }
    }
    stored = {"header": header, "sha256": _header_digest(header)}
    write_whole(directory / HEADER_FILE, json.dumps(stored, indent=1))


def read_header(directory: pathlib.Path, *, verify: Verification) -> dict[str, Any]:
    """What `write_header` wrote, after the store's files have been compared with it.

    Raises:
        DamagedStoreError: a file is missing, or is not what was written.
    """
    try:
        stored = json.loads((directory / HEADER_FILE).read_text())
        header, expected = stored["header"], stored["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedStoreError(f"{directory / HEADER_FILE} cannot be read") from error
    if _header_digest(header) != expected:
        raise DamagedStoreError(f"{directory / HEADER_FILE} is not what was written")
    try:
        _compare_files(directory, header["files"], verify=verify)
    except OSError as error:
        raise DamagedStoreError(f"{error.filename} cannot be read ({error.strerror})") from error
    return header


def _compare_files(directory: pathlib.Path, files: dict[str, dict[str, Any]], *, verify: Verification) -> None:
    verified, stamps = (_read_stamps(directory) if verify == "once" else {}), {}
    for name, entry in files.items():
        status = (directory / name).stat()
        stamps[name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if status.st_size != entry["bytes"]:
            raise DamagedStoreError(f"{directory / name} has {status.st_size} bytes instead of {entry['bytes']}")
        if verify != "never" and verified.get(name) != stamps[name]:
            if file_digest(directory / name) != entry["sha256"]:
                raise DamagedStoreError(f"{directory / name} is not what was written")
    if verify == "once" and verified != stamps:
        try:
            write_whole(directory / STAMP_FILE, json.dumps(stamps))
        except OSError as error:
            logger.info("%s is compared with its digests again next time: %s", directory, error)


def _read_stamps(directory: pathlib.Path) -> dict[str, Any]:
    """Sizes, times and inodes of the files when they were last compared; empty if they are not known."""
    try:
        stamps = json.loads((directory / STAMP_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _header_digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def map_array(directory: pathlib.Path, name: str, header: dict[str, Any]) -> np.ndarray:
    """An array of a store, mapped into memory; `dtypes` of the header says of what type."""
    dtype = np.dtype(header["dtypes"][name]).newbyteorder("<")
    return np.memmap(directory / name, dtype=dtype, mode="r").view(np.ndarray)
