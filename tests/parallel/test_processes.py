"""Several processes: found, compared, trained together, pre-empted, and ended when one of them is gone."""

import contextlib
import ctypes
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import threading
import time

import numpy as np
import pytest
from command_line import call
from saved_arrays import saved_arrays
from several_processes import TIMEOUT, Processes, run_trainings
from shared import made_once
from trainings import Training, checksums_of_batches

from seq2seq_jax.parallel import processes
from seq2seq_jax.parallel.processes import (
    Job,
    Placement,
    Preempted,
    ProcessesConfig,
    agree,
    all_gather_text,
    bind_address,
)

pytestmark = pytest.mark.long
STEPS = 72
SMALL = (
    '''
"""Small, with dropout, packing, an average and a validation."""

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
            directory="text", source="en", target="de", test=None, cache_directory="cache",
            max_source_length=32, max_target_length=32, packing=True, window=64,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=320),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=5e-3, schedule="constant", warmup_steps=10, ema_decay=0.9),
        training=TrainingConfig(steps=%d, target_tokens_per_batch=512, log_every=1, checkpoint_every=6,
        evaluate_every=36), generation=BeamSearch(beam_size=2),
    )
'''
    % STEPS
)
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

    def write(directory):
        (directory / "text").mkdir()
        rng = random.Random(0)
        digits = "zero one two three four five six seven eight nine".split()
        for split, size in (("train", 800), ("val", 12)):
            numbers = [[rng.randrange(10) for _ in range(rng.randint(2, 6))] for _ in range(size)]
            sources = ["".join(map(str, number)) for number in numbers]
            targets = [" ".join(digits[digit] for digit in number) for number in numbers]
            for extension, lines in (("en", sources), ("de", targets)):
                (directory / "text" / f"{split}.{extension}").write_text("".join(f"{line}\n" for line in lines))
        (directory / "small.py").write_text(SMALL)

    return made_once(tmp_path_factory, "processes", write)


def records(workplace, run, kind="train"):
    lines = (workplace / run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses(workplace, run):
    return [record["loss"] for record in records(workplace, run)]


def last_saved(workplace, run):
    return max(int(path.name) for path in (workplace / run / "checkpoints").iterdir() if path.name.isdigit())


UP_TO_24 = ("--training.steps", "24")


@pytest.fixture(scope="module")
def interrupted(workplace, tmp_path_factory):
    """What became of a run of two processes that was stopped in four ways, each time continued: facts by name.

    SIGTERM to process 0, then to process 1; process 0 killed; process 1 stopped, so that it hangs.
    """

    def interrupt(directory):
        facts = {"continued": [], "saved": []}

        def job(*timeouts):
            return Processes(workplace, "interrupted", "small.py", *timeouts, count=2, devices=2)

        def reach(running, step):
            running.wait_for_line(f"step {step} of {STEPS}")
            facts["continued"].append("continuing after step" in running.logs[0].read_text())

        first = 5
        for told in (0, 1):
            with job() as running:
                reach(running, first)
                facts[f"preempted file while {told} runs"] = (workplace / "interrupted" / "preempted").exists()
                running.processes[told].send_signal(signal.SIGTERM)
                running.finish()
                facts[f"last line of {told}"] = running.last_line(0)
            saved = int((workplace / "interrupted" / "preempted").read_text())
            assert last_saved(workplace, "interrupted") == saved
            facts["saved"].append(saved)
            first = saved + 3
        with job("--processes.heartbeat-timeout", "10") as running:
            # Two saves have started since, so that the first of them has ended.
            reach(running, (first // 6 + 2) * 6 + 1)
            running.processes[0].kill()
            facts["statuses of the killed"] = running.wait()
            facts["the other one said"] = running.logs[1].read_text()
        facts["saved"].append(last_saved(workplace, "interrupted"))
        # Long enough for the first step to be compiled in, on a machine that does other things too.
        with job("--processes.heartbeat-timeout", "300", "--processes.stall-timeout", "60") as running:
            reach(running, facts["saved"][-1] + 3)
            # It keeps its connections: only the time that passes tells.
            running.processes[1].send_signal(signal.SIGSTOP)
            facts["status beside one that hangs"] = running.processes[0].wait(timeout=200)
            facts["last line beside one that hangs"] = running.last_line(0)
        facts["saved"].append(last_saved(workplace, "interrupted"))
        (directory / "facts.json").write_text(json.dumps(facts))

    return json.loads((made_once(tmp_path_factory, "interrupted", interrupt) / "facts.json").read_text())


IN_FLOAT32 = (*LOSSES, *SHALLOW, "--model.precision", "float32", "--data.cache-directory", "cache")
"""bfloat16 products round sums differently in their last bits, which training makes larger."""


@pytest.fixture(scope="module")
def of_two(workplace, interrupted, tmp_path_factory):
    """Exit statuses, by the run, of what two processes of two devices train one after the other."""
    mesh = ("--mesh.data", "2", "--mesh.tensor", "2")
    elastic = Training(name="elastic", arguments=("small.py", *mesh, "--training.steps", "12"), checksums=True)
    again = dataclasses.replace(elastic, name="same", arguments=("small.py", *mesh, *UP_TO_24), copy_of="elastic")
    trainings = [
        Training(name="other_seed", arguments=("small.py",), own={"1": ["--training.seed", "1"]}),
        Training(name="other_mesh", arguments=("small.py",), own={"1": ["--mesh.tensor", "2"]}),
        # What has gone wrong before leaves these as they are.
        Training(name="whole", arguments=("small.py",)),
        Training(name="interrupted", arguments=("small.py",)),
        Training(name="all_of_2", arguments=(*DATES, *IN_FLOAT32)),
        elastic,
        again,
    ]
    return _statuses(tmp_path_factory, workplace, trainings, count=2)


@pytest.fixture(scope="module")
def of_four(workplace, of_two, tmp_path_factory):
    """The same of four processes of two devices."""
    mesh = ("--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")
    continued = ("small.py", *UP_TO_24, "--mesh.data", "2", "--mesh.fsdp", "-1")
    trainings = [
        Training(name="all_of_4", arguments=(*MULTI30K, *IN_FLOAT32, *mesh)),
        Training(name="four_of_two", arguments=continued, copy_of="elastic", checksums=True),
    ]
    return _statuses(tmp_path_factory, workplace, trainings, count=4)


def _statuses(factory, workplace, trainings, *, count):
    def run(directory):
        statuses = run_trainings(workplace, trainings, count=count, devices=2)
        found = {training.name: of_all for training, of_all in zip(trainings, statuses, strict=True)}
        (directory / "statuses.json").write_text(json.dumps(found))

    return json.loads((made_once(factory, f"trainings_of_{count}", run) / "statuses.json").read_text())


def said(workplace, run, index):
    return (workplace / f"{run}.{index}.log").read_text()


@pytest.mark.parametrize(("config", "jobs", "count"), [(DATES, "of_two", 2), (MULTI30K, "of_four", 4)])
def test_several_processes_have_the_losses_of_one(workplace, config, jobs, count, request, monkeypatch):
    """In float32, on four devices in two processes and on eight in four, of all three axes."""
    assert request.getfixturevalue(jobs)[f"all_of_{count}"] == [0] * count
    monkeypatch.chdir(workplace)
    assert call("train", *config, *IN_FLOAT32, "--run-dir", f"one_of_{count}") == 0
    log = (workplace / f"all_of_{count}" / "train.log").read_text(encoding="utf-8")
    assert log.count("  seq2seq train ") == 1, "one process keeps it"
    assert len(list((workplace / f"all_of_{count}" / "tensorboard").iterdir())) == 1
    expected = losses(workplace, f"one_of_{count}")
    assert len(expected) == 8 and expected[-1] < expected[0]
    np.testing.assert_allclose(losses(workplace, f"all_of_{count}"), expected, rtol=1e-5)
    one, several = (records(workplace, f"{run}_of_{count}", "validation")[0]["loss"] for run in ("one", "all"))
    assert several == pytest.approx(one, rel=1e-5)
    last = records(workplace, f"all_of_{count}")[-1]
    assert len(last["input_wait_fraction_by_process"]) == len(last["step_wait_fraction_by_process"]) == count
    assert last["straggler"] in range(count) and last["straggler_fraction"] >= 0.0


@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_process_saves_the_same_step_on_all(interrupted, told):
    assert (5, interrupted["saved"][0])[told] <= interrupted["saved"][told] < STEPS
    assert f"pre-empted: step {interrupted['saved'][told]}" in interrupted[f"last line of {told}"]
    assert not interrupted[f"preempted file while {told} runs"]


def test_a_killed_process_ends_the_others(interrupted):
    killed, other = interrupted["statuses of the killed"]
    assert killed == -signal.SIGKILL and other != 0
    told = interrupted["the other one said"]
    assert "If another process ended first, its log says why" in told or "another task died" in told, told


def test_a_process_that_hangs_ends_the_job(interrupted):
    assert interrupted["status beside one that hangs"] == 1
    last = interrupted["last line beside one that hangs"]
    assert re.search(r"process 0 of 2 has made no progress for 6\d s \(step \d+\)", last), last
    assert "the same command continues from the last checkpoint" in last


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_if_it_never_was(workplace, interrupted, of_two):
    """After every stop it continues from what was saved last."""
    assert interrupted["continued"] == [False, True, True, True]
    assert interrupted["saved"] == sorted(interrupted["saved"]) and interrupted["saved"][-1] < STEPS
    assert of_two["whole"] == of_two["interrupted"] == [0, 0]
    assert f"continuing after step {interrupted['saved'][-1]}\n" in said(workplace, "interrupted", 0)
    assert not (workplace / "interrupted" / "preempted").exists()
    assert saved_arrays(workplace / "interrupted", STEPS) == saved_arrays(workplace / "whole", STEPS)
    assert losses(workplace, "interrupted") == losses(workplace, "whole")


def test_a_run_goes_on_with_other_processes_and_devices(workplace, of_two, of_four, monkeypatch):
    """12 steps on 2 processes of 2 devices; 12 more there, on 4 processes of 2, and on one device: same batches too."""
    assert of_two["elastic"] == of_two["same"] == [0, 0] and of_four["four_of_two"] == [0] * 4
    monkeypatch.chdir(workplace)
    shutil.copytree("elastic", "one_of_one")
    with checksums_of_batches(workplace / "one_of_one" / "batches.txt"):
        assert call("train", "small.py", *UP_TO_24, "--run-dir", "one_of_one") == 0
    continued, batches = {}, {}
    for name in ("same", "four_of_two", "one_of_one"):
        continued[name] = losses(workplace, name)[12:]
        batches[name] = (workplace / name / "batches.txt").read_text().splitlines()
    assert len(continued["same"]) == 12 and len(set(continued["same"])) > 9
    for name in continued:
        np.testing.assert_allclose(continued[name], continued["same"], rtol=1e-5)
        assert batches[name] == batches["same"]
    assert len(set(batches["same"])) >= 24


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("other_seed", "the processes differ: training.seed is 0 on process 0 and 1 on process 1."),
        ("other_mesh", "the processes differ: mesh.tensor is 1 on process 0 and 2 on process 1."),
    ],
)
def test_processes_that_disagree_all_end_with_the_same_line(workplace, of_two, run, told):
    assert of_two[run] == [2, 2]
    for index in range(2):
        assert told in said(workplace, run, index).rstrip().splitlines()[-1]
    assert not (workplace / run).exists()


def test_a_mistake_ends_all_processes(workplace):
    with Processes(workplace, "mistaken", "small.py", "--data.directory", "nowhere", count=2) as job:
        assert job.wait() == [2, 2], job.said()
    assert "nowhere" in job.last_line(0)
    assert job.last_line(1).startswith("seq2seq: process 0 stopped: ")


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_are_told_where(workplace, index):
    """Process 0 waits for the other one in vain, or the other one for process 0."""
    with Processes(
        workplace, f"alone_{index}", "small.py", "--processes.start-timeout", "3", count=2, only=index
    ) as job:
        assert job.wait() == [2], job.said()
    assert re.search(
        r"not all processes have connected to 127\.0\.0\.1:\d+ \(found in flags\) within 3 s", job.last_line(0)
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 2}, "must be set together"),
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
    with pytest.raises(ValueError, match="must be set together, and JAX_COORDINATOR_ADDRESS is not set"):
        ProcessesConfig().placement({"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"})


def test_one_process_agrees_with_itself():
    assert all_gather_text("a") == ["a"]
    agree({"anything": "1"})


def unexpected():
    pytest.fail("not to be called")


def test_one_process_stops_after_its_step_when_it_has_one_to_save():
    job = Job()
    with job.preemptible(mark=unexpected, end=unexpected):
        job.has_unsaved_steps = True
        assert not job.preempted(1)
        signal.raise_signal(signal.SIGTERM)
        assert job.preempted(2) and job.terminated
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_one_process_stops_at_once_when_it_has_nothing_to_save():
    with pytest.raises(Preempted), Job().preemptible(mark=unexpected, end=unexpected):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("has_unsaved_steps", [False, True])
def test_a_process_whose_main_thread_waits_for_something_else_is_ended(monkeypatch, has_unsaved_steps):
    """A compiler, or other processes: here a barrier in C, which a signal does not interrupt."""
    monkeypatch.setattr(processes, "SECONDS_TO_UNWIND", 0.02)
    libc, barrier, done = ctypes.CDLL(None), ctypes.create_string_buffer(64), []
    libc.pthread_barrier_init(barrier, None, 2)

    def go_on():
        libc.pthread_barrier_wait(barrier)

    job = Job()
    late = threading.Timer(0.5, go_on)
    with (
        contextlib.nullcontext() if has_unsaved_steps else pytest.raises(Preempted),
        job.preemptible(mark=lambda: done.append("mark"), end=lambda: (done.append("end"), go_on())),
    ):
        job.has_unsaved_steps = has_unsaved_steps
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        if has_unsaved_steps:
            late.start()
        go_on()
    assert done == ([] if has_unsaved_steps else ["mark", "end"])


SLOW = """
import os
import pathlib
import time

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.run.system import System


def experiment():
    return load_config_by_name("small.py")


def wait(*_, **__):
    pathlib.Path(os.environ["SLOW"]).touch()
    time.sleep(600)


if os.environ["SLOW"] == "encoding":
    Tokenizer.train = wait
elif os.environ["INDEX"] == "1":
    System.place = wait
"""


@pytest.mark.parametrize("slow", ["encoding", "compiling"])
def test_sigterm_before_the_first_step_ends_all_processes_well(workplace, slow, monkeypatch):
    """Process 1 waits for process 0, which reads text; or process 0 for process 1, which has not compiled yet."""
    (workplace / "slow.py").write_text(SLOW)
    monkeypatch.setenv("SLOW", slow)
    with Processes(workplace, f"slow_{slow}", "slow.py", "--training.seed", "7", count=2) as job:
        deadline = time.monotonic() + TIMEOUT
        while not (workplace / slow).exists():
            assert all(process.poll() is None for process in job.processes), job.said()
            assert time.monotonic() < deadline, job.said()
            time.sleep(0.05)
        job.processes[1 if slow == "encoding" else 0].send_signal(signal.SIGTERM)
        job.finish()
    run = workplace / f"slow_{slow}"
    assert (run / "preempted").read_text() == "0\n"
    assert not (run / "lock").exists()
    assert "pre-empted: nothing was saved yet" in job.logs[0].read_text()


def test_a_job_without_progress_is_ended_with_what_was_under_way(monkeypatch):
    now, told, ended = [0.0], [], threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    # Looked at every 10 ms.
    with Job(stall_timeout=0.04, end=lambda reason: (told.append(reason), ended.set())) as job:
        for _ in range(4):
            now[0] += 0.03
            job.progress("step 7")
            time.sleep(0.03)
        assert not told
        while not ended.wait(0.02):
            now[0] += 0.01
    assert len(told) == 1 and "no progress for 0 s (step 7)" in told[0]


def test_a_job_that_was_suspended_has_not_hung(monkeypatch):
    now, told, looks = [0.0], [], threading.Semaphore(0)

    def read():
        looks.release()
        return now[0]

    monkeypatch.setattr(time, "monotonic", read)
    with Job(stall_timeout=0.04, end=told.append) as job:
        job.progress("step 7")
        now[0] += 9_000.0
        for _ in range(20):
            assert looks.acquire(timeout=60)
    assert not told


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
