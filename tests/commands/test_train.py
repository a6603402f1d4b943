"""`seq2seq train`: what a run leaves behind, and how it goes on after an end, a damage, a divergence, a full disk."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint
import pytest

from seq2seq_jax.commands import train
from seq2seq_jax.experiment import Experiment, from_json, load_config
from seq2seq_jax.run.data import RunData
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.system import System
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.lock import locked
from seq2seq_jax.training.telemetry import read_records

TRAIN = ("train", "tiny/transformer", "--training.seed", "3")
WITHOUT_EVALUATION = ("--data.validation", "None", "--data.test", "None")
TIMES = {
    "tokens_per_second", "source_tokens_per_second", "steps_per_second", "input_wait_fraction", "seconds", "goodput",
    "source_and_target_tokens_per_second", "pairs_per_second",
    "model_flops_per_second", "mfu", "checkpoint_stall_fraction", "compilations",
}  # fmt: skip


def steps_of(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())


def arrays(run, step):
    """Every array of a checkpoint with its bits, read without this project."""
    tree = orbax.checkpoint.PyTreeCheckpointer().restore(run / "checkpoints" / f"{step:08d}" / "state")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def timeless_records(run):
    return [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in read_records(run / "metrics.jsonl")
    ]


def array_file(run, step):
    """The largest file of a checkpoint, which holds its arrays."""
    return max((run / "checkpoints" / f"{step:08d}").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)


def flip(path, every=None):
    """Flip one bit in the middle of a file, or one in each so many bytes."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data), every or len(data)):
        data[place] ^= 0x04
    path.write_bytes(data)


def test_a_run_directory_holds_all_of_a_run(trained, workplace):
    assert trained.is_dir(), "the default place: runs/<config>/<overrides>/seed=N"
    description = json.loads((trained / "experiment.json").read_text(encoding="utf-8"))
    default, _ = load_config(workplace / "configs" / "tiny" / "transformer.py")
    experiment = from_json(Experiment, description["experiment"])
    assert experiment.training.seed == 3
    assert experiment.model == default.model and experiment.data == default.data
    assert description["config"] == "tiny/transformer"
    assert description["versions"]["jax"] == jax.__version__
    for name, version in description["versions"].items():
        assert version == importlib.metadata.version(name)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=os.path.dirname(__file__), capture_output=True, text=True, check=False
    ).stdout.strip()
    assert (description["commit"] or "").removesuffix("-dirty") == head
    assert (trained / "tokenizer.model").is_file()
    assert (trained / "plots" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((trained / "tensorboard").glob("events.*"))
    assert not list(trained.rglob("*.tmp*"))

    records = read_records(trained / "metrics.jsonl")
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 25), ("validation", 40), ("train", 50), ("train", 75), ("validation", 80), ("train", 100),
        ("train", 120), ("validation", 120),
    ]  # fmt: skip
    ranks = [(record["chrf"], -record["loss"], record["step"]) for record in records if record["kind"] == "validation"]
    *_, best = max(ranks)
    # The two newest (30, 60 and 90 came between the validations), and the best.
    assert steps_of(trained) == sorted({best, 90, 120})

    samples = (trained / "samples" / "step=00000120.txt").read_text(encoding="utf-8").split("\n\n")
    sources = (workplace / "text" / "val.en").read_text(encoding="utf-8").splitlines()
    references = (workplace / "text" / "val.de").read_text(encoding="utf-8").splitlines()
    assert len(samples) == len(sources) == 12
    for sample, source, reference in zip(samples, sources, references, strict=True):
        lines = sample.strip().splitlines()
        assert (lines[0], lines[2]) == (f"source     {source}", f"reference  {reference}")
        assert lines[1].startswith("output     es sind ")


def test_the_log_of_a_run_has_what_was_shown_and_every_record(trained):
    lines = [line.split("  ", 1)[1] for line in (trained / "train.log").read_text(encoding="utf-8").splitlines()]
    assert lines.count("seq2seq train tiny/transformer --training.seed 3") == 1
    assert "compiling the update for 20 rows of 24 + 24 tokens ..." in lines
    records = [json.loads(line) for line in lines if line.startswith('{"kind"')]
    assert records == read_records(trained / "metrics.jsonl")
    shown = [line for line in lines if line.startswith("step ")]
    assert [line.partition(" of 120: loss ")[0] for line in shown] == [
        f"step {step}" for step in (25, 50, 75, 100, 120)
    ]
    assert any(line.startswith("exact match: ") for line in lines), "the table at the end"


def test_other_writers_than_tensorboard_are_refused_without_their_package(seq2seq, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else find(name, *rest)
    )
    outcome = seq2seq("train", "tiny/transformer", "--run-dir", tmp_path / "run", "--writers", "mlflow")
    assert outcome.status == 2
    assert "--writers mlflow needs" in outcome.error_line and "seq2seq_jax[mlflow]" in outcome.error_line
    assert not (tmp_path / "run").exists()


def test_training_a_finished_run_changes_nothing(seq2seq, copy_of_run):
    kept = ("checkpoints", "metrics.jsonl", "tokenizer.model", "samples", "experiment.json")
    paths = [path for name in kept for path in [copy_of_run / name, *(copy_of_run / name).rglob("*")]]
    before = {path: path.read_bytes() for path in paths if path.is_file()}
    outcome = seq2seq(*TRAIN, "--run-dir", copy_of_run)
    assert outcome.status == 0
    assert "continuing after step 120" in outcome.errors
    assert {path: path.read_bytes() for path in before} == before
    assert steps_of(copy_of_run) == sorted({int(path.name) for path in (copy_of_run / "checkpoints").iterdir()})
    # Its results are shown again.
    assert "12 examples of test" in outcome.output and "BLEU" in outcome.output


@pytest.mark.long
def test_a_run_can_be_made_longer(seq2seq, trained, tmp_path):
    """With a schedule that does not look at the end, a run that is extended is the run that was longer at once."""
    run = tmp_path / "run"
    train = (*TRAIN, *WITHOUT_EVALUATION, "--run_dir", run)
    assert seq2seq(*train, "--training.steps", "60").status == 0
    assert steps_of(run)[-1] == 60
    outcome = seq2seq(*train, "--training.steps", "120")
    assert outcome.status == 0
    assert "continuing after step 60" in outcome.errors
    # Validations on the way change nothing either.
    assert arrays(run, 120) == arrays(trained, 120)
    [last] = [record for record in timeless_records(trained) if (record["kind"], record["step"]) == ("train", 120)]
    assert timeless_records(run)[-1] == last
    experiment = json.loads((run / "experiment.json").read_text())["experiment"]
    assert experiment["training"]["steps"] == 120
    shorter = seq2seq(*train, "--training.steps", "60")
    assert shorter.status == 2
    assert "a run of 120 training.steps, more than 60" in shorter.error_line
    refused = seq2seq("evaluate", run)
    assert refused.status == 2
    assert "has no split 'test'" in refused.errors.splitlines()[-1]
    assert Inference.open(run).parameters("best")[1] == 120, "the newest, where none has a score"


@pytest.mark.long
def test_training_goes_on_from_the_newest_good_checkpoint(seq2seq, trained, copy_of_run):
    flip(array_file(copy_of_run, 120))
    with (copy_of_run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    outcome = seq2seq(*TRAIN, "--run_dir", copy_of_run)
    assert outcome.status == 0
    assert "Checkpoint 120" in outcome.errors and "is damaged" in outcome.errors
    assert "continuing after step 90" in outcome.errors
    # Once more to the same end, and the damaged one is kept aside.
    assert steps_of(copy_of_run) == steps_of(trained)
    assert arrays(copy_of_run, 120) == arrays(trained, 120)
    assert timeless_records(copy_of_run) == timeless_records(trained)
    assert [path.name for path in (copy_of_run / "damaged").iterdir()] == ["00000120-0"]


def test_reading_falls_back_to_a_good_checkpoint(seq2seq, process, copy_of_run, unchanged):
    flip(copy_of_run / "checkpoints" / "00000120" / "record" / "metadata")
    with unchanged(copy_of_run):
        outcome = seq2seq("evaluate", copy_of_run, "--checkpoint", "latest")
    assert outcome.status == 0
    assert len([line for line in outcome.errors.splitlines() if "Checkpoint 120" in line and "damaged" in line]) == 1
    assert "checkpoint of step 90" in outcome.output


def test_who_reads_beside_a_training_takes_what_there_is(seq2seq, copy_of_run, monkeypatch):
    read = Checkpoints._read

    def removed_by_training(checkpoints, step, nested):
        if step == 120:
            shutil.rmtree(copy_of_run / "checkpoints" / "00000120")
        return read(checkpoints, step, nested)

    monkeypatch.setattr(Checkpoints, "_read", removed_by_training)
    outcome = seq2seq("generate", copy_of_run, "--checkpoint", "latest", stdin=b"two red cows\n")
    assert (outcome.status, outcome.output) == (0, "es sind zwei rote Kühe im Haus\n")
    assert "damaged" not in outcome.errors


def test_what_reads_a_damaged_checkpoint_says_one_line(process, copy_of_run):
    """Files that are cut off make many reads fail at once."""
    for path in (copy_of_run / "checkpoints" / "00000120" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    outcome = process("generate", copy_of_run, "--checkpoint", "latest", stdin=b"two red cows\n")
    assert outcome.status == 0
    assert outcome.output == "es sind zwei rote Kühe im Haus\n"
    said = [line for line in outcome.errors.splitlines() if not line.startswith("generating: ")]
    assert len(said) == 1 and "Checkpoint 120" in said[0] and "damaged" in said[0]


def test_divergence_stops_with_the_step_and_keeps_the_last_checkpoint(seq2seq, tmp_path):
    run = tmp_path / "run"
    outcome = seq2seq(*TRAIN, "--optimizer.learning_rate", "1e30", "--training.checkpoint_every", "1", "--run_dir", run)
    assert outcome.status == 1
    line = outcome.errors.splitlines()[-1]
    assert line.startswith("seq2seq: step 2: ") and "loss = nan" in line
    assert "the last good checkpoint is step 1" in line
    assert "Lower optimizer.learning_rate" in line
    assert "Traceback" not in outcome.errors
    assert steps_of(run) == [1]
    _, step = Inference.open(run).parameters("latest")
    assert step == 1


def test_a_second_training_of_a_run_is_refused_and_harms_nothing(seq2seq, copy_of_run, unchanged):
    with locked(copy_of_run, lost=print), unchanged(copy_of_run):
        outcome = seq2seq(*TRAIN, "--run-dir", copy_of_run)
    assert outcome.status == 2
    assert f"is in use: process {os.getpid()} on" in outcome.error_line
    # Who reads has no need of it.
    with locked(copy_of_run, lost=print):
        assert seq2seq("generate", copy_of_run, stdin=b"two red cows\n").status == 0


def told_to_end(*_, **__):
    """In place of what takes long: SIGTERM comes meanwhile."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


LONG_WORK = {
    "begin": (TrainingRun, "begin"),
    "store": (RunData, "store"),
    "place": (System, "place"),
    "end": (train, "_figures"),
}


@pytest.mark.long
@pytest.mark.parametrize("place", LONG_WORK)
@pytest.mark.parametrize("continued", [False, True])
def test_sigterm_with_nothing_to_save_leaves_what_a_launcher_looks_for(
    seq2seq, copy_of_run, tmp_path, monkeypatch, place, continued
):
    """Text is read or encoded, an update is made ready, the end is evaluated, for longer than a cluster waits."""
    run = copy_of_run if continued else tmp_path / "new" / "run"
    steps = 120 if continued else 1
    monkeypatch.setattr(*LONG_WORK[place], told_to_end)
    seed = ("--training.seed", "3") if continued else ()
    # Of a run that has ended no batch is placed.
    longer = ("--training.steps", steps + (place == "place" and continued))
    outcome = seq2seq(*TRAIN, *seed, *longer, "--run-dir", run)
    assert outcome.status == 0 and outcome.output == ""
    saved = steps if continued or place == "end" else 0
    said = f"step {saved} is saved" if saved else "nothing was saved yet, and the same command starts"
    assert f"pre-empted: {said}" in outcome.errors
    assert (run / "preempted").read_text() == f"{saved}\n"
    assert not (run / "lock").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_sigterm_does_not_end_what_the_first_has_started(seq2seq, tmp_path, monkeypatch):
    """A cluster sends it to all processes, and so does the script that it sends it to."""
    monkeypatch.setattr(RunData, "store", told_to_end)
    write_whole = train.write_whole

    def write_late(path, text):
        os.kill(os.getpid(), signal.SIGTERM)
        write_whole(path, text)

    monkeypatch.setattr(train, "write_whole", write_late)
    run = tmp_path / "run"
    assert seq2seq(*TRAIN, "--run-dir", run).status == 0
    assert (run / "preempted").exists()


@pytest.mark.long
def test_patience_ends_a_run(seq2seq, tmp_path):
    run = tmp_path / "run"
    outcome = seq2seq(
        *TRAIN, "--training.patience", "2", "--training.evaluate_every", "3", "--optimizer.learning_rate", "1e-30",
        "--generation.beam_size", "1", "--run_dir", run,
    )  # fmt: skip
    assert outcome.status == 0
    # Nothing is learnt, so the second and the third validation are as good as the first, which is no improvement.
    validations = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "validation"]
    assert [(record["step"], record["best"]) for record in validations] == [(3, True), (6, True), (9, True)]
    assert steps_of(run)[-1] == 9


@pytest.fixture
def disk(tmp_path):
    """A directory, and a context in which no checkpoint fits there, which gives what commands are to begin with.

    A small disk that is full, or where none may be mounted a limit to the size of files.
    """
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False

    @contextlib.contextmanager
    def full():
        # Either way there is room for records and plots.
        if mounted:
            status = os.statvfs(directory)
            (directory / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - 200_000))
            yield ()
            (directory / "filler").unlink()
        else:
            yield "sh", "-c", 'ulimit -f 200; exec "$@"', "sh"

    try:
        yield directory, full
    finally:
        if mounted:
            subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.long
def test_a_full_disk_during_a_save_loses_nothing(seq2seq, process, disk):
    directory, full = disk
    run = directory / "run"
    train = (*TRAIN, *WITHOUT_EVALUATION, "--run_dir", run, "--training.steps")
    assert seq2seq(*train, "30").status == 0
    assert steps_of(run) == [30]
    saved = arrays(run, 30)

    with full() as before:
        outcome = process(*train, "70", before=before)
        assert outcome.status == 2, outcome.errors
        *lines, last = outcome.errors.splitlines()
        assert last.startswith("seq2seq: ") and "run the same command again" in last
        assert not [line for line in lines if "Traceback" in line or "rror" in line or "seq2seq:" in line]
        assert any("continuing after step 30" in line for line in lines)
        assert steps_of(run) == [30]
        assert Inference.open(run).parameters("latest")[1] == 30
        assert arrays(run, 30) == saved

    outcome = seq2seq(*train, "70")
    assert outcome.status == 0, outcome.errors
    assert "continuing after step 30" in outcome.errors
    assert steps_of(run) == [60, 70]
    assert not list((run / "checkpoints").glob("*tmp*"))


def test_a_disk_that_is_full_before_training_is_said_in_one_line(process, tmp_path):
    outcome = process(
        *TRAIN, "--data.cache_directory", tmp_path / "cache", "--run_dir", tmp_path / "run",
        before=("sh", "-c", 'ulimit -f 1; exec "$@"', "sh"),
    )  # fmt: skip
    assert outcome.status == 2
    assert [line[:8] for line in outcome.errors.splitlines() if "training the tokenizer" not in line] == ["seq2seq:"]
    assert "File too large" in outcome.errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_one_line(seq2seq, trained, tmp_path):
    outcome = seq2seq("generate", trained, "--output", tmp_path / "missing" / "texts", stdin=b"two red cows\n")
    assert outcome.status == 2
    assert "No such file or directory" in outcome.errors.splitlines()[-1]
    assert "Traceback" not in outcome.errors


def test_a_moved_run_and_moved_text_are_found(seq2seq, copy_of_run, workplace, tmp_path):
    shutil.copytree(workplace / "text", tmp_path / "moved")
    outcome = seq2seq(*TRAIN, "--run_dir", copy_of_run, "--data.directory", tmp_path / "moved")
    assert outcome.status == 0
    assert "continuing after step 120" in outcome.errors
