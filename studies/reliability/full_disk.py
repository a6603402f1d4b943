"""Trains on a disk that fills up after n bytes, and goes on when there is room: at each write of a run once.

The disk is a tmpfs, which needs the right to mount. It must end in one line, leave what was complete, and continue to
the same bits.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from studies.reliability.workplace import (
    TRAIN,
    Server,
    different,
    facts_of_run,
    has_traceback,
    is_one_line,
    left_behind,
    make,
    table,
)

DISK_BYTES = 64 * 2**20


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[Path]:
    """A small disk, mounted at a directory within."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@contextlib.contextmanager
def with_room(directory: Path, free: int) -> Iterator[None]:
    """Within, only n bytes are free."""
    status = os.statvfs(directory)
    with (directory / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free))
    yield
    (directory / "filler").unlink()


def bytes_needed(directory: Path, server: Server) -> tuple[int, dict]:
    """Bytes that a whole training takes on such a disk at its end, and what it comes to."""
    with disk(directory):
        place = make(directory / "place")
        before = os.statvfs(directory).f_bavail
        outcome = server.call(*TRAIN, cwd=place)
        if outcome.status != 0:
            raise RuntimeError(outcome.errors)
        after = os.statvfs(directory)
        return (before - after.f_bavail) * after.f_frsize, facts_of_run(place / "run")


def attempt(directory: Path, server: Server, *, free: int, reference: dict) -> tuple[str, str]:
    """Train with so much room, then with enough: what happened, and what is wrong with it ("" = nothing)."""
    with disk(directory):
        place = make(directory / "place")
        with with_room(directory, free):
            outcome = server.call(*TRAIN, cwd=place)
        if outcome.status == 0:
            return "there was room", ", ".join(different(reference, facts_of_run(place / "run")))
        if has_traceback(outcome.errors) or not is_one_line(outcome):
            return "traceback", outcome.errors[-2000:]
        again = server.call(*TRAIN, cwd=place)
        if again.status != 0:
            return "cannot continue", again.errors[-2000:]
        if names := different(reference, facts_of_run(place / "run")):
            return "differs", ", ".join(names)
        if left := left_behind(place):
            return "left behind", ", ".join(left)
        return "one line, and the same bits afterwards", ""


def run(directory: Path, *, count: int) -> tuple[str, bool]:
    """The campaign: a report, and whether it went well."""
    results: dict[str, int] = {}
    wrong = []
    with Server() as server:
        needed, reference = bytes_needed(directory / "disk0", server)
        for number in range(count):
            # From none to a little more than is needed.
            free = int(1.05 * needed * number / max(1, count - 1))
            result, trouble = attempt(directory / f"disk{number + 1}", server, free=free, reference=reference)
            results[result] = results.get(result, 0) + 1
            if trouble:
                wrong.append(f"with {free} bytes free: {result}: {trouble}")
                print(wrong[-1], flush=True)
            print(f"{number + 1} of {count}: {free} bytes free: {result}", flush=True)
        changed = reference | {"records": []}
        control = attempt(directory / "control", server, free=needed // 2, reference=changed)[0]
    rows = [
        ("bytes that a training takes", needed),
        *results.items(),
        ("control: a fact changed in the reference", control),
        *(("wrong", each) for each in wrong),
    ]
    return table(f"full disk: {count} trainings", rows), not wrong and control == "differs"
