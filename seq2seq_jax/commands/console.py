"""What commands show a person: progress bars in a terminal, plain lines elsewhere, tables."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SECONDS_BETWEEN_LINES = 10.0
WIDTH_OF_FILES = 120
BROKEN_PIPE = 128 + signal.SIGPIPE


def plain(**options: Any) -> Console:
    """A console that prints text as it is: no [markup], no :emoji:, no colours for what looks like a number.

    Paths, samples and values of users go through it.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)


class Display:
    """Progress and messages on standard error; results on standard output are the command's own."""

    def __init__(self, *, speaks: bool = True):
        """Args:
        speaks: whether it shows anything but warnings; of the processes of a job one does.
        """
        self.speaks = speaks
        self.console = plain(stderr=True, soft_wrap=True)
        self.live = speaks and self.console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, int] = {}
        self._last_line: dict[str, float] = {}

    def __enter__(self) -> "Display":
        handler = RichHandler(console=self.console, show_path=False) if self.live else logging.StreamHandler()
        if not self.live:
            handler.setFormatter(logging.Formatter("%(message)s"))
        package = logging.getLogger("seq2seq_jax")
        package.handlers = [handler]
        package.setLevel(logging.INFO if self.speaks else logging.WARNING)
        package.propagate = False
        # Orbax tells through these what it always does; what goes wrong comes as an exception.
        for library in ("absl", "asyncio"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        if self.live:
            self._bars.start()
        return self

    def __exit__(self, *exception) -> None:
        if self.live:
            self._bars.stop()

    def end_bars(self) -> None:
        """No bars from here on: results go to the same terminal."""
        if self.live:
            self.live = False
            self._bars.stop()

    def progress(self, what: str, done: int, total: int, figures: str = "") -> None:
        """Show how far something is; a bar in a terminal, else a line now and then and at the end."""
        if self.live:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total, figures=figures)
            self._bars.update(self._tasks[what], completed=done, total=total, figures=figures)
            if done >= total:
                self._bars.remove_task(self._tasks.pop(what))
            return
        now = time.monotonic()
        if done < total and now - self._last_line.setdefault(what, now) < SECONDS_BETWEEN_LINES:
            return
        self._last_line[what] = now
        self.line(f"{what}: {done:,} of {total:,} {figures}".rstrip())

    def line(self, text: str) -> None:
        """A line of its own."""
        if self.speaks:
            self.console.print(text)


def stop(message: str, status: int) -> NoReturn:
    """End this process with a line on standard error.

    One of several processes ends at once: on the usual way out jax.distributed would wait for the others, which may be
    waiting for this one.
    """
    sys.stdout.flush()
    if is_one_of_several():
        end_at_once(message, status)
    _say(message)
    sys.exit(status)


def is_one_of_several() -> bool:
    """Whether this process has joined a job of several; does not import jax for that."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def end_at_once(message: str, status: int) -> NoReturn:
    """End this process with a line on standard error, from any thread, whatever its main one hangs in or waits for."""
    _say(message)
    os._exit(status)


def end_quietly() -> NoReturn:
    """End this process as one does whose reader has gone, such as `head`: without a word, with a shell's status for it.

    What is still to be written goes nowhere, so that Python does not complain of it in the end.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BROKEN_PIPE)


def _say(message: str) -> None:
    print(f"seq2seq: {' '.join(message.split())}", file=sys.stderr, flush=True)


def split_first(arguments: list[str], *, name: str, command: str) -> tuple[str | None, list[str]]:
    """The first argument of a command, None if only help is asked for, and the rest.

    Raises:
        ValueError: there is none.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        return None, arguments
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"seq2seq {command} needs {name} as its first argument. See seq2seq {command} --help.")
    return arguments[0], arguments[1:]


def table(rows: Iterable[Sequence[str]], *, title: str) -> None:
    """Print a table of names and values to standard output."""
    console = plain(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    grid = Table(title=title, show_header=False, title_justify="left")
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    console.print(grid)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], *, title: str) -> None:
    """Print a table whose first column is names, the others figures, to standard output."""
    console = plain(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    grid = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        grid.add_column(name, justify="right" if index else "left")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
