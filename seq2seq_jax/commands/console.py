"""What commands show a person: progress bars in a terminal, plain lines elsewhere, tables; and the log of a run."""

import contextlib
import datetime
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

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
        self._log = _Log()

    def __enter__(self) -> "Display":
        handler = RichHandler(console=self.console, show_path=False) if self.live else logging.StreamHandler()
        if not self.live:
            handler.setFormatter(logging.Formatter("%(message)s"))
        package = logging.getLogger("seq2seq_jax")
        self._before = package.handlers, package.level, package.propagate
        package.handlers = [handler, _LogHandler(self._log)]
        package.setLevel(logging.INFO if self.speaks else logging.WARNING)
        package.propagate = False
        # Orbax tells through these what it always does; what goes wrong comes as an exception.
        for library in ("absl", "asyncio"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        if self.live:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self.live:
            self._bars.stop()
        # A mistake of the user's is a line, anything else comes with where it happened.
        if isinstance(error, ValueError | OSError | KeyboardInterrupt) or hasattr(error, "exit_status"):
            self.log(f"stopped: {type(error).__name__}: {error}")
        elif isinstance(error, Exception):
            self.log("stopped: " + "".join(traceback.format_exception(error)).rstrip())
        self._log.close()
        package = logging.getLogger("seq2seq_jax")
        package.handlers, level, package.propagate = self._before
        package.setLevel(level)

    def keep_log(self, path: Path) -> None:
        """Write what was shown so far, and all that follows, to the end of a file, with the time of each line.

        Raises:
            OSError: it cannot be written.
        """
        self._log.open(path)

    def log(self, text: str) -> None:
        """What only the log has, if one is kept."""
        if self.speaks:
            self._log.write(text)

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

    def line(self, text: str, *, whole: str | None = None) -> None:
        """A line of its own.

        Args:
            whole: what the log has in its place; None = the same.
        """
        if self.speaks:
            self.console.print(text)
            self._log.write(text if whole is None else whole)


class _Log:
    """Lines with their times, kept in memory until there is a file for them."""

    def __init__(self):
        self._early: list[str] = []
        self._file: TextIO | None = None

    def open(self, path: Path) -> None:
        # Not through a link, which someone else's run directory may hold.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._file.writelines(self._early)
        self._file.flush()
        self._early.clear()

    def write(self, text: str) -> None:
        time = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
        # Lines of one text stand below each other, none without its time.
        lines = "".join(f"{time}  {line}\n" for line in text.split("\n"))
        if self._file is None:
            self._early.append(lines)
        else:
            self._file.write(lines)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _LogHandler(logging.Handler):
    """Writes what loggers say to the log."""

    def __init__(self, log: _Log):
        super().__init__()
        self._log = log
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(self.format(record))


def cut(text: str, length: int) -> str:
    """The text on one line, and no longer than that, with a note of what was left out."""
    line = " ".join(text.splitlines())
    if len(line) <= length:
        return line
    note = f" ... ({len(text):,} characters)"
    return line[: max(0, length - len(note))] + note


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
    """The first argument of a command, None if only help is requested, and the rest.

    Raises:
        ValueError: there is none, or it is empty.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        return None, arguments
    if not arguments or not arguments[0] or arguments[0].startswith("-"):
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
    """Print a table whose first column is names, the others values, to standard output."""
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
