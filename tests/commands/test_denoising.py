"""Span corruption through the command line: trained, continued, evaluated, used; and what it refuses."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint
import pytest

from seq2seq_jax.training.telemetry import read_records

pytestmark = pytest.mark.long

TRAIN = ("train", "tiny/denoising")


def last_arrays(run):
    tree = orbax.checkpoint.PyTreeCheckpointer().restore(run / "checkpoints" / "00000040" / "state")
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_run_learns_and_is_validated_by_its_loss(denoised):
    records = read_records(denoised / "metrics.jsonl")
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [20, 40]
    assert validations[1]["loss"] < validations[0]["loss"] < np.log(340)
    assert "bleu" not in validations[0]
    assert not (denoised / "samples").exists()


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(seq2seq, denoised, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(denoised, run)
    for step in (20, 40):
        shutil.rmtree(run / "checkpoints" / f"{step:08d}", ignore_errors=True)
    outcome = seq2seq(*TRAIN, "--run-dir", run)
    assert outcome.status == 0 and "continuing after step 30" in outcome.errors
    assert last_arrays(run) == last_arrays(denoised)


def test_a_run_is_evaluated_and_used(seq2seq, denoised, tmp_path):
    outcome = seq2seq("evaluate", denoised, "--json", tmp_path / "figures.json")
    assert outcome.status == 0 and " examples of test" in outcome.output and "BLEU" not in outcome.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["examples"] > 1 and figures["skipped_losses"] == 0
    assert 0 < figures["loss"] < np.log(340) and "bleu" not in figures
    outcome = seq2seq("generate", denoised, stdin=b"two<extra_id_0> cows\n")
    assert outcome.status == 0 and outcome.output.startswith("<extra_id_0>")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--tokenizer.num_sentinels", "1"), "tokenizer.num_sentinels must be at least 2"),
        (("--training.select_by", "bleu"), "training.select_by must be loss, and is 'bleu'"),
        (("--tokenizer.joint", "False"), "Set tokenizer.joint to True"),
        (("--task.corruption.density", "1.5"), "corruption.density must lie in (0, 1), and is 1.5"),
        (("--data.max_source_length", "2"), "max_source_length of at least 3; got 2"),
        (("--data.train", "none.txt"), "none.txt"),
        (("--data.packing", "True"), "--data.packing has no effect: data is a DocumentFiles here"),
    ],
)
def test_a_mistake_is_named(seq2seq, tmp_path, arguments, named):
    outcome = seq2seq(*TRAIN, *arguments, "--run-dir", tmp_path / "run")
    assert outcome.status == 2
    assert named in outcome.error_line


def test_there_are_no_sources_to_write_outputs_of(seq2seq, denoised, tmp_path):
    outcome = seq2seq("evaluate", denoised, "--output", tmp_path / "texts")
    assert outcome.status == 2
    assert "--output has no effect" in outcome.errors.splitlines()[-1]
