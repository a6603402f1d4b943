"""What a benchmark shows: tables for people, JSON for machines, one line for a mistake."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.parallel.host_memory import keep_memory_between_steps
from seq2seq_jax.paths import user_path

WIDTH_OF_FILES = 120


PLAIN = {"highlight": False, "markup": False, "emoji": False}
"""Text is printed as it is: [brackets], :colons: and all."""


def output() -> Console:
    """Standard output; what is no terminal has a fixed width."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES, **PLAIN)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> Table:
    """A table whose first column is names, the others values."""
    grid = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        grid.add_column(name, justify="right" if index else "left")
    for row in rows:
        grid.add_row(*row)
    return grid


def environment_line(environment: dict[str, Any]) -> str:
    """What `harness.environment` gives, in short."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"{environment['cpu']}, {environment['cores']} cores, load {environment['load_average']:.1f} before; "
        f"{environment['num_devices']} device(s) {', '.join(environment['devices'])}; "
        f"Python {environment['python']}, {versions}"
    )


def milliseconds(spread: Spread) -> str:
    """Seconds as "median (lower to upper quartile) ms"."""
    return f"{1e3 * spread.median:,.1f} ({1e3 * spread.lower_quartile:,.1f} to {1e3 * spread.upper_quartile:,.1f}) ms"


def factor(spread: Spread) -> str:
    """A ratio as "median (lower to upper quartile)"."""
    return f"{spread.median:.2f} ({spread.lower_quartile:.2f} to {spread.upper_quartile:.2f})"


def write_json(figures: Any, path: str | None) -> None:
    """Write measurements to a file, if one is named."""
    if path is not None:
        user_path(path).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def run_script(main: Callable[[list[str]], None], *, keep_memory: bool = True) -> None:
    """Run a benchmark as a program: a mistake of the user's is one line and exit status 2.

    Args:
        keep_memory: whether a step's memory is kept for the next, as while training; not where it is measured.
    """
    if keep_memory:
        keep_memory_between_steps()
    try:
        main(sys.argv[1:])
    except ValueError as error:
        Console(stderr=True, soft_wrap=True, **PLAIN).print(" ".join(str(error).split()))
        raise SystemExit(2) from None
