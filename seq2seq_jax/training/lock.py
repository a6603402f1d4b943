"""One training at a time in a run directory: a lock that says who holds it, and that ends with its process."""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILE = "lock"
SECONDS_BETWEEN_SIGNS = 20.0
SECONDS_OF_SILENCE = 300.0
"""Without a sign of life after which a process of another machine, or one on a file system without locks, is dead."""


class LockedError(ValueError):
    """Another process trains in the directory."""


@contextlib.contextmanager
def locked(directory: Path, *, lost: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Within, no other process has the lock of a directory, which is made if it is not there.

    The system ends a lock with its process, however that ends, and tells of it on the same machine at once. From
    another machine (or on a file system that knows no locks) a process is alive as long as its lock was touched within
    the last five minutes. Gives what releases it before that, in a process that is about to be ended from a thread.

    Args:
        lost: takes the reason when the lock was removed or taken over by another process; called in a thread of its
            own, must end the process.

    Raises:
        LockedError: another process has it; says which, where and since when.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        file, number = _take(directory / FILE)
        ended = threading.Event()

        def release() -> None:
            ended.set()
            # Before the file is closed, so that nobody else's is removed.
            if _is_at(directory / FILE, number):
                (directory / FILE).unlink(missing_ok=True)

        try:
            arguments = directory / FILE, number, ended, lost
            threading.Thread(target=_give_signs_of_life, args=arguments, daemon=True).start()
            yield release
        finally:
            release()
            os.close(file)
    finally:
        with contextlib.suppress(OSError):
            # What was made for the lock alone; others are not empty.
            for path in made:
                path.rmdir()


def _take(path: Path) -> tuple[int, int]:
    """An open file that holds the lock, and its inode."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            # Read when it is known who may write it.
            is_held, holder = _lock(file), _holder(file)
            number = os.fstat(file).st_ino
            if not _is_at(path, number):
                # Its holder has ended and removed it meanwhile.
                os.close(file)
                continue
            if holder is not None:
                has_ended = bool(is_held) and holder.get("machine") == _machine()
                silence = _silence(path)
                if is_held is False or (not has_ended and silence < SECONDS_OF_SILENCE):
                    patience = SECONDS_OF_SILENCE - silence
                    hint = "" if is_held is False else f" If it has ended, the same command works in {patience:.0f} s."
                    raise LockedError(
                        f"{path.parent} is in use: {_told(holder)} trains there, and gave its last sign of life "
                        f"{silence:.0f} s ago. Wait for it, end it, or train in another --run-dir.{hint}"
                    )
                logger.warning("Taking over the lock of %s, which has ended: %s.", path.parent, _told(holder))
            elif is_held is False:
                raise LockedError(f"{path.parent} is in use: another process begins to train there. Wait for it.")
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_own()).encode(), 0)
            return file, number
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise


def _lock(file: int) -> bool | None:
    """Whether the system gave the lock of a file; None = the file system knows none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _machine() -> str:
    """A name of this machine since it was started: a lock that its system gives away has no living holder on it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else uuid.getnode()}"


def _own() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).astimezone()
    since = now.isoformat(sep=" ", timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since, "machine": _machine()}


def _holder(file: int) -> dict[str, Any] | None:
    """What a lock says; None = nothing, as it has just been made."""
    content = os.pread(file, 4096, 0)
    if not content:
        return None
    try:
        holder = json.loads(content)
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {}


def _told(holder: dict[str, Any]) -> str:
    process, host, since = (holder.get(name, "unknown") for name in ("process", "host", "since"))
    return f"process {process} on {host}, since {since}"


def _silence(path: Path) -> float:
    """Seconds since a lock was touched, by the clock of the machine that keeps the files."""
    probe = path.with_name(f"{FILE}.{socket.gethostname()}.{os.getpid()}")
    try:
        with probe.open("x"):
            now = probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    return max(0.0, now - path.stat().st_mtime)


def _is_at(path: Path, number: int) -> bool:
    """Whether a path still leads to the file of an inode."""
    try:
        return path.stat().st_ino == number
    except FileNotFoundError:
        return False


def _give_signs_of_life(path: Path, number: int, ended: threading.Event, lost: Callable[[str], None]) -> None:
    while not ended.wait(SECONDS_BETWEEN_SIGNS):
        try:
            if _is_at(path, number):
                os.utime(path)
                continue
        except OSError:
            # The files cannot be reached now; a save will say so if that lasts.
            continue
        if not ended.is_set():
            lost(
                f"the lock {path} was removed or taken over, so another process may train there; this one has ended, "
                "and the run is as the last checkpoint has it. The same command continues it."
            )
        return
