"""`seq2seq train` with policy gradients, from the parameters of another run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.telemetry import read_records

pytestmark = pytest.mark.long

TRAIN = ("train", "tiny/policy")


@pytest.fixture(scope="module")
def policy_run(trained, tmp_path_factory):
    """A directory for a run that starts from `trained`."""
    return tmp_path_factory.mktemp("policy") / "run"


def test_a_run_starts_from_the_parameters_of_another_and_says_so(seq2seq, trained, policy_run, unchanged):
    with unchanged(trained):
        outcome = seq2seq(*TRAIN, "--init-from", trained, "--run_dir", policy_run)
    assert outcome.status == 0, outcome.errors
    params, step = Inference.open(trained).parameters()
    line = next(line for line in outcome.errors.splitlines() if line.startswith("Starting from step"))
    assert line.startswith(f"Starting from step {step} of {trained}: ")
    for part in ("encoder", "decoder", "target_embedding"):
        size = sum(leaf.size for leaf in jax.tree.leaves(params[part]))
        assert f"{part} {size:,}" in line
    run = TrainingRun(policy_run, Inference.open(policy_run).experiment)
    jax.tree.map(np.testing.assert_array_equal, run.initial_state().players["model"].params, params)
    assert (policy_run / "tokenizer.model").read_bytes() == (trained / "tokenizer.model").read_bytes()
    description = json.loads((policy_run / "experiment.json").read_text(encoding="utf-8"))
    assert description["experiment"]["init_from"] == str(trained)
    assert "reward" in next(line for line in outcome.errors.splitlines() if line.startswith("step 2 of 4"))


def test_what_a_policy_gradient_logs(policy_run):
    training = [record for record in read_records(policy_run / "metrics.jsonl") if record["kind"] == "train"]
    assert [record["step"] for record in training] == [2, 4]
    for record in training:
        assert 0 < record["reward"] <= 1 and record["reward_spread"] >= 0 and record["advantage"] >= 0
        assert record["entropy"] > 0 and 1 <= record["sample_length"] <= 30 and 0 < record["ended_fraction"] <= 1
        assert record["rewards_per_second"] > 0
    assert (policy_run / "plots" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_goes_on_when_the_one_that_it_started_from_is_gone(seq2seq, trained, tmp_path):
    origin = tmp_path / "origin"
    origin.symlink_to(trained)
    run = tmp_path / "run"
    assert seq2seq(*TRAIN, "--init-from", f"{origin}:120", "--run_dir", run, "--training.steps", "2").status == 0
    origin.unlink()
    outcome = seq2seq(*TRAIN, "--init-from", f"{origin}:120", "--run_dir", run)
    assert outcome.status == 0, outcome.errors
    assert "continuing after step 2" in outcome.errors and "Starting from" not in outcome.errors


def test_dropout_and_precision_may_differ_from_the_run_that_is_started_from(trained, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    experiment = Inference.open(trained).experiment
    encoder = dataclasses.replace(experiment.model.encoder, dropout=0.0)
    model = dataclasses.replace(experiment.model, encoder=encoder, precision="bfloat16")
    run = TrainingRun(workplace / "unused", dataclasses.replace(experiment, model=model, init_from=str(trained)))
    assert run.origin[0].directory.path == trained and run.origin[1] == "best"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--objective.reward.blue", "1"], ["--objective.reward.blue", "--objective.reward.bleu?"]),
        (["--objective.reward.bleu", "0"], ["objective.reward has no metric"]),
        (["--objective.reward.chrf", "-1"], ["objective.reward sum to 0"]),
        (["--objective.reward.function", "nowhere:f", "--objective.reward.function_weight", "1"], ["nowhere"]),
        (["--objective.estimator.clip", "0.2"], ["--objective.estimator.clip has no effect", "GroupNormalized has it"]),
        (
            ["--objective.samples_per_source", "1"],
            ["objective.samples_per_source is 1, and LeaveOneOut compares", "at least 2"],
        ),
        (
            ["--objective.sample-with-encoder-dropout", "True", "--model.encoder.dropout", "0.0"],
            ["has no effect", "Set model.encoder.dropout"],
        ),
        (
            [
                "--objective.sample-with-encoder-dropout",
                "True",
                "--model.encoder.dropout",
                "0.1",
                "--training.accumulation",
                "2",
            ],
            ["objective.sample_with_encoder_dropout", "training.accumulation to 1"],
        ),
        (["--data.packing", "True", "--data.bucket_lengths"], ["data.packing to False"]),
        (["--model.encoder.hidden_dim", "32"], ["another architecture", "model.encoder.hidden_dim is 64 there and 32"]),
        (["--model.decoder.activation", "gelu"], ["another architecture", "model.decoder.activation"]),
        (["--tokenizer.vocabulary_size", "345"], ["another tokenizer", "vocabulary_size is 340 there and 345 here"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_a_mistake(seq2seq, trained, tmp_path, arguments, said):
    outcome = seq2seq(*TRAIN, "--init-from", trained, "--run_dir", tmp_path / "run", *arguments)
    assert outcome.status == 2
    for part in said:
        assert part in outcome.errors.splitlines()[-1]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("nowhere", "--init-from nowhere: nowhere is not a run directory"),
        ("{trained}:77", "--init-from {trained}:77: {trained} has no checkpoint '77'. Give best, latest or one of"),
        ("text", "--init-from text: text is not a run directory"),
    ],
)
def test_a_run_that_cannot_be_started_from(seq2seq, trained, tmp_path, origin, said):
    outcome = seq2seq(*TRAIN, "--init-from", origin.format(trained=trained), "--run_dir", tmp_path / "run")
    assert outcome.status == 2
    assert said.format(trained=trained) in outcome.errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_reward_needs_references(seq2seq, workplace, trained, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    (text / "train.en").write_text((workplace / "text" / "train.en").read_text())
    (text / "train.de").write_text("\n" * 96)
    outcome = seq2seq(
        *TRAIN, "--init-from", trained, "--run_dir", tmp_path / "run", "--data.directory", text,
        "--data.validation", "None",
    )  # fmt: skip
    assert outcome.status == 2
    assert "expected train pairs with text on both sides; all 96 have an empty source or target" in outcome.error_line
