"""--help says all, and nothing else does."""

import contextlib
import pathlib
import subprocess
import sys

import pytest

from seq2seq_jax.commands.main import COMMANDS
from seq2seq_jax.experiment import flatten, load_config

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_names_every_command(seq2seq, arguments):
    outcome = seq2seq(*arguments)
    assert (outcome.status, outcome.errors) == (0, "")
    for command in ("train", "data", "evaluate", "generate", "chat", "align", "average", "benchmark", "compile"):
        assert f"seq2seq {command} " in outcome.output


@pytest.mark.parametrize(
    ("command", "first", "names"),
    [
        ("train", "CONFIG", ["run_dir", "json", "processes.stall_timeout"]),
        ("evaluate", "RUN", ["split", "json", "generation.beam_size", "mesh.data", "data.cache_directory"]),
        ("generate", "RUN", ["input", "output", "json", "generation.n_best"]),
        ("chat", "RUN", ["transcript", "checkpoint", "generation.top_p", "mesh.data"]),
        ("align", "RUN", ["input", "target", "output", "layer", "head", "json", "generation.beam_size"]),
        ("average", "RUN", ["output", "last"]),
        ("benchmark", "CONFIG", ["parts", "rounds", "profile", "sweep", "compare", "synthetic"]),
        ("compile", "CONFIG", ["topology", "steps", "sweep", "json"]),
    ],
)
def test_help_of_a_command_needs_nothing_else(seq2seq, command, first, names):
    outcome = seq2seq(command, "--help")
    assert (outcome.status, outcome.errors) == (0, "")
    assert outcome.output.startswith(f"usage: seq2seq {command} {first} ")
    assert [name for name in names if f"--{name}" not in outcome.output.split()] == []
    if first == "CONFIG":
        assert "Every field of the experiment is an option, too" in outcome.output


HEAVY = {
    "jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "tensorboardX", "sacrebleu",
    "rouge_score", "nltk", "jiwer",
}  # fmt: skip

IMPORTED = """
import sys
from seq2seq_jax.commands.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    print(stop.code, *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("status", "allowed", "command"),
    [
        (2, set(), "trian"),
        (2, set(), "train --training.steps 3"),
        *((0, set(), f"{name} --help") for name in COMMANDS),
        # The experiment is made of classes that stand beside models and optimizers.
        (0, {"jax", "flax", "optax"}, "train dates/transformer --help"),
        (2, {"jax", "flax", "optax"}, "train dates/transformer --training.stps 3"),
        (2, {"jax", "flax", "optax"}, "benchmark dates/transformer --rounds 1"),
        (2, {"jax", "flax", "optax"}, "compile dates/transformr"),
    ],
)
def test_nothing_is_imported_before_it_is_needed(status, allowed, command):
    finished = subprocess.run(
        [sys.executable, "-c", IMPORTED, *command.split()], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    code, *imported = finished.stderr.splitlines()[-1].split()
    assert int(code) == status
    assert {"seq2seq_jax", "rich"} <= set(imported)
    assert HEAVY & set(imported) <= allowed


def test_no_command_shows_the_usage_and_is_a_mistake(seq2seq):
    outcome = seq2seq()
    assert outcome.status == 2
    assert "seq2seq train CONFIG" in outcome.output


@pytest.mark.parametrize(
    "command", ["train", "data", "evaluate", "generate", "chat", "align", "average", "benchmark", "compile"]
)
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
    assert "Target token positions of a global batch" in " ".join(outcome.output.split())


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
