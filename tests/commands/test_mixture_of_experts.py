"""A mixture of experts from the parameters of a run without experts: trained, continued, generated from, evaluated."""

import json

import numpy as np
import pytest
from saved_arrays import saved_arrays

from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.telemetry import read_records

pytestmark = pytest.mark.long

MIXTURE = ("--model.num_experts", "3", "--objective", "mixture_of_experts", "--generation", "mixture_of_experts")
TRAIN = ("train", "tiny/transformer", *MIXTURE, "--training.evaluate_every", "6", "--training.log_every", "3")


@pytest.fixture(scope="module")
def mixture_run(trained, tmp_path_factory):
    """A directory for a run that starts from `trained`."""
    return tmp_path_factory.mktemp("mixture") / "run"


def test_a_mixture_starts_from_a_run_without_experts(seq2seq, trained, mixture_run):
    outcome = seq2seq(*TRAIN, "--init-from", trained, "--training.steps", "6", "--run_dir", mixture_run)
    assert outcome.status == 0, outcome.errors
    params, _ = Inference.open(trained).parameters()
    started = TrainingRun(mixture_run, Inference.open(mixture_run).experiment).initial_state().players["model"]
    offsets = started.params.pop("start_offsets")
    assert offsets.shape == (2, 32) and 0.0 < np.abs(offsets).max() < 0.1
    assert started.params.keys() == params.keys()
    np.testing.assert_array_equal(started.params["target_embedding"]["table"], params["target_embedding"]["table"])
    records = {kind: [] for kind in ("train", "validation")}
    for record in read_records(mixture_run / "metrics.jsonl"):
        records[record["kind"]].append(record)
        fractions = [record[f"expert_{expert}_fraction"] for expert in range(3)]
        assert sum(fractions) == pytest.approx(1.0, abs=1e-5)
        assert 0.0 <= record["responsibility_entropy"] <= np.log(3) + 1e-5
    assert len(records["train"]) == 2 and len(records["validation"]) == 1


def test_a_mixture_that_is_continued_ends_as_one_that_was_not_interrupted(seq2seq, trained, mixture_run, tmp_path):
    twice = tmp_path / "run"
    for steps in ("4", "6"):
        outcome = seq2seq(*TRAIN, "--init-from", trained, "--training.steps", steps, "--run_dir", twice)
        assert outcome.status == 0, outcome.errors
    found, expected = (saved_arrays(run, 6) for run in (twice, mixture_run))
    assert found == expected and any("start_offsets" in name for name in found)


def test_a_text_from_each_expert(seq2seq, mixture_run, workplace, tmp_path):
    texts = tmp_path / "texts.jsonl"
    outcome = seq2seq("generate", mixture_run, "--json", texts, stdin=b"two red cows\n\nsix grey dogs\n")
    assert outcome.status == 0, outcome.errors
    lines = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    assert [len(line["hypotheses"]) for line in lines] == [3, 1, 3]
    scores = tmp_path / "scores.json"
    assert seq2seq("evaluate", mixture_run, "--split", "test", "--json", scores).status == 0
    found = json.loads(scores.read_text())
    assert found["expert_0_fraction"] + found["expert_1_fraction"] + found["expert_2_fraction"] == pytest.approx(1.0)


def test_a_run_without_experts_has_no_texts_of_experts(seq2seq, trained):
    line = seq2seq("generate", trained, "--generation", "mixture_of_experts", stdin=b"two red cows\n").error_line
    assert "needs a model that was trained with objective mixture_of_experts" in line
