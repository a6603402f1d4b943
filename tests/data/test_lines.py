"""Lines come whole and in order from files, pipes and streams; what is none is named before it fills memory."""

import contextlib
import gzip
import io
import os
import sys
import threading

import pytest

from seq2seq_jax.data import lines as lines_module
from seq2seq_jax.data.lines import decode_lines, is_blank, open_input

MARK = "\ufeff"


def decoded(data, **settings):
    return list(decode_lines(io.BytesIO(data), "FILE", **settings))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\r\n\r\nb\r", ["a", "", "b"]),
        ("a\u2028b\x0c\x0b\x85\x1c\n\x00\n".encode(), ["a\u2028b\x0c\x0b\x85\x1c", "\x00"]),
        # As `cat` leaves them; within a line the character is the writer's own.
        (f"{MARK}{MARK}a\n{MARK}b{MARK}c\n{MARK}\n".encode(), ["a", f"b{MARK}c", ""]),
        (b"a\rb\nc\n", ["a\rb", "c"]),
    ],
    ids=["nothing", "an empty line", "CRLF", "other separators", "byte order marks", "a return inside"],
)
def test_lines_without_their_ends_and_marks(data, expected):
    assert decoded(data) == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a\rb\rc", ["FILE is one line with 2 carriage returns", "CR alone"]),
        (b"a\rb\r", ["FILE is one line with 1 carriage return inside"]),
        (b"a\rb\n", ["CR alone"]),
        (b"a\n\xff\xfea\x00", ["line 2 of FILE is not UTF-8", "byte 0"]),
        (b"a\n" + b"b" * 101, ["line 2 of FILE is longer than 100 bytes"]),
    ],
)
def test_what_is_no_text_of_lines_is_named(data, said):
    with pytest.raises(ValueError) as error:
        decoded(data, max_bytes=100)
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


def test_a_line_may_be_as_long_as_the_limit():
    assert decoded(b"a" * 100 + b"\r\n" + b"b" * 100, max_bytes=100) == ["a" * 100, "b" * 100]


def test_of_a_gzip_bomb_no_more_is_read_than_a_line_may_have(monkeypatch):
    bomb = io.BytesIO(gzip.compress(bytes(50_000_000)))
    read = []
    with gzip.GzipFile(fileobj=bomb) as file:
        readline = file.readline
        monkeypatch.setattr(file, "readline", lambda size: read.append(readline(size)) or read[-1])
        with pytest.raises(ValueError, match="line 1 of FILE is longer than 1,000 bytes"):
            list(decode_lines(file, "FILE", max_bytes=1000))
    assert sum(map(len, read)) <= 1002


@pytest.mark.parametrize(
    "text", ["", " ", "\t \x0b", "\u00a0", "\u3000", "\u200b", MARK, "\u2060\u200d\u00ad", "\u2028", "\x00"]
)
def test_what_cannot_be_seen_is_blank(text):
    assert is_blank(text)
    assert is_blank(text * 3 + " ")
    assert not is_blank(f"{text}.{text}")


TEXT = "one\n\ntwo\r\nthree ä"
LINES = ["one", "", "two", "three ä"]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("where", ["file", "fifo", "standard input", "a pipe as standard input", "in memory"])
def test_the_same_lines_from_anywhere(tmp_path, monkeypatch, where, zipped):
    data = gzip.compress(TEXT.encode()) if zipped else TEXT.encode()
    # Gzip is known by its content, not by its name.
    path = tmp_path / "text"
    name = str(path)
    with contextlib.ExitStack() as opened:
        if where == "fifo":
            os.mkfifo(path)
            threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
        else:
            path.write_bytes(data)
        if where not in ("file", "fifo"):
            name = None
            if where == "a pipe as standard input":
                reader, writer = os.pipe()
                os.write(writer, data)
                os.close(writer)
                stream = open(reader, "rb")
            else:
                stream = open(path, "rb") if where == "standard input" else io.BytesIO(data)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(opened.enter_context(stream)))
        with open_input(name) as given:
            assert given.may_wait == (where in ("fifo", "a pipe as standard input"))
            assert list(given.lines()) == LINES
            if not given.may_wait:
                assert list(given.lines()) == LINES, "a file can be gone through again"


def test_a_line_is_given_as_soon_as_it_has_come(monkeypatch):
    monkeypatch.setattr(lines_module, "PATIENCE", 0.02)
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open_input(f"/dev/fd/{stream.fileno()}") as given:
        lines = given.lines()
        os.write(writer, b"one\ntwo\nthr")
        assert next(lines) == "one"
        assert given.more_has_come()
        assert next(lines) == "two"
        assert not given.more_has_come(), "a part of a line is none"
        os.write(writer, b"ee\n")
        assert given.more_has_come()
        assert next(lines) == "three"
        assert not given.more_has_come()
        os.close(writer)
        assert given.more_has_come(), "the end need not be waited for"
        assert list(lines) == []


@pytest.mark.parametrize("what", ["nothing", "a directory"])
def test_a_path_that_is_no_file_is_named(tmp_path, what):
    path = tmp_path if what == "a directory" else tmp_path / "nothing"
    with pytest.raises(ValueError, match=str(path)), open_input(str(path)):
        pass


def test_standard_input_that_is_closed_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"), open_input(None):
        pass
