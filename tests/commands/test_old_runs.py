"""A run of the first version, trained before fields and metrics were renamed, is used like a new one.

The archive holds experiment.json, metrics.jsonl, the tokenizer and the last checkpoint of 300 steps on pairs such as
"two five six" and "256", of which it translates all that were held out.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from seq2seq_jax.old_names import METRICS

ARCHIVE = Path(__file__).parents[1] / "old_runs" / "counting.tar.xz"
SOURCES = ["seven one four", "zero zero nine", "two five six"]

CONFIG = """
import dataclasses
import json

from seq2seq_jax.experiment import Experiment, from_json


def experiment():
    with open("counting/experiment.json", encoding="utf-8") as file:
        return from_json(Experiment, json.load(file)["experiment"])
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A directory with the run counting/, its text/ and a config. Not to be changed."""
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    (directory / "counting.py").write_text(CONFIG)
    return directory


@pytest.fixture
def here(seq2seq, unpacked, tmp_path, monkeypatch):
    """A copy of that directory, in which the test runs."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_old_run_is_evaluated(here, seq2seq):
    assert seq2seq("evaluate", "counting", "--json", "scores.json").status == 0
    scores = json.loads((here / "scores.json").read_text())
    assert scores["exact_match"] == 100.0 and scores["loss"] == pytest.approx(0.0092, abs=0.0005)


def test_an_old_run_generates(here, seq2seq):
    outcome = seq2seq("generate", "counting", stdin="".join(f"{source}\n" for source in SOURCES).encode())
    assert outcome.output.splitlines() == ["714", "009", "256"]


@pytest.mark.long
def test_an_old_run_continues(here, seq2seq):
    before = records(here / "counting")
    outcome = seq2seq("train", "counting.py", "--run-dir", "counting", "--training.steps", "304")
    assert outcome.status == 0, outcome.errors
    after = records(here / "counting")
    assert [record["step"] for record in after[: len(before)]] == [record["step"] for record in before]
    assert after[-1]["step"] == 304 and after[-1]["loss"] < 0.1
    assert not set(METRICS) & set().union(*after), "old records are kept under current names"


@pytest.mark.long
def test_training_starts_from_an_old_run(here, seq2seq):
    outcome = seq2seq(
        "train", "counting.py", "--run-dir", "new", "--init-from", "counting", "--training.steps", "2",
        "--training.log_every", "1",
    )  # fmt: skip
    assert outcome.status == 0, outcome.errors
    assert records(here / "new")[0]["loss"] < 0.2
