"""Lines of UTF-8 text from files, pipes and terminals, plain or gzipped."""

import codecs
import contextlib
import gzip
import io
import os
import select
import stat
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

GZIP_MAGIC = b"\x1f\x8b"
"""No UTF-8 text starts with these bytes."""
MAX_LINE_BYTES = 2**24
"""A longer line is refused unread: what looks like one line may be a file of zeros, or a gzip bomb."""
STANDARD_INPUT = "standard input"
PATIENCE = 0.1
"""Seconds without anything new after which what has come through a pipe counts as all that there is for now."""
BLOCK_BYTES = 2**16


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it has no character, or spaces, controls and zero-width ones alone."""
    return not text or all(
        character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text
    )


def decode_lines(file: io.BufferedIOBase, name: str, *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[str]:
    """The lines of a file, without their ends and without byte order marks at their start.

    A line ends at "\\n" (or "\\r\\n"), and at no other character. Marks are dropped from every line, because the files
    that were put together may each have started with one.

    Args:
        name: of the file, for messages.
        max_bytes: of a line.

    Raises:
        ValueError: a line is not UTF-8 or too long, the file has "\\r" alone as line ends, or is damaged gzip.
    """
    number = 0
    # A first line with "\r" inside, until it is known whether it is all there is.
    held = None
    try:
        while line := file.readline(max_bytes + 2):
            number += 1
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if len(line) > max_bytes:
                raise ValueError(
                    f"line {number} of {name} is longer than {max_bytes:,} bytes. Give text with a line for each "
                    "example."
                )
            while line.startswith(codecs.BOM_UTF8):
                line = line.removeprefix(codecs.BOM_UTF8)
            text = line.decode("utf-8")
            if number == 1 and "\r" in text:
                held = text
                continue
            if held is not None:
                yield held
                held = None
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"line {number} of {name} is not UTF-8 ({error.reason} at byte {error.start}). Convert the text to UTF-8."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"expected a whole gzip file in {name}; after line {number} came: {error}: copy or compress it again"
        ) from error
    if held is not None:
        returns = held.count("\r")
        raise ValueError(
            f"{name} is one line with {returns} carriage return{'s' if returns > 1 else ''} inside: its line ends are "
            r"CR alone, as old Macintosh programs write them. Convert it: tr '\r' '\n' < OLD > NEW"
        )


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, gunzipped if its name ends in .gz or its content is gzip."""
    with open(path, "rb") as file:
        if path.suffix == ".gz" or file.peek(2)[:2] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=file) as unzipped, io.BufferedReader(unzipped) as buffered:
                yield buffered
        else:
            yield file


class Input(NamedTuple):
    """What a command reads its lines from."""

    name: str
    """For messages: the path, or "standard input"."""
    lines: Iterator[str]
    """See `decode_lines`."""
    more_has_come: Callable[[], bool]
    """Whether another line is there, or comes within `PATIENCE`; for a file it always is."""
    may_wait: bool
    """Whether it is a pipe or a terminal: what has come is all that can be known."""


@contextlib.contextmanager
def open_input(path: str | None, *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Input]:
    """Lines of a file, pipe or terminal.

    Args:
        path: None or "-" = standard input.
        max_bytes: of a line.

    Raises:
        ValueError: there is no such file, it cannot be read, or standard input is closed; lines raise as those of
            `decode_lines` do.
    """
    with contextlib.ExitStack() as opened:
        if path in (None, "-"):
            name, file = STANDARD_INPUT, _standard_input()
            if file.seekable():
                # So that it can be gone through again.
                opened.callback(file.seek, file.tell())
        else:
            name = path
            try:
                file = opened.enter_context(open(path, "rb"))
            except FileNotFoundError as error:
                raise ValueError(f"there is no file {path} to read lines from. Check the path.") from error
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({error.strerror}). Name a file with text.") from error
        mode = _mode(file)
        if stat.S_ISDIR(mode):
            raise ValueError(f"{name} is a directory. Give lines of text, or name a file.")
        if stat.S_ISREG(mode):
            yield Input(name, _gunzipped_lines(file, name, max_bytes), lambda: True, may_wait=False)
        else:
            arriving = _Arriving(file.fileno())
            file = io.BufferedReader(arriving, BLOCK_BYTES)
            yield Input(name, _gunzipped_lines(file, name, max_bytes), _Patience(arriving, file), may_wait=True)


def _standard_input() -> io.BufferedIOBase:
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("standard input is closed. Give it lines, or name a file with --input.")
    return sys.stdin.buffer


def _mode(file: io.BufferedIOBase) -> int:
    """What kind of file it is; one in memory is as good as a regular one."""
    try:
        return os.fstat(file.fileno()).st_mode
    except io.UnsupportedOperation:
        return stat.S_IFREG


def _gunzipped_lines(file: io.BufferedIOBase, name: str, max_bytes: int) -> Iterator[str]:
    # Not before a line is asked for: a look at a pipe waits for what comes.
    if isinstance(file, io.BufferedReader):
        start = file.peek(2)[:2]
    else:
        start = file.read(2)
        file.seek(-len(start), os.SEEK_CUR)
    if start == GZIP_MAGIC or name.endswith(".gz"):
        file = io.BufferedReader(gzip.GzipFile(fileobj=file))
    yield from decode_lines(file, name, max_bytes=max_bytes)


class _Arriving(io.RawIOBase):
    """The bytes of a pipe or terminal as they come.

    Attributes:
        patience: seconds to wait for the next ones, after which there are none for now; None = until they come.
        ended: whether the end was reached. It is asked for once: a terminal would go on after it.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.patience: float | None = None
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        if self.ended:
            return 0
        if self.patience is not None and not select.select([self._descriptor], [], [], self.patience)[0]:
            return None
        data = os.read(self._descriptor, len(buffer))
        self.ended = not data
        buffer[: len(data)] = data
        return len(data)


class _Patience:
    """Whether another whole line has come, or the end."""

    def __init__(self, arriving: _Arriving, buffered: io.BufferedReader):
        self._arriving, self._buffered = arriving, buffered

    def __call__(self) -> bool:
        self._arriving.patience = PATIENCE
        try:
            # Reads at most once, and only if nothing is left of what was read before.
            return b"\n" in self._buffered.peek() or self._arriving.ended
        finally:
            self._arriving.patience = None
