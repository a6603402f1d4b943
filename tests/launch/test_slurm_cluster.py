"""slurm.sbatch on a Slurm cluster of two nodes, started on this machine where Slurm is installed."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from saved_arrays import saved_arrays
from waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "tests" / "launch" / "slurm_cluster.sh"

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
missing = [name for name in PROGRAMS if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
if os.geteuid() != 0:
    missing.append("root")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        bool(missing), reason=f"no {', '.join(missing)} here; as root on Debian: tests/launch/slurm_cluster.sh install"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment variables with which Slurm's programs find a cluster of two nodes."""
    directory = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([CLUSTER, "start", directory], capture_output=True, text=True, timeout=120, check=False)
    try:
        assert started.returncode == 0, started.stderr
        yield {"SLURM_CONF": str(directory / "slurm.conf")}
    finally:
        subprocess.run([CLUSTER, "stop", directory], timeout=60, check=False)


class Job:
    """A job of the script on two nodes of the cluster."""

    def __init__(self, project, environment, *arguments, options=()):
        self.project = project
        self.environment = environment
        self.log = project.directory / "job.log"
        submitted = self.call(
            "sbatch", "--parsable", "--nodes=2", f"--output={self.log}", *options, "launch/slurm.sbatch", *arguments
        )
        self.id = submitted.strip()

    def call(self, *command):
        done = self.project.run(*command, **self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def field(self, name):
        """A field of `scontrol show job`."""
        shown = self.call("scontrol", "show", "job", self.id)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)[name]

    def wait_for(self, state, *, seconds=60):
        """Wait until the job has a state; if it does not come, show what the job wrote."""
        try:
            wait_until(lambda: self.field("JobState") == state, state, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.field('JobState')}\n{self.log.read_text()[-3000:]}") from None


COUNTING = """#!/bin/bash
# Counts steps on behalf of training, and saves at SIGTERM.
run=$4
[ "$SLURM_PROCID" != 0 ] || rm -f "$run/preempted"
trap 'sleep 1; [ "$SLURM_PROCID" != 0 ] || cp "$run/step" "$run/preempted"; exit 0' TERM
touch "$run/began.$SLURM_PROCID.${SLURM_RESTART_COUNT:-0}"
while [ ! -e "$run/end" ]; do
    [ "$SLURM_PROCID" != 0 ] || echo $(($(cat "$run/step" 2>/dev/null || echo 0) + 1)) >"$run/step"
    sleep 0.1
done
"""


@pytest.fixture
def counting(project, cluster):
    """A job of a program that stands in for training, both of its processes started; and its run's directory."""
    project.program("seq2seq", COUNTING)
    run = project.directory / "run"
    run.mkdir()
    job = Job(project, cluster, "dates/transformer", "--run-dir", "run")
    wait_until(lambda: len(list(run.glob("began.*.0"))) == 2, "started on both nodes")
    yield job, run
    job.call("scancel", job.id)


@pytest.mark.parametrize("to", ["processes", "script"])
def test_a_pre_empted_job_comes_back_and_ends(counting, to):
    """SIGTERM to the processes, as a pre-empting Slurm sends it, or to the script, as before the time limit."""
    job, run = counting
    job.call("scancel", "--signal=TERM", *(["--batch"] if to == "script" else []), job.id)
    wait_until(lambda: job.field("Restarts") == "1", "back in the queue")
    assert (run / "preempted").exists()
    wait_until(lambda: len(list(run.glob("began.*.1"))) == 2, "started again on both nodes", seconds=120)
    (run / "end").touch()
    job.wait_for("COMPLETED")
    assert job.field("Restarts") == "1"


def test_a_cancelled_job_saves_and_does_not_come_back(counting):
    job, run = counting
    job.call("scancel", job.id)
    job.wait_for("CANCELLED")
    assert (run / "preempted").exists()
    assert job.field("Restarts") == "0"


STEPS = 60
CONFIG = '''
"""Small, with dropout, packing, a worker, clipping and an average."""

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
    stack = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "hidden_dim": 64, "dropout": 0.2}
    return Experiment(
        data=ParallelText(
            directory="text", source="en", target="de", validation=None, test=None, cache_directory="cache",
            max_source_length=32, max_target_length=32, packing=True, window=64, workers=1,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=320),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=10, ema_decay=0.9),
        training=TrainingConfig(steps=%d, target_tokens_per_batch=2048, log_every=1, checkpoint_every=40,
        keep_latest=4), generation=BeamSearch(beam_size=2),
    )
'''


def write_text(directory):
    """400 numbers and their digits in words."""
    rng = random.Random(0)
    digits = "zero one two three four five six seven eight nine".split()
    numbers = [[rng.randrange(10) for _ in range(rng.randint(2, 6))] for _ in range(400)]
    sources = ["".join(map(str, number)) for number in numbers]
    targets = [" ".join(digits[digit] for digit in number) for number in numbers]
    directory.mkdir()
    for extension, lines in (("en", sources), ("de", targets)):
        (directory / f"train.{extension}").write_text("".join(f"{line}\n" for line in lines))


def steps_of(run):
    path = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_training_that_was_pre_empted_and_requeued_ends_bit_for_bit_as_if_it_never_was(project, cluster):
    """Two processes on two nodes, dropout on."""
    write_text(project.directory / "text")
    (project.directory / "small.py").write_text(textwrap.dedent(CONFIG % STEPS))
    environment = cluster | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "JAX_PLATFORMS": "cpu",
    }
    whole, requeued = project.directory / "whole", project.directory / "requeued"
    Job(project, environment, "small.py", "--run-dir", "whole").wait_for("COMPLETED", seconds=300)
    assert steps_of(whole)[-1] == STEPS

    job = Job(project, environment, "small.py", "--run-dir", "requeued")
    try:
        wait_until(lambda: len(steps_of(requeued)) >= 5, "five steps of training", seconds=300)
        job.call("scancel", "--signal=TERM", job.id)
        wait_until(lambda: job.field("Restarts") == "1", "back in the queue")
        saved_at = int((requeued / "preempted").read_text())
        assert 5 <= saved_at < STEPS
        assert (requeued / "checkpoints" / f"{saved_at:08d}").is_dir()
        job.wait_for("COMPLETED", seconds=300)
    finally:
        job.call("scancel", job.id)
    assert job.field("Restarts") == "1"
    assert f"continuing after step {saved_at}" in job.log.read_text()
    assert not (requeued / "preempted").exists()

    expected, found = saved_arrays(whole, STEPS), saved_arrays(requeued, STEPS)
    assert any("'params'" in name for name in expected)
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
    # The comparison can fail: what was saved at the pre-emption has other bits in every array of parameters.
    earlier = saved_arrays(requeued, saved_at)
    assert all(earlier[name] != expected[name] for name in expected if "'params'" in name)
    assert steps_of(requeued) == steps_of(whole) == list(range(1, STEPS + 1))
