"""A place with text and configs, a run that was trained there, and ways to call `seq2seq`."""

import contextlib
import dataclasses
import io
import os
import pathlib
import random
import shutil
import subprocess
import sys

import pytest
from command_line import call
from shared import made_once

REPOSITORY = pathlib.Path(__file__).parents[2]

CONFIG = '''"""Counted animals, for tests."""

from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment():
    stack = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "hidden_dim": 64, "dropout": 0.1}
    return Experiment(
        data=ParallelText(
            directory="text", source="en", target="de", cache_directory="cache",
            max_source_length=24, max_target_length=24, window=64,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=340),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=1e-2, schedule="constant", warmup_steps=10, ema_decay=0.9),
        training=TrainingConfig(
            steps=120, target_tokens_per_batch=480, log_every=25, checkpoint_every=30, evaluate_every=40,
            select_by="chrf",
        ),
        generation=BeamSearch(beam_size=2),
    )
'''

TABLE_CONFIG = '''"""The same text from a table."""

import dataclasses

from seq2seq_jax.data.tables import Table
from seq2seq_jax.experiment import load_config_by_name


def experiment():
    data = Table(
        directory="table", source="english", target="german", validation=None, test=None, cache_directory="cache",
        max_source_length=24, max_target_length=24,
    )
    return dataclasses.replace(load_config_by_name("tiny/transformer"), data=data)
'''

POLICY_CONFIG = '''"""The same fine-tuned with policy gradients."""

import dataclasses

from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.objectives.estimators import LeaveOneOut
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig


def experiment():
    tiny = load_config_by_name("tiny/transformer")
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, packing=False, bucket_lengths=(24,), test=None),
        objective=PolicyGradientConfig(
            estimator=LeaveOneOut(), samples_per_source=3, maximum_length_ratio=1.0, maximum_length_extra=6
        ),
        optimizer=dataclasses.replace(tiny.optimizer, learning_rate=1e-3),
        training=dataclasses.replace(tiny.training, steps=4, target_tokens_per_batch=240, log_every=2,
        evaluate_every=4),
    )
'''

DENOISING_CONFIG = '''"""The same text of both languages with spans taken out."""

import dataclasses

from seq2seq_jax.data.text_files import DocumentFiles
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.tasks.denoising import Denoising


def experiment():
    tiny = load_config_by_name("tiny/transformer")
    data = DocumentFiles(
        directory="text", train=("train.en", "train.de"), validation=("val.en", "val.de"), test=("test.en", "test.de"),
        cache_directory="cache", max_source_length=40,
    )
    return dataclasses.replace(
        tiny,
        data=data,
        task=Denoising(),
        tokenizer=dataclasses.replace(tiny.tokenizer, num_sentinels=8),
        training=dataclasses.replace(
            tiny.training, steps=40, target_tokens_per_batch=10 * Denoising().row_lengths(data)[1], evaluate_every=20,
            checkpoint_every=10, log_every=10, select_by="loss",
        ),
    )
'''

NUMBERS = dict(zip("two three four five six seven".split(), "zwei drei vier fünf sechs sieben".split(), strict=True))
COLOURS = dict(zip("black white brown red grey".split(), "schwarze weiße braune rote graue".split(), strict=True))
ANIMALS = dict(zip("dogs cats cows birds".split(), "Hunde Katzen Kühe Vögel".split(), strict=True))


def write_text(directory):
    """96 + 12 + 12 pairs: "two red cows" and "es sind zwei rote Kühe im Haus"."""
    directory.mkdir()
    pairs = [
        (f"{number} {colour} {animal}", f"es sind {NUMBERS[number]} {COLOURS[colour]} {ANIMALS[animal]} im Haus")
        for number in NUMBERS
        for colour in COLOURS
        for animal in ANIMALS
    ]
    random.Random(0).shuffle(pairs)
    for split, part in (("train", pairs[24:]), ("val", pairs[:12]), ("test", pairs[12:24])):
        for side, extension in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in part)
            (directory / f"{split}.{extension}").write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A directory with text/, and configs named tiny/transformer, table, policy and denoising. Tests only add to it."""
    directory = tmp_path_factory.mktemp("workplace")
    write_text(directory / "text")
    (directory / "table").mkdir()
    (directory / "table" / "train.jsonl").write_text('{"english": "two dogs", "german": "zwei Hunde"}\n')
    (directory / "configs" / "tiny").mkdir(parents=True)
    (directory / "configs" / "tiny" / "transformer.py").write_text(CONFIG)
    (directory / "configs" / "tiny" / "table.py").write_text(TABLE_CONFIG)
    (directory / "configs" / "tiny" / "policy.py").write_text(POLICY_CONFIG)
    (directory / "configs" / "tiny" / "denoising.py").write_text(DENOISING_CONFIG)
    return directory


def trained_once(factory, workplace, name, run, *arguments):
    """A run that one worker trains in a copy of its workplace, and all take over with what was prepared for it."""

    def train(directory):
        for part in ("text", "table", "configs"):
            shutil.copytree(workplace / part, directory / part)
        with contextlib.chdir(directory):
            assert call("train", *arguments) == 0

    made = made_once(factory, name, train)
    shutil.copytree(made / "cache", workplace / "cache", dirs_exist_ok=True)
    return pathlib.Path(shutil.copytree(made / run, workplace / run))


@pytest.fixture(scope="session")
def trained(workplace, tmp_path_factory):
    """A run of 120 steps, in the directory that `train` chooses. Not to be changed: see `copy_of_run`."""
    run = "runs/tiny/transformer/default/seed=3"
    return trained_once(tmp_path_factory, workplace, "trained", run, "tiny/transformer", "--training.seed", "3")


@pytest.fixture(scope="session")
def denoised(workplace, tmp_path_factory):
    """A run of tiny/denoising. Not to be changed."""
    run = "runs/denoised"
    return trained_once(tmp_path_factory, workplace, "denoised", run, "tiny/denoising", "--run-dir", run)


@pytest.fixture
def copy_of_run(trained, tmp_path):
    """A copy of the trained run, to be damaged and continued."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


@dataclasses.dataclass
class Outcome:
    """What a call left behind."""

    status: int
    output: str
    errors: str

    @property
    def error_line(self):
        """The one line on standard error; fails if there is not exactly one, or anything on standard output."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        assert len(lines) == 1, self.errors
        assert self.output == ""
        assert lines[0].startswith("seq2seq: ")
        return lines[0]


@pytest.fixture
def seq2seq(workplace, capfd, monkeypatch):
    """Calls the command line in this process, in the workplace, which is the home directory too."""
    monkeypatch.chdir(workplace)
    # Where evaluate prepares data for a run that it only reads.
    monkeypatch.setenv("HOME", str(workplace))

    def run(*arguments, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        status = call(*arguments)
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def process(workplace):
    """Calls the command line in a process of its own, in the workplace."""

    def run(*arguments, stdin=b"", before=(), **environment):
        finished = subprocess.run(
            [*before, sys.executable, "-m", "seq2seq_jax", *map(str, arguments)],
            cwd=workplace,
            input=stdin,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"} | environment,
            timeout=300,
            check=False,
        )
        return Outcome(finished.returncode, finished.stdout.decode(), finished.stderr.decode())

    return run


def content(directory):
    """Every file below a directory, with its bytes."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def unchanged():
    """A context in which a directory must not change."""

    @contextlib.contextmanager
    def check(directory):
        before = content(directory)
        yield
        after = content(directory)
        assert {str(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()

    return check
