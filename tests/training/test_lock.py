"""A run directory has one training at a time: who holds it is said, and what has ended holds nothing."""

import errno
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from logged import own_messages
from waiting import wait_until

from seq2seq_jax.training import lock
from seq2seq_jax.training.lock import LockedError, locked

REPOSITORY = pathlib.Path(__file__).parents[2]


def nobody_lost(reason):
    raise AssertionError(reason)


def hold(directory):
    return locked(directory, lost=nobody_lost)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/run."""
    script = f"""
        import pathlib, time
        from seq2seq_jax.training.lock import locked
        with locked(pathlib.Path({str(tmp_path / "run")!r}), lost=print):
            print("held", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_one_is_refused_with_who_holds_it_and_a_dead_ones_lock_is_taken_over(tmp_path, holder, caplog):
    said = rf"in use: process {holder.pid} on \S+, since 20\d\d-\d\d-\d\d .* trains there.*\d s ago. Wait for it"
    for _ in range(2):
        with pytest.raises(LockedError, match=said) as error, hold(tmp_path / "run"):
            pass
        assert "\n" not in str(error.value) and isinstance(error.value, ValueError)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError), hold(tmp_path / "run"):
        pass
    assert not own_messages(caplog)
    holder.kill()
    holder.wait()
    with hold(tmp_path / "run"):
        [line] = own_messages(caplog)
        assert re.search(rf"Taking over .*has ended: process {holder.pid} on", line)
        assert json.loads((tmp_path / "run" / "lock").read_text())["process"] == os.getpid()


def test_the_lock_is_gone_afterwards_and_so_is_a_directory_that_was_made_for_it(tmp_path):
    with hold(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run" / "lock").exists()
        with pytest.raises(LockedError), hold(tmp_path / "a" / "run"):
            pass
        assert (tmp_path / "a" / "run" / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "run"):
        (tmp_path / "run" / "text").write_text("kept")
        1 / 0  # noqa: B018
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["text"]
    with hold(tmp_path / "run"), hold(tmp_path / "another"):
        pass


def write_lock(directory, seconds_ago, **changes):
    """The lock of a process of another machine."""
    directory.mkdir()
    path = directory / "lock"
    path.write_text(json.dumps({"process": 7, "host": "far", "since": "2026-01-01", "machine": "far 1"} | changes))
    time_then = os.stat(path).st_mtime - seconds_ago
    os.utime(path, (time_then, time_then))
    return path


def test_on_another_machine_a_process_lives_as_long_as_it_gives_signs(tmp_path, caplog):
    write_lock(tmp_path / "alive", 200)
    with pytest.raises(LockedError, match="process 7 on far.* 200 s ago.*same command works in 100 s"):
        with hold(tmp_path / "alive"):
            pass
    write_lock(tmp_path / "silent", 301)
    with hold(tmp_path / "silent"):
        assert "process 7 on far, since 2026-01-01" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_lock_that_says_nothing_holds_nothing_for_long(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    os.utime(tmp_path / "lock", (0, 0))
    with hold(tmp_path):
        pass
    assert not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_goes_by_signs_of_life(tmp_path, monkeypatch):
    def unknown(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with hold(tmp_path / "run"):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"), hold(tmp_path / "run"):
            pass
    write_lock(tmp_path / "dead", 301, machine=lock._machine())
    with hold(tmp_path / "dead"):
        pass


def test_a_lock_is_touched_and_who_loses_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SECONDS_BETWEEN_SIGNS", 0.02)
    told = []
    with locked(tmp_path, lost=told.append):
        os.utime(tmp_path / "lock", (0, 0))
        wait_until(lambda: (tmp_path / "lock").stat().st_mtime > 0, "touched")
        assert not told
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("of another")
        wait_until(lambda: told, "told")
    assert len(told) == 1 and "removed or taken over" in told[0]
    assert (tmp_path / "lock").read_text() == "of another", "it is not ours to remove"


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError), hold(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"
