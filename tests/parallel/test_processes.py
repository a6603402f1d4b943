"""Several processes: found, compared, trained together, pre-empted, and ended when one of them is gone."""

import json
import random
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from saved_arrays import saved_arrays
from several_processes import Processes

from seq2seq_jax.parallel.processes import Job, Placement, ProcessesConfig, agree, bind_address, exchange

SMALL = '''
"""Small, with dropout, packing, an average and a validation."""

from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.config import GenerationConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment():
    stack = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "hidden_dim": 64, "dropout": 0.2}
    return Experiment(
        data=ParallelText(
            directory="text", source="en", target="de", test=None, cache_directory="cache",
            max_source_length=32, max_target_length=32, packing=True, window=64,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=320),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=5e-3, schedule="constant", warmup_steps=10, ema_decay=0.9),
        training=TrainingConfig(steps=24, batch_tokens=512, log_every=1, checkpoint_every=6, evaluate_every=12),
        generation=GenerationConfig(beam_size=2),
    )
'''
DATES = [
    "dates/transformer", "--data.train-examples", "4000", "--data.validation-examples", "16", "--data.test-examples",
    "16",
]  # fmt: skip
MULTI30K = [
    "multi30k/transformer_small", "--data.directory", "text", "--data.test", "None", "--tokenizer.vocabulary-size",
    "320",
]  # fmt: skip
LOSSES = ["--training.steps", "8", "--training.log-every", "1", "--training.evaluate-every", "8"]
SHALLOW = ["--model.encoder.num-layers", "1", "--model.decoder.num-layers", "1"]
"""How layers follow each other is the same on all processes, and takes them long to compile."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with text and a config."""
    directory = tmp_path_factory.mktemp("processes")
    (directory / "text").mkdir()
    rng = random.Random(0)
    digits = "zero one two three four five six seven eight nine".split()
    for split, size in (("train", 800), ("val", 12)):
        numbers = [[rng.randrange(10) for _ in range(rng.randint(2, 6))] for _ in range(size)]
        for extension, words in (("en", "".join), ("de", lambda each: " ".join(digits[int(digit)] for digit in each))):
            lines = [words(list(map(str, number))) for number in numbers]
            (directory / "text" / f"{split}.{extension}").write_text("".join(f"{line}\n" for line in lines))
    (directory / "small.py").write_text(SMALL)
    return directory


def train(workplace, run, *arguments, count=1, **settings):
    with Processes(workplace, run, *arguments, count=count, **settings) as job:
        job.finish()


def records(workplace, run, kind="train"):
    lines = (workplace / run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses(workplace, run):
    return [record["loss"] for record in records(workplace, run)]


@pytest.mark.parametrize(
    ("config", "count", "devices", "mesh"),
    [(DATES, 2, 2, []), (MULTI30K, 4, 1, ["--mesh.fsdp", "2", "--mesh.tensor", "2"])],
    ids=["two", "four"],
)
def test_several_processes_have_the_losses_of_one(workplace, config, count, devices, mesh):
    """In float32: bfloat16 products round sums differently in their last bits, which training makes larger."""
    arguments = [*config, *LOSSES, *SHALLOW, "--model.precision", "float32", "--data.cache-directory", "cache"]
    train(workplace, f"one_of_{count}", *arguments)
    train(workplace, f"all_of_{count}", *arguments, *mesh, count=count, devices=devices)
    log = (workplace / f"all_of_{count}" / "train.log").read_text(encoding="utf-8")
    assert log.count("  seq2seq train ") == 1, "one process keeps it"
    assert len(list((workplace / f"all_of_{count}" / "tensorboard").iterdir())) == 1
    expected = losses(workplace, f"one_of_{count}")
    assert len(expected) == 8 and expected[-1] < expected[0]
    np.testing.assert_allclose(losses(workplace, f"all_of_{count}"), expected, rtol=1e-5)
    one, several = (records(workplace, f"{run}_of_{count}", "validation")[0]["loss"] for run in ("one", "all"))
    assert several == pytest.approx(one, rel=1e-5)
    last = records(workplace, f"all_of_{count}")[-1]
    assert len(last["input_wait_share_by_process"]) == len(last["step_wait_share_by_process"]) == count
    assert last["straggler"] in range(count) and last["straggler_share"] >= 0.0


@pytest.fixture(scope="module")
def whole(workplace):
    """An uninterrupted run of two processes."""
    train(workplace, "whole", "small.py", count=2)
    return workplace / "whole"


@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_process_saves_the_same_step_on_all(workplace, whole, told):
    run = f"told_{told}"
    with Processes(workplace, run, "small.py", count=2) as job:
        job.wait_for_line("step 5 of 24")
        job.processes[told].send_signal(signal.SIGTERM)
        job.finish()
    step = int((workplace / run / "preempted").read_text())
    assert 5 <= step < 24
    assert "pre-empted: step" in job.last_line(0)
    train(workplace, run, "small.py", count=2)
    assert f"continuing after step {step}" in job.logs[0].read_text()
    assert not (workplace / run / "preempted").exists()
    assert saved_arrays(workplace / run, 24) == saved_arrays(workplace / "whole", 24)
    assert losses(workplace, run) == losses(workplace, "whole")


def test_a_run_goes_on_with_other_processes_and_devices(workplace):
    """12 steps on 2 processes of 4 devices, (2, 2, 2); 12 more there, and on two other layouts: same batches too."""
    told = {"program": [str(Path(__file__).with_name("train_with_checksums.py"))]}
    first = ["small.py", "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    train(workplace, "elastic", *first, "--training.steps", "12", count=2, devices=4, **told)
    layouts = {
        "same": (2, 4, [*first]),
        "four_of_two": (4, 2, ["small.py", "--mesh.data", "2", "--mesh.fsdp", "-1"]),
        "one_of_one": (1, 1, ["small.py"]),
    }
    continued, batches = {}, {}
    for name, (count, devices, arguments) in layouts.items():
        shutil.copytree(workplace / "elastic", workplace / name)
        train(workplace, name, *arguments, count=count, devices=devices, **told)
        continued[name] = losses(workplace, name)[12:]
        batches[name] = (workplace / name / "batches.txt").read_text().splitlines()
    assert len(continued["same"]) == 12 and len(set(continued["same"])) > 9
    for name in layouts:
        np.testing.assert_allclose(continued[name], continued["same"], rtol=1e-5)
        assert batches[name] == batches["same"]
    assert len(set(batches["same"])) >= 24


def test_a_killed_process_ends_the_others_and_the_job_goes_on_from_its_checkpoint(workplace, whole):
    timeouts = ["--processes.heartbeat-timeout", "10"]
    with Processes(workplace, "killed", "small.py", *timeouts, count=2) as job:
        # The second save has begun, so that the first has ended.
        job.wait_for_line("step 14 of 24")
        job.processes[0].kill()
        begun = time.monotonic()
        statuses = job.wait()
        assert time.monotonic() - begun < 30
    assert statuses[0] == -signal.SIGKILL and statuses[1] != 0
    said = job.logs[1].read_text()
    assert "If another process ended first, its log says why" in said or "another task died" in said, said
    saved = max(int(path.name) for path in (workplace / "killed" / "checkpoints").iterdir() if path.name.isdigit())
    assert saved in (6, 12)
    train(workplace, "killed", "small.py", count=2)
    assert f"continuing after step {saved}\n" in job.logs[0].read_text()
    assert saved_arrays(workplace / "killed", 24) == saved_arrays(workplace / "whole", 24)


def test_a_process_that_hangs_ends_the_job(workplace):
    """Stopped, it still has its connections: only the time that passes tells."""
    timeouts = ["--processes.heartbeat-timeout", "100", "--processes.stall-timeout", "40"]
    with Processes(workplace, "hung", "small.py", *timeouts, count=2) as job:
        job.wait_for_line("step 5 of 24")
        job.processes[1].send_signal(signal.SIGSTOP)
        assert job.processes[0].wait(timeout=120) == 1
    assert re.search(r"process 0 of 2 has made no progress for 4\d s \(step \d+\)", job.last_line(0))
    assert "the same command continues from the last checkpoint" in job.last_line(0)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (["--training.seed", "1"], "the processes disagree: training.seed is 0 on process 0 and 1 on process 1."),
        (["--mesh.tensor", "2"], "the processes disagree: mesh.tensor is 1 on process 0 and 2 on process 1."),
    ],
)
def test_processes_that_disagree_all_end_with_the_same_line(workplace, own, said):
    with Processes(workplace, "disagreeing", "small.py", count=2, own={1: own}) as job:
        assert job.wait() == [2, 2], job.said()
    for index in range(2):
        assert said in job.last_line(index)
    assert not (workplace / "disagreeing").exists()


def test_a_mistake_ends_all_processes(workplace):
    with Processes(workplace, "mistaken", "small.py", "--data.directory", "nowhere", count=2) as job:
        assert job.wait() == [2, 2], job.said()
    assert "nowhere" in job.last_line(0)
    assert job.last_line(1).startswith("seq2seq: process 0 stopped: ")


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_are_told_where(workplace, index):
    """Process 0 waits for the other one in vain, or the other one for process 0."""
    with Processes(workplace, "alone", "small.py", "--processes.start-timeout", "3", count=2) as job:
        job.processes[1 - index].kill()
        assert job.processes[index].wait(timeout=60) == 2, job.said()
    assert re.search(r"did not all meet at 127\.0\.0\.1:\d+ \(told by flags\) within 3 s", job.last_line(index))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 2}, "belong together"),
        ({"coordinator": "node1", "count": 2, "index": 0}, "HOST:PORT, such as node1:12345, not 'node1'"),
        ({"coordinator": "node1:99999", "count": 2, "index": 0}, "HOST:PORT"),
        ({"coordinator": "node1:1234", "count": 2, "index": 2}, "0 to 1 among 2 processes, and is 2"),
        ({"heartbeat_timeout": 0}, "processes.heartbeat_timeout must be at least 1 second, not 0"),
        ({"stall_timeout": -1.0}, "processes.stall_timeout"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValueError, match=rf"^[^\n]*{said}[^\n]*$"):
        ProcessesConfig(**settings)


@pytest.mark.parametrize(
    ("environment", "placement"),
    [
        ({}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "n1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"},
            Placement("environment", "n1:1234", 4, 3),
        ),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2"}, Placement("Slurm", None, None, None)),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, Placement("TPU metadata", None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_where_a_process_stands_is_told_by_its_launcher(environment, placement):
    assert ProcessesConfig().placement(environment) == placement


def test_flags_come_before_what_a_launcher_tells():
    config = ProcessesConfig(coordinator="n1:1234", count=2, index=1)
    assert config.placement({"SLURM_STEP_NUM_TASKS": "8"}) == Placement("flags", "n1:1234", 2, 1)


def test_an_environment_that_is_incomplete_is_refused():
    with pytest.raises(ValueError, match="belong together, and JAX_COORDINATOR_ADDRESS is not set"):
        ProcessesConfig().placement({"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"})


def test_one_process_agrees_with_itself():
    assert exchange("a") == ["a"]
    agree({"anything": "1"})


def test_one_process_hears_sigterm():
    with Job() as job:
        assert not job.preempted(1)
        signal.raise_signal(signal.SIGTERM)
        assert job.preempted(2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_job_without_progress_is_ended_with_what_was_under_way():
    told = []
    with Job(stall_timeout=0.2, end=told.append) as job:
        for _ in range(4):
            job.progress("step 7")
            time.sleep(0.1)
        assert not told
        time.sleep(0.5)
    assert len(told) == 1 and "no progress for 0 s (step 7)" in told[0]


@pytest.mark.parametrize(
    ("coordinator", "addresses", "bound"),
    [
        ("127.0.0.1:1234", None, "127.0.0.1:1234"),
        ("localhost:1234", ["127.0.0.1"], "127.0.0.1:1234"),
        # A name that means another machine, or an address that is translated on the way: any interface, as before.
        ("192.0.2.1:1234", None, None),
        # Debian gives a machine's own name an address that no other machine reaches.
        ("node1:1234", ["127.0.1.1"], None),
        ("no-such-name.invalid:1234", [], None),
    ],
)
def test_the_coordinator_listens_where_it_was_asked_to(monkeypatch, coordinator, addresses, bound):
    def resolve(host, port, **options):
        if not addresses:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    if addresses is not None:
        monkeypatch.setattr("socket.getaddrinfo", resolve)
    assert bind_address(coordinator, {}) == bound
    assert bind_address(coordinator, {"JAX_COORDINATOR_BIND_ADDRESS": "[::]:1234"}) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "many"}, {"SLURM_STEP_NUM_TASKS": "1" * 5_000},
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "\u00b2", "JAX_PROCESS_ID": "0"},
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2" * 5_000, "JAX_PROCESS_ID": "0"},
        {"JAX_COORDINATOR_ADDRESS": "a:" + "1" * 5_000, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
    ],
)  # fmt: skip
def test_numbers_of_a_launcher_that_are_none(environment):
    with pytest.raises(ValueError, match="must be"):
        ProcessesConfig().placement(environment)
