"""--help says all, and nothing else does."""

import contextlib

import pytest

from seq2seq_jax.experiment import flatten, load_config


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_names_every_command(seq2seq, arguments):
    outcome = seq2seq(*arguments)
    assert (outcome.status, outcome.errors) == (0, "")
    for command in ("train", "evaluate", "generate", "align", "average", "benchmark", "compile"):
        assert f"seq2seq {command} " in outcome.output


@pytest.mark.parametrize(
    ("command", "first", "names"),
    [
        ("train", "CONFIG", ["run_dir", "training.steps", "data.packing", "model.encoder.num_layers"]),
        ("evaluate", "RUN", ["split", "json", "generation.beam_size", "mesh.data", "data.cache_directory"]),
        ("generate", "RUN", ["input", "output", "json", "generation.n_best"]),
        ("align", "RUN", ["input", "target", "output", "layer", "head", "json", "generation.beam_size"]),
        ("average", "RUN", ["output", "last"]),
        ("benchmark", "CONFIG", ["parts", "rounds", "profile", "sweep", "compare", "synthetic", "data.packing"]),
        ("compile", "CONFIG", ["topology", "steps", "sweep", "json", "mesh.fsdp", "training.batch_tokens"]),
    ],
)
def test_help_of_a_command_needs_nothing_else(seq2seq, command, first, names):
    outcome = seq2seq(command, "--help")
    assert (outcome.status, outcome.errors) == (0, "")
    assert outcome.output.startswith(f"usage: seq2seq {command} {first} ")
    assert [name for name in names if f"--{name}" not in outcome.output.split()] == []


def test_no_command_shows_the_usage_and_is_a_mistake(seq2seq):
    outcome = seq2seq()
    assert outcome.status == 2
    assert "seq2seq train CONFIG" in outcome.output


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "align", "average", "benchmark", "compile"])
def test_a_command_without_its_first_argument_is_a_mistake(seq2seq, command):
    outcome = seq2seq(command)
    assert outcome.status == 2
    assert outcome.errors.count("\n") == 1
    assert f"seq2seq {command} needs" in outcome.errors


def test_help_of_train_names_every_field(seq2seq, workplace):
    outcome = seq2seq("train", "tiny/transformer", "--help")
    assert (outcome.status, outcome.errors) == (0, "")
    assert "Counted animals, for tests." in outcome.output
    words = set(outcome.output.split())
    with contextlib.chdir(workplace):
        experiment, _ = load_config(workplace / "configs" / "tiny" / "transformer.py")
    names = [name for name in flatten(experiment) if not name.endswith("class")]
    assert len(names) > 60
    assert [name for name in [*names, "run_dir"] if f"--{name}" not in words] == []
    # Meaning and unit stand beside: the docstrings of the fields.
    assert "Target token places of a global batch" in " ".join(outcome.output.split())


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("evaluate", ["split", "checkpoint", "json", "output", "generation.beam_size", "mesh.data", "data.directory"]),
        ("generate", ["input", "output", "json", "checkpoint", "generation.n_best", "mesh.tensor"]),
        ("align", ["input", "target", "output", "layer", "head", "json", "checkpoint", "mesh.data"]),
        ("average", ["output", "last"]),
    ],
)
def test_help_with_a_run_names_every_field(seq2seq, trained, command, names):
    outcome = seq2seq(command, trained, "--help")
    assert (outcome.status, outcome.errors) == (0, "")
    assert [name for name in names if f"--{name}" not in outcome.output.split()] == []
