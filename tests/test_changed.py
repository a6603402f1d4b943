"""Which changes reach the tests that are marked deep, and which compiled programs are kept for the next session."""

import time
import zlib
from pathlib import Path

import pytest
from changed import is_reached
from compiling import Session


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seq2seq_jax/model.py"}, True),
        # Imported by the decoders, which the model imports.
        ({"seq2seq_jax/modules/dropout.py"}, True),
        ({"tests/test_changed.py"}, True),
        ({"seq2seq_jax/run/inference.py", "README.md", "tests/test_model.py"}, False),
        (set(), False),
        (None, True),
    ],
)
def test_a_change_reaches_what_imports_it(changed, expected):
    changed = None if changed is None else frozenset(changed)
    assert is_reached(("seq2seq_jax.model",), of=Path(__file__), changed=changed) == expected


def test_whole_programs_are_kept_for_the_next_session_and_others_are_not(tmp_path):
    program = zlib.compress(bytes(range(256)) * 40)
    first = Session(tmp_path)
    (first.directory / "whole-cache").write_bytes(program)
    (first.directory / "part-cache").write_bytes(program[:-9])
    first.end()
    second = Session(tmp_path)
    assert [path.name for path in second.directory.iterdir()] == ["whole-cache"]
    assert (second.directory / "whole-cache").read_bytes() == program
    second.end()
    assert [path.name for path in tmp_path.iterdir()] == ["whole-cache.program"]


def test_programs_that_are_old_are_forgotten(tmp_path, monkeypatch):
    first = Session(tmp_path)
    (first.directory / "whole-cache").write_bytes(zlib.compress(b"program"))
    first.end()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 15 * 24 * 3600)
    second = Session(tmp_path)
    assert list(second.directory.iterdir()) == []
    second.end()
    assert list(tmp_path.iterdir()) == []
