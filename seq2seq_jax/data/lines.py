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

from seq2seq_jax.paths import user_path

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
    return not text or all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)


def is_unicode(text: str) -> bool:
    """Whether a text can be written: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    lines: Callable[[], Iterator[str]]
    """Gives the lines (see `decode_lines`) from the first; those of a pipe or terminal once."""
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
        else:
            name = path
            try:
                file = opened.enter_context(open(user_path(path), "rb"))
            except FileNotFoundError as error:
                raise ValueError(f"there is no file {path} to read lines from. Check the path.") from error
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({error.strerror}). Name a file with text.") from error
        mode = _mode(file)
        if stat.S_ISDIR(mode):
            raise ValueError(f"{name} is a directory. Give lines of text, or name a file.")
        if stat.S_ISREG(mode):
            start = file.tell()

            def lines() -> Iterator[str]:
                file.seek(start)
                return _gunzipped_lines(file, name, max_bytes)

            yield Input(name, lines, lambda: True, may_wait=False)
        else:
            arriving = _Arriving(file.fileno())
            lines_once = _gunzipped_lines(arriving, name, max_bytes)
            yield Input(name, lambda: lines_once, arriving.more_has_come, may_wait=True)


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
    # Not before a line is requested: a look at a pipe waits for what comes.
    if isinstance(file, io.BufferedReader | _Arriving):
        start = file.peek(2)[:2]
    else:
        start = file.read(2)
        file.seek(-len(start), os.SEEK_CUR)
    if start == GZIP_MAGIC or name.endswith(".gz"):
        file = io.BufferedReader(gzip.GzipFile(fileobj=file))
    yield from decode_lines(file, name, max_bytes=max_bytes)


class _Arriving(io.BufferedIOBase):
    """The bytes of a pipe or terminal as they come; unlike a BufferedReader it can look for more without waiting."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._buffer = bytearray()
        # The end is reached once: a terminal would go on after it.
        self._ended = False

    def readable(self) -> bool:
        return True

    def _read_more(self) -> None:
        data = os.read(self._descriptor, BLOCK_BYTES)
        self._ended = not data
        self._buffer += data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def peek(self, size: int = 0) -> bytes:
        """The next bytes, at least this many unless the end comes before."""
        while len(self._buffer) < size and not self._ended:
            self._read_more()
        return bytes(self._buffer[:size])

    def read(self, size: int | None = -1) -> bytes:
        whole = size is None or size < 0
        while not self._ended and (whole or not self._buffer):
            self._read_more()
        return self._take(len(self._buffer) if whole else size)

    def readline(self, size: int | None = -1) -> bytes:
        limit = sys.maxsize if size is None or size < 0 else size
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0 and len(self._buffer) < limit and not self._ended:
            searched = len(self._buffer)
            self._read_more()
        return self._take(min(limit, end + 1 if end >= 0 else len(self._buffer)))

    def more_has_come(self) -> bool:
        """Whether a whole line, or the end, is there or comes within `PATIENCE` after what came before."""
        searched = 0
        while self._buffer.find(b"\n", searched) < 0 and len(self._buffer) <= MAX_LINE_BYTES and not self._ended:
            searched = len(self._buffer)
            if not select.select([self._descriptor], [], [], PATIENCE)[0]:
                return False
            self._read_more()
        return True
