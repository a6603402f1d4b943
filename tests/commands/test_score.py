"""`seq2seq score`, against the model called directly, against `generate` and against `evaluate`."""

import json
import math

import numpy as np
import pytest

import seq2seq_jax
from seq2seq_jax.run.inference import Inference

SOURCES = ["two red cows", "one cow", "red cows in the house", "two cows"]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def records_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def generated(seq2seq, trained, tmp_path_factory):
    """What the model generates, three texts a source, as `generate --json` tells it."""
    directory = tmp_path_factory.mktemp("generated")
    path, beam = directory / "n_best", ["--generation.beam_size", "3", "--generation.n_best", "3"]
    outcome = seq2seq("generate", trained, "--input", write(directory / "sources", SOURCES), "--json", path, *beam)
    assert outcome.status == 0
    return records_of(path)


def test_scores_are_the_log_probabilities_that_generation_gave(seq2seq, trained, generated, tmp_path):
    """Where the text leads back to the same tokens."""
    pairs = [(record["source"], each) for record in generated for each in record["hypotheses"]]
    sources = write(tmp_path / "sources", [source for source, _ in pairs])
    targets = write(tmp_path / "targets", [each["text"] for _, each in pairs])
    arguments = ["--source", sources, "--target", targets, "--json", tmp_path / "json", "--output", tmp_path / "lines"]
    outcome = seq2seq("score", trained, *arguments)
    assert outcome.status == 0, outcome.errors
    records, lines = records_of(tmp_path / "json"), (tmp_path / "lines").read_text().splitlines()
    compared = 0
    for (source, expected), record, line in zip(pairs, records, lines, strict=True):
        assert (record["source"], record["target"]) == (source, expected["text"])
        total = sum(log_probability for _, log_probability in record["tokens"])
        assert record["log_probability"] == pytest.approx(total, abs=1e-4)
        assert record["num_tokens"] == len(record["tokens"]) and record["tokens"][-1][0] == "</s>"
        words = len(expected["text"].split()) + 1
        shown = [total, len(record["tokens"]), math.exp(-total / len(record["tokens"])), math.exp(-total / words)]
        np.testing.assert_allclose(list(map(float, line.split("\t"))), shown, rtol=1e-4)
        if record["num_tokens"] == expected["num_tokens"]:
            compared += 1
            assert abs(record["log_probability"] - expected["log_probability"]) < 1e-5 * record["num_tokens"]
    assert compared > len(pairs) // 2
    run = seq2seq_jax.load(str(trained))
    [first] = run.score(pairs[0][0], pairs[0][1]["text"])
    assert first.log_probability == pytest.approx(records[0]["log_probability"], rel=1e-6)


def test_the_sum_is_the_loss_of_evaluation(seq2seq, trained, tmp_path):
    """Without smoothing, over all tokens of the split."""
    outcome = seq2seq("evaluate", trained, "--split", "test", "--json", tmp_path / "figures")
    assert outcome.status == 0
    nll = json.loads((tmp_path / "figures").read_text())["nll"]
    run = Inference.open(trained)
    pairs = list(run.data.corpus.examples("test"))
    scores = run.score([source for source, _ in pairs], [target for _, target in pairs])
    total, tokens = sum(each.log_probability for each in scores), sum(each.num_tokens for each in scores)
    assert -total / tokens == pytest.approx(nll, rel=1e-5)


def test_contrasts_tell_which_target_is_preferred(seq2seq, trained, generated, tmp_path):
    best = [record["hypotheses"][0]["text"] for record in generated]
    sources, targets = write(tmp_path / "sources", SOURCES), write(tmp_path / "targets", best)
    other = write(tmp_path / "other", ["Haus Haus Haus", best[1], "zwei", "Kühe rote"])
    arguments = ["--source", sources, "--target", targets, "--contrast", other, "--json", tmp_path / "json"]
    outcome = seq2seq("score", trained, *arguments)
    assert outcome.status == 0, outcome.errors
    # A text is not more probable than itself.
    assert [record["preferred"] for record in records_of(tmp_path / "json")] == [True, False, True, True]
    assert [record["contrasts"][0]["target"] for record in records_of(tmp_path / "json")][1] == best[1]
    assert "3 of 4 targets (75.0%)" in outcome.output


@pytest.mark.parametrize(
    ("targets", "options", "said"),
    [
        (["a", "b"], [], "targets has 2 lines and"),
        (["a", "b"], [], "line 3 has no counterpart"),
        (["a " * 99, "b", "c", "d"], [], "line 1 of the targets has"),
        (["a", "b", "c", "d"], ["--contrast", "nowhere"], "nowhere"),
        (["a", "b", "c", "d"], ["--checkpoint", "7"], "has no checkpoint '7'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(seq2seq, trained, tmp_path, targets, options, said):
    arguments = ["--source", write(tmp_path / "sources", SOURCES), "--target", write(tmp_path / "targets", targets)]
    outcome = seq2seq("score", trained, *arguments, *options)
    assert outcome.status == 2 and said in outcome.errors.splitlines()[-1]


def test_both_files_are_needed(seq2seq, trained, tmp_path):
    outcome = seq2seq("score", trained, "--source", write(tmp_path / "sources", SOURCES))
    assert outcome.status == 2 and "--source and --target are required" in outcome.errors
