"""What a person sees, and the log that has all of it."""

import logging
import re

import numpy as np
import pytest

from seq2seq_jax.commands.console import Display, cut
from seq2seq_jax.commands.train import warn_of_players_without_update
from seq2seq_jax.training.step import PlayerState, TrainState

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d  "


def lines_of(path):
    """Lines of a log without their times; every line has one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.match(TIME, line)] == []
    return [re.sub(TIME, "", line, count=1) for line in lines]


def test_the_log_has_what_was_shown_before_and_after_it_was_opened_and_more(tmp_path, capsys):
    with Display() as display:
        display.line("early")
        display.keep_log(tmp_path / "train.log")
        display.line("short ...", whole="a long text\nof two lines")
        display.log("for the log alone")
        logging.getLogger("seq2seq_jax.data").warning("left out %d pairs", 3)
        display.progress("encoding", 2, 2)
    assert lines_of(tmp_path / "train.log") == [
        "early", "a long text", "of two lines", "for the log alone",
        "WARNING seq2seq_jax.data: left out 3 pairs", "encoding: 2 of 2",
    ]  # fmt: skip
    assert capsys.readouterr().err.splitlines() == ["early", "short ...", "left out 3 pairs", "encoding: 2 of 2"]


def test_a_continued_run_adds_to_its_log(tmp_path):
    for text in ("first", "second"):
        with Display() as display:
            display.keep_log(tmp_path / "train.log")
            display.line(text)
    assert lines_of(tmp_path / "train.log") == ["first", "second"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such field"), ["stopped: ValueError: no such field"]),
        (KeyboardInterrupt(), ["stopped: KeyboardInterrupt: "]),
        (ZeroDivisionError("defect"), ["stopped: Traceback (most recent call last):", "ZeroDivisionError: defect"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_log_says_how_it_ended(tmp_path, error, said):
    with pytest.raises(type(error)), Display() as display:
        display.keep_log(tmp_path / "train.log")
        raise error
    lines = lines_of(tmp_path / "train.log")
    assert [lines[0], *([lines[-1]] if len(said) > 1 else [])] == said


def test_a_process_that_does_not_speak_writes_nothing(tmp_path, capsys):
    with Display(speaks=False) as display:
        display.line("nothing")
        display.log("nothing")
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_cut_to_one_line_that_says_how_long_it_was():
    assert cut("two\nlines", 20) == "two lines"
    shown = cut("word " * 100, 60)
    assert len(shown) == 60
    assert shown.startswith("word word") and shown.endswith(" ... (500 characters)")


def test_a_player_that_no_turn_has_trained_is_named(caplog):
    def player(updates):
        return PlayerState(params={}, optimizer_state=(), average=None, updates=np.int32(updates))

    players = {"model": player(0), "discriminator": player(2)}
    warn_of_players_without_update(TrainState(step=2, players=players, objective={}), step=2)
    [record] = caplog.records
    assert record.getMessage().startswith("Player model had no update in 2 steps, and is as it was at the start")
