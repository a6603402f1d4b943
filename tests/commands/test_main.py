"""The command line around its commands: streams that cannot show a text, and what the system refuses."""

import errno
import io
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from jax.errors import JaxRuntimeError

from seq2seq_jax.commands import console, evaluate, train
from seq2seq_jax.commands.main import COMMANDS, main
from seq2seq_jax.data.tokenizer import TokenizerConfig


def written(stream):
    stream.flush()
    return stream.buffer.getvalue().decode("ascii")


def test_streams_without_letters_end_no_work(monkeypatch):
    """What a command shows when its work is done, on streams as PYTHONIOENCODING=ascii makes them."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def show(arguments):
        console.table([("run", "läuft"), ("text", "日本")], title="dépôt")
        print("十")
        with console.Display() as display:
            display.line("quelle     日本")
            display.progress("générer", 1, 1)
        raise ValueError("there is no file café")

    monkeypatch.setattr(evaluate, "run", show)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "run"])
    out, err = map(written, streams)
    assert stop.value.code == 2
    assert r"l\xe4uft" in out and r"\u65e5\u672c" in out and r"\u5341" in out
    assert r"quelle     \u65e5\u672c" in err and err.endswith("seq2seq: there is no file caf\\xe9\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "runs/" + "x" * 300 + "/seed=0"),
            "a name of 300 bytes is longer than the file system takes (255 as a rule): " + "x" * 40 + "... Give a",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "No space left on device: 'a/b'. What was complete"),
        (MemoryError("Unable to allocate\n9 bytes"), "there is too little memory (Unable to allocate 9 bytes). Lower"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "there is too little memory (RESOURCE_EXHAUSTED: Out"),
    ],
    ids=["long name", "full disk", "host memory", "device memory"],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, said):
    def fail(arguments, *parsed):
        raise error

    monkeypatch.setattr(train, "run", fail)
    with pytest.raises(SystemExit) as stop:
        main(["train", "dates/transformer"])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


@pytest.mark.parametrize(("command", "continues"), [("train", True), ("evaluate", False)])
def test_an_interrupt_says_what_is_true_of_the_command(monkeypatch, capsys, command, continues):
    def stop_it(arguments, *parsed):
        raise KeyboardInterrupt

    monkeypatch.setattr({"train": train, "evaluate": evaluate}[command], "run", stop_it)
    with pytest.raises(SystemExit) as stop:
        main([command, "dates/transformer"])
    assert stop.value.code == 130
    shown = capsys.readouterr().err
    assert shown.startswith("seq2seq: interrupted.") and ("continues from the last checkpoint" in shown) == continues


@pytest.mark.long
def test_an_interrupt_is_not_lost_where_it_cannot_be_raised(monkeypatch, capsys):
    """As when it comes in a callback of the garbage collector, where jax spends some time."""

    class Interrupted:
        def __del__(self):
            raise KeyboardInterrupt

    def work(arguments, *parsed):
        Interrupted()
        # In parts: it is raised between two of Python's instructions.
        for _ in range(600):
            time.sleep(0.1)

    monkeypatch.setattr(evaluate, "run", work)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    # Whoever started the tests in the background has interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", "run"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "seq2seq: interrupted.\n"


def test_other_errors_of_devices_are_no_lack_of_memory(monkeypatch):
    def fail(arguments, *parsed):
        raise JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(train, "run", fail)
    with pytest.raises(JaxRuntimeError):
        main(["train", "dates/transformer"])


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_argument_is_no_config_and_no_run(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, ""])
    assert stop.value.code == 2
    assert f"seq2seq {command} needs " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "expected", "shown"),
    [
        (TokenizerConfig(vocabulary_size=300), 300, "bpe, 300, "),
        (TokenizerConfig(vocabulary_size=None), 280, "bpe, 280, "),
        (TokenizerConfig(vocabulary_size=None, joint=False), [280, 1_290], "bpe, 280 and 1,290, "),
    ],
)
def test_a_size_that_followed_the_text_is_shown_as_it_came_out(config, expected, shown):
    sizes = SimpleNamespace(source_size=280, target_size=1_290, joint=config.joint)
    figures = evaluate.tokenizer_figures(config, SimpleNamespace(vocabulary=sizes))
    assert figures["vocabulary_size"] == expected
    assert evaluate.tokenizer_row(figures)[1].startswith(shown)
