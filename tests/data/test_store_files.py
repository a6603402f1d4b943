"""What is unfinished: kept while a process is at work in it, removed when none is."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from seq2seq_jax.data import store_files
from seq2seq_jax.data.store_files import remove_left_behind, unfinished_directory

WORK = textwrap.dedent("""
    import pathlib, sys, time
    from seq2seq_jax.data.store_files import unfinished_directory
    with unfinished_directory(pathlib.Path(sys.argv[1]), "key") as path:
        (path / "half").write_text("done")
        print(path.name, flush=True)
        time.sleep(600)
""")


@pytest.fixture
def worker(tmp_path):
    """Another process at work, and the name of its directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, tmp_path], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path, worker):
    process, name = worker
    with unfinished_directory(tmp_path, "other") as own:
        assert {path.name for path in tmp_path.iterdir()} == {name, own.name}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / name / "half").exists()
    with unfinished_directory(tmp_path, "other") as own:
        assert [path.name for path in tmp_path.iterdir()] == [own.name]
        # Another thread of this process does not take it either.
        remove_left_behind([own])
        assert own.exists()


def test_what_is_not_of_this_machine_is_removed_when_nothing_in_it_changed_for_a_week(tmp_path):
    week = store_files.SECONDS_OF_A_WEEK
    for name, age in (("key.unfinished.far.1", 0.9), ("key.unfinished.far.2", 1.1), ("incomplete.XY_1.0.0", 1.1)):
        directory = tmp_path / name
        (directory / "inner").mkdir(parents=True)
        (directory / "inner" / "file").write_text("")
        then = time.time() - age * week
        for path in (directory / "inner" / "file", directory / "inner", directory):
            os.utime(path, (then, then))
    remove_left_behind(tmp_path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["key.unfinished.far.1"]
    os.utime(tmp_path / "key.unfinished.far.1", (0, 0))
    remove_left_behind([*tmp_path.iterdir(), tmp_path / "missing"])
    assert (tmp_path / "key.unfinished.far.1").exists(), "a file in it is younger"


def test_a_directory_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, taken = store_files.fcntl.flock, []

    def remove_first(file, operation):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        return flock(file, operation)

    monkeypatch.setattr(store_files.fcntl, "flock", remove_first)
    with unfinished_directory(tmp_path, "key") as path:
        assert path.is_dir() and path not in taken
