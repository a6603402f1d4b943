"""A run with a metric from outside the package and a further validation set: trained, continued, evaluated."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from seq2seq_jax.run.description import read_description
from seq2seq_jax.training.telemetry import read_records

pytestmark = pytest.mark.long

EXTENDING = Path(__file__).parents[2] / "docs" / "extending.md"
OPTIONS = (
    "--metrics", "length_ratio:LengthDifference,words=False", "exact_match", "wer", "--data.validation_sets", "news",
    "--training.select_by", "news/length_difference", "--training.evaluate_every", "3", "--training.checkpoint_every",
    "3", "--training.log_every", "3", "--generation", "greedy",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory for the module of the document's metric, text with a file more, and the run."""
    return tmp_path_factory.mktemp("own_metrics")


@pytest.fixture
def train(seq2seq, workplace, place, monkeypatch):
    """Trains the run up to a number of steps."""
    if not (place / "text").exists():
        shutil.copytree(workplace / "text", place / "text")
        for language in ("en", "de"):
            lines = (workplace / "text" / f"test.{language}").read_text(encoding="utf-8").splitlines(keepends=True)
            (place / "text" / f"news.{language}").write_text("".join(lines[:5]), encoding="utf-8")
        [example] = re.findall(
            r"^```python\n(# length_ratio\.py\n.*?)^```", EXTENDING.read_text(), re.DOTALL | re.MULTILINE
        )
        (place / "length_ratio.py").write_text(example)
    monkeypatch.syspath_prepend(place)
    yield lambda steps, *more: seq2seq(
        "train", "tiny/transformer", "--run-dir", place / "run", "--data.directory", place / "text", *OPTIONS,
        "--training.steps", steps, *more,
    )  # fmt: skip
    sys.modules.pop("length_ratio", None)


def test_records_and_the_best_checkpoint_follow_the_metric(train, place):
    for steps in (3, 9):
        outcome = train(steps)
        assert outcome.status == 0, outcome.errors
    assert read_description(place / "run")["experiment"]["metrics"] == [
        {"class": "length_ratio:LengthDifference", "words": False},
        {"class": "ExactMatch"},
        {"class": "WordErrorRate", "lowercase": False, "remove_punctuation": False},
    ]
    records = [record for record in read_records(place / "run" / "metrics.jsonl") if record["kind"] == "validation"]
    assert [(record["step"], record["set"]) for record in records] == [
        (step, name) for step in (3, 6, 9) for name in ("validation", "news")
    ]
    facts = records[1]["metrics"]["length_difference"]
    assert facts == {
        "unit": "percent", "higher_is_better": False, "signature": "unit:characters|refs:first",
        "label": "length difference",
    }  # fmt: skip
    # The lowest of the further set, of equal ones the one with the lower loss of the first set.
    of_set = {name: [record for record in records if record["set"] == name] for name in ("validation", "news")}
    values = [
        (news["length_difference"], first["loss"])
        for first, news in zip(of_set["validation"], of_set["news"], strict=True)
    ]
    best = [index for index, value in enumerate(values) if all(value <= other for other in values[:index])]
    assert [index for index, record in enumerate(of_set["news"]) if record["best"]] == best
    assert "validation of news at step 9: loss " in outcome.errors and ", length difference " in outcome.errors
    assert (place / "run" / "samples" / "step=00000009.txt").is_file()
    assert (place / "run" / "samples" / "news.step=00000009.txt").read_text().count("reference") == 5


def test_a_set_is_evaluated_by_its_name(seq2seq, train, place):
    assert train(9).status == 0
    refused = seq2seq("evaluate", place / "run", "--split", "validation/news")
    assert refused.status == 2 and "names the metric length_ratio:LengthDifference" in refused.error_line
    outcome = seq2seq(
        "evaluate", place / "run", "--split", "validation/news", "--checkpoint", "latest", "--trust_code", "True",
        "--json", place / "figures.json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.errors
    figures = json.loads((place / "figures.json").read_text())
    last = read_records(place / "run" / "metrics.jsonl")[-1]
    assert (figures["examples"], last["set"], last["step"]) == (5, "news", 9)
    for name in ("loss", "length_difference", "exact_match", "wer", "wer_insertions", "metrics"):
        assert figures[name] == last[name]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--training.select_by", "old/wer"), "there is no further validation set 'old'. There is news"),
        (
            ("--training.select_by", "bleu"),
            "training.select_by must be one of loss, length_difference, exact_match, wer,",
        ),
        (("--data.validation_sets", "news", "news"), "data.validation_sets must name different files"),
        (("--data.validation", "None"), "data.validation_sets come beside data.validation"),
        (("--data.validation_sets", "none", "--training.select_by", "loss"), "none.en"),
        (("--metrics", "length_ratio:LengthDifference,unit=a"), "has no field 'unit'; it has words"),
    ],
)
def test_a_mistake_is_one_line(train, tmp_path, more, said):
    outcome = train(9, "--run-dir", tmp_path / "run", *more)
    assert outcome.status == 2 and said in outcome.errors.splitlines()[-1], outcome.errors
    assert not (tmp_path / "run" / "experiment.json").exists()
