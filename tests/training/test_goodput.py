"""Where time goes, by a clock that is moved by hand."""

import time

import pytest

from seq2seq_jax.training.goodput import CAUSES, Ledger, goodput


@pytest.fixture
def clock(monkeypatch):
    """Moves time on by some seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_time_goes_to_what_was_said_last(clock):
    ledger = Ledger()
    clock(3)
    ledger.start_training()
    clock(5)
    with ledger.spending_on("validation"):
        clock(7)
        with ledger.spending_on("saving"):
            clock(2)
        clock(1)
    with ledger.spending_on("input"):
        clock(4)
    clock(10)
    found = ledger.read()
    assert found == dict.fromkeys(CAUSES, 0.0) | {
        "starting": 3, "training": 15, "validation": 8, "saving": 2, "input": 4
    }  # fmt: skip
    assert goodput(found) == 15 / 32


def test_a_run_that_goes_on_has_lost_what_came_after_its_checkpoint(clock):
    first = Ledger()
    first.start_training()
    clock(20)
    saved, saved_at = first.read(), time.time()
    clock(6)
    # Killed here, and started again 30 seconds later.
    clock(30)
    second = Ledger()
    clock(2)
    second.resume(saved, saved_at=saved_at)
    second.start_training()
    clock(12)
    found = second.read()
    assert (found["training"], found["restarts"], found["starting"]) == (32, 36, 2)
    assert goodput(found) == 32 / 70


def test_an_error_ends_what_time_was_spent_on(clock):
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.spending_on("saving"):
        clock(1)
        raise KeyError
    clock(2)
    assert ledger.read()["saving"] == 1 and ledger.read()["starting"] == 2
