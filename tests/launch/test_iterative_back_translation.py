"""iterative_back_translation.sh: each direction learns from what the other one translated in the round before."""

import shlex
import subprocess
from pathlib import Path

from seq2seq_jax.commands.options import parse

SCRIPT = Path(__file__).parents[2] / "launch" / "iterative_back_translation.sh"


def shown(*arguments):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_rounds_follow_each_other():
    found = shown("--dry-run", "D", "2", "data", "en", "de", "m.en", "m.de", "--training.steps", "5")
    commands = [shlex.split(line)[1:] for line in found.stdout.splitlines()]
    assert [command[0] for command in commands] == ["train", "train", *["translate-corpus"] * 2, "train", "train"] + [
        "translate-corpus", "translate-corpus", "train", "train",
    ]  # fmt: skip
    assert commands[2] == ["translate-corpus", "D/0/de-en", "--input", "m.de", "--output", "D/1/back-de"]
    assert commands[6] == ["translate-corpus", "D/1/de-en", "--input", "m.de", "--output", "D/2/back-de"]
    last = parse("train", commands[-1][1:]).arguments
    real, synthetic = last.experiment.data.parts
    # German to English: the sources are what the model of round 1 made of English text.
    assert last.run_dir == "D/2/de-en" and (real.source.source, real.source.target) == ("de", "en")
    assert synthetic.source.directory == "D/2/back-en" and last.experiment.training.steps == 5


def test_a_mistake_is_one_line():
    found = shown("D", "1")
    assert found.returncode == 2 and found.stdout == ""
    assert "expected seven arguments, got 2" in found.stderr and found.stderr.count("\n") == 1
