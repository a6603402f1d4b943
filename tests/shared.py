"""What is made once for all workers of a test session."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A directory of all workers, which `make` fills when the first of them asks for it; not to be changed.

    Args:
        factory: pytest's.
        name: of the directory, of its own.
        make: takes the directory, which is empty; where it fails, all that ask fail, and it is not called again.
    """
    base = factory.getbasetemp()
    # pytest-xdist gives each worker a directory below that of the session.
    if base.name.startswith("popen-"):
        base = base.parent
    directory, outcome = base / "shared" / name, base / "shared" / f"{name}.outcome"
    directory.mkdir(parents=True, exist_ok=True)
    with _only_one(base / "shared" / f"{name}.lock"):
        if not outcome.exists():
            try:
                make(directory)
            except BaseException as error:
                outcome.write_text(f"{type(error).__name__}: {error}")
                raise
            outcome.touch()
    failure = outcome.read_text()
    assert not failure, f"making {name} failed before: {failure}"
    return directory


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Within, no other process is within."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
