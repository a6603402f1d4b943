"""What has changed since the code that a change is compared with, and which parts of the package that can reach."""

import functools
import os
import subprocess
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
BASE = "SEQ2SEQ_TEST_BASE"
"""Environment variable: the commit that this one is compared with."""


def _git(*arguments: str) -> str | None:
    """What git prints in this repository; None where it fails, or is missing."""
    try:
        found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def base() -> str | None:
    """The commit of SEQ2SEQ_TEST_BASE; else where this branch left main; on main, the commit before. None = unknown."""
    if os.environ.get(BASE):
        return os.environ[BASE]
    head = _git("rev-parse", "HEAD")
    for branch in ("origin/main", "main"):
        fork = _git("merge-base", "HEAD", branch)
        if fork is not None and fork != head:
            return fork
    return _git("rev-parse", "--verify", "HEAD~1")


@functools.cache
def changed_files() -> frozenset[str] | None:
    """Paths of files that differ from the base, those that are not committed among them; None = unknown."""
    since = base()
    changed = _git("diff", "--name-only", since) if since else None
    new = _git("ls-files", "--others", "--exclude-standard")
    if changed is None or new is None:
        return None
    return frozenset([*changed.splitlines(), *new.splitlines()])


@functools.cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("seq2seq_jax", cache_dir=None)


def is_reached(modules: tuple[str, ...], *, of: Path, changed: frozenset[str] | None) -> bool:
    """Whether a change can change what modules of the package do: it is in them, or in what they import.

    Args:
        modules: dotted names.
        of: the file of their test, which a change may be in too.
        changed: paths, relative to the repository; None = anything may have changed.
    """
    if changed is None or str(of.relative_to(ROOT)) in changed:
        return True
    names = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in changed
        if path.startswith("seq2seq_jax/") and path.endswith(".py")
    }
    # What is gone from the package is no longer in the graph, but whoever imported it has changed too.
    return any(names & {module, *_graph().find_upstream_modules(module)} for module in modules)
