"""Files that are whole or not there, and digests that any change of a file changes."""

import hashlib
import os
import random

import pytest

from seq2seq_jax import files
from seq2seq_jax.files import file_digest, remove_unfinished, write_whole


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert list(tmp_path.iterdir()) == [path]


def test_its_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "other").write_text("")
    write_whole(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    "planted",
    ["a.json", "a.tmp", "a.json.tmp", f".a.json.{os.getpid()}"],
    ids=["name", "name.tmp", "name.json.tmp", "with the process"],
)
def test_a_planted_link_is_not_written_through(tmp_path, planted):
    target = tmp_path / "elsewhere"
    target.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / planted).symlink_to(target)
    write_whole(tmp_path / "run" / "a.json", "new")
    assert target.read_text() == "precious"
    assert (tmp_path / "run" / "a.json").read_text() == "new"


def test_a_link_under_the_very_name_that_is_drawn_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "drawn")
    (tmp_path / ".a.drawn.unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", "new")
    assert not (tmp_path / "elsewhere").exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_leaves_is_removed(tmp_path):
    for name in (".a.0123.unfinished", "a", ".hidden", "b.unfinished"):
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a", "b.unfinished"]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_a_digest_is_that_of_the_digests_of_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(files, "BLOCK_BYTES", 64)
    data = random.Random(size).randbytes(size)
    (tmp_path / "data").write_bytes(data)
    blocks = [data[start : start + 64] for start in range(0, size, 64)]
    expected = hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()
    assert file_digest(tmp_path / "data") == expected
