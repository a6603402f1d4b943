"""A run that is killed again and again and continued ends as the run that never was: bit for bit."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from command_line import call
from saved_arrays import saved_arrays

pytestmark = pytest.mark.long
REPOSITORY = pathlib.Path(__file__).parents[2]
STEPS = 60
TIMES = {
    "source_and_target_tokens_per_second", "pairs_per_second",
    "model_flops_per_second", "mfu", "checkpoint_stall_fraction", "compilations",
    "tokens_per_second", "source_tokens_per_second", "steps_per_second", "rewards_per_second",
    "sampled_tokens_per_second", "input_wait_fraction", "seconds",
    "goodput",
}  # fmt: skip
CONFIG = (
    '''
"""Small, with all that a run has to remember: dropout, packing, workers, an average, validations, clipping."""

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
    stack = {
        "num_layers": 1, "model_dim": 32, "num_heads": 2, "hidden_dim": 64,
        "dropout": 0.2, "attention_dropout": 0.1, "hidden_dropout": 0.1,
    }
    return Experiment(
        data=ParallelText(
            directory="text", source="en", target="de", test=None, cache_directory="cache",
            max_source_length=32, max_target_length=32, packing=True, window=64, workers=2,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=320),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=10, ema_decay=0.9),
        training=TrainingConfig(
            steps=%d, target_tokens_per_batch=2048, log_every=3, checkpoint_every=5, evaluate_every=20, patience=9,
        ),
        generation=BeamSearch(beam_size=2),
    )
'''
    % STEPS
)

POLICY_CONFIG = '''
"""The same with policy gradients, with a baseline and a frozen reference that have to be remembered too."""

import dataclasses

from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.objectives.estimators import Reinforce
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig


def experiment():
    small = load_config_by_name("small.py")
    return dataclasses.replace(
        small,
        data=dataclasses.replace(small.data, validation=None, packing=False, bucket_lengths=(32,)),
        objective=PolicyGradientConfig(
            estimator=Reinforce(baseline="moving_average"), samples_per_source=2, kl_weight=0.1, likelihood_weight=0.1,
            maximum_length_ratio=1.0, maximum_length_extra=2,
        ),
        optimizer=dataclasses.replace(small.optimizer, schedule="constant"),
        training=dataclasses.replace(small.training, steps=24, target_tokens_per_batch=512, log_every=2,
        checkpoint_every=4),
    )
'''


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with text and a config."""
    directory = tmp_path_factory.mktemp("resume")
    (directory / "text").mkdir()
    rng = random.Random(0)
    digits = "zero one two three four five six seven eight nine".split()
    for split, size in (("train", 400), ("val", 12)):
        numbers = [[rng.randrange(10) for _ in range(rng.randint(2, 6))] for _ in range(size)]
        sources = ["".join(map(str, number)) for number in numbers]
        targets = [" ".join(digits[digit] for digit in number) for number in numbers]
        for extension, lines in (("en", sources), ("de", targets)):
            (directory / "text" / f"{split}.{extension}").write_text("".join(f"{line}\n" for line in lines))
    (directory / "small.py").write_text(textwrap.dedent(CONFIG))
    (directory / "policy.py").write_text(textwrap.dedent(POLICY_CONFIG))
    return directory


def start(workplace, run, config="small.py"):
    log = (workplace / f"{run}.log").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "seq2seq_jax", "train", config, "--run_dir", run],
        cwd=workplace,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def finish(workplace, run, config="small.py"):
    process = start(workplace, run, config)
    assert process.wait(timeout=300) == 0, (workplace / f"{run}.log").read_text()[-3000:]


@pytest.fixture
def train_here(workplace, monkeypatch):
    """Trains in this process, to the end. It has no workers, which change nothing (and which pytest cannot start)."""
    monkeypatch.chdir(workplace)
    return lambda run, config: call("train", config, "--run_dir", run, "--data.workers", "0")


def session_members(leader):
    """Processes of a session that are alive."""
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state not in "ZX":
            yield int(path.parent.name)


def kill_when(process, holds, *, delay=0.0):
    """SIGKILL to the process, and it alone, at a moment when a condition holds.

    Stopped first, so that the condition surely held at the kill.
    """
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if holds():
            time.sleep(delay)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if holds():
                process.kill()
                assert process.wait() == -signal.SIGKILL
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.0005)
    pytest.fail(f"the moment never came; the process returned {process.poll()}")


def records(workplace, run):
    path = workplace / run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lines_written(workplace, run):
    path = workplace / run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def unfinished(workplace, run):
    return list((workplace / run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def complete_steps(workplace, run):
    return sorted(int(path.name) for path in (workplace / run / "checkpoints").glob("*") if path.name.isdigit())


def loop_state(workplace, run, step):
    """What the loop remembers beside the arrays, without the time that it took and the checksums of records, which hold
    times.
    """
    record = json.loads((workplace / run / "checkpoints" / f"{step:08d}" / "record" / "metadata").read_text())
    progress = json.loads(record["content"])["progress"]
    timeless = {
        name: value for name, value in progress["loop"].items() if name not in ("seconds", "saved_at", "records")
    }
    return {**progress, "loop": timeless}


def test_three_kills_change_no_bit(workplace, train_here):
    assert train_here("whole", "small.py") == 0

    # Of 23 records (every 3rd step, and the validations of steps 20, 40 and 60) these many are waited for.
    moments = [random.randint(3, 5), random.randint(8, 10), random.randint(13, 15)]
    delays = [random.uniform(0, 0.03), 0.0, random.uniform(0, 0.03)]
    print(f"kills after records {moments}, delays {delays}")
    # The first kill may come before the first checkpoint is complete: then all begins again.
    continued = 0
    for number, (moment, delay) in enumerate(zip(moments, delays, strict=True)):
        process = start(workplace, "killed")
        try:
            before = lines_written(workplace, "killed")

            def holds(in_save=number == 1, least=max(moment, before + 1)):  # noqa: B008
                enough = lines_written(workplace, "killed") >= least
                return enough and (not in_save or bool(unfinished(workplace, "killed")))

            kill_when(process, holds, delay=delay)
            assert bool(unfinished(workplace, "killed")) or number != 1, "the second kill hits inside a save"
            complete = complete_steps(workplace, "killed")
            assert (complete or [0])[-1] < STEPS, "each kill hits before the end"
            continued += bool(complete)
            assert records(workplace, "killed")[-1]["step"] < STEPS
            # Nobody tells the workers; they notice.
            deadline = time.monotonic() + 20
            while (left := list(session_members(process.pid))) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not left, "workers outlive the training process"
        finally:
            for member in session_members(process.pid):
                os.kill(member, signal.SIGKILL)
    finish(workplace, "killed")
    assert (workplace / "killed.log").read_text().count("continuing after step") == continued >= 2

    assert complete_steps(workplace, "killed") == complete_steps(workplace, "whole")
    assert complete_steps(workplace, "whole")[-1] == STEPS
    assert not unfinished(workplace, "killed")
    whole, killed = saved_arrays(workplace / "whole", STEPS), saved_arrays(workplace / "killed", STEPS)
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []
    for part in ("params", "average", "optimizer_state"):
        assert any(part in name for name in whole), part
    # The comparison can fail: an earlier checkpoint has other bits in every array of parameters.
    earlier = saved_arrays(workplace / "whole", complete_steps(workplace, "whole")[-2])
    assert all(earlier[name] != whole[name] for name in whole if "'params'" in name)
    assert loop_state(workplace, "whole", STEPS) == loop_state(workplace, "killed", STEPS)

    timeless = [
        [{name: value for name, value in record.items() if name not in TIMES} for record in records(workplace, run)]
        for run in ("whole", "killed")
    ]
    assert timeless[0] == timeless[1]
    assert [record["step"] for record in timeless[0] if record["kind"] == "train"] == list(range(3, STEPS + 1, 3))
    assert [record["step"] for record in timeless[0] if record["kind"] == "validation"] == [20, 40, 60]
    sample = f"samples/step={STEPS:08d}.txt"
    assert (workplace / "whole" / sample).read_text() == (workplace / "killed" / sample).read_text()


def test_a_kill_changes_no_bit_of_a_policy_gradient(workplace, train_here, capfd):
    """Samples, the moving average of rewards and the frozen reference model are what they would have been."""
    assert train_here("policy", "policy.py") == 0
    process = start(workplace, "killed_policy", "policy.py")
    try:
        kill_when(process, lambda: len(complete_steps(workplace, "killed_policy")) >= 2)
    finally:
        for member in session_members(process.pid):
            os.kill(member, signal.SIGKILL)
    assert complete_steps(workplace, "killed_policy")[-1] < 24
    capfd.readouterr()
    assert train_here("killed_policy", "policy.py") == 0
    assert capfd.readouterr().err.count("continuing after step") == 1
    whole, killed = (saved_arrays(workplace / run, 24) for run in ("policy", "killed_policy"))
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []
    for part in ("moving_average", "reference"):
        assert any(part in name for name in whole), part
    earlier = saved_arrays(workplace / "policy", 20)
    assert all((earlier[name] != whole[name]) != ("reference" in name) for name in whole if "table" in name)
    timeless = [
        [{name: value for name, value in record.items() if name not in TIMES} for record in records(workplace, run)]
        for run in ("policy", "killed_policy")
    ]
    assert timeless[0] == timeless[1]
    assert {"reward", "reward_spread", "advantage", "entropy", "kl", "sample_length", "ended_fraction"} <= set(
        timeless[0][0]
    )
