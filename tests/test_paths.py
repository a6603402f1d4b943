"""Paths as people write them."""

import os
import pathlib

import pytest

from seq2seq_jax.paths import unicode_path, user_path


def test_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a") == tmp_path / "runs" / "a"
    assert user_path("a/~b") == pathlib.Path("a/~b")
    assert unicode_path("~") == tmp_path


def test_no_home_directory(monkeypatch):
    """As in a container that is run as a user without an entry."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ValueError, match=r"the home directory in ~/\.cache/x is not known.*set HOME.*cache_directory"):
        user_path("~/.cache/x")


@pytest.mark.parametrize("path", ["", b""])
def test_an_empty_path(path):
    with pytest.raises(ValueError, match="got an empty one"):
        user_path(os.fsdecode(path))


def test_a_path_that_is_not_unicode(tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"caf\\xe9.*not UTF-8"):
        unicode_path(odd / "run")
    assert user_path(odd) == odd, "a file of one's own may have any name"
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(ValueError, match="not UTF-8"):
        unicode_path("run")
