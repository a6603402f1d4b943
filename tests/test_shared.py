"""What is made once for all workers: made by one, found by the others; and it fails once."""

import types

import pytest
from shared import made_once


def worker(directory):
    """What pytest gives a worker of pytest-xdist, in as far as it is read."""
    directory.mkdir(exist_ok=True)
    return types.SimpleNamespace(getbasetemp=lambda: directory)


def test_the_first_makes_it_and_all_others_find_it(tmp_path):
    calls = []

    def make(directory):
        calls.append(directory)
        (directory / "file").write_text("made")

    found = [made_once(worker(tmp_path / f"popen-gw{index}"), "thing", make) for index in (0, 1, 0)]
    assert found == [tmp_path / "shared" / "thing"] * 3 and calls == found[:1]
    assert (found[0] / "file").read_text() == "made"


def test_what_could_not_be_made_is_not_tried_again(tmp_path):
    calls = []

    def make(directory):
        calls.append(directory)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        made_once(worker(tmp_path / "popen-gw0"), "thing", make)
    with pytest.raises(AssertionError, match="making thing failed before: OSError: no room"):
        made_once(worker(tmp_path / "popen-gw1"), "thing", make)
    assert len(calls) == 1
