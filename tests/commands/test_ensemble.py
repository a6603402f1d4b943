"""`--ensemble` of several runs, against the metrics of each of them."""

import json
import shutil

import numpy as np
import pytest

import seq2seq_jax

SOURCES = ["two red cows", "seven black birds", "cows"]
TARGETS = ["es sind zwei rote Kühe im Haus", "es sind zwei rote Kühe im Haus", "Kühe"]


@pytest.fixture(scope="module")
def earlier(trained, tmp_path_factory):
    """The trained run as it was earlier: its first checkpoint is its only one."""
    run = tmp_path_factory.mktemp("earlier") / "run"
    shutil.copytree(trained, run)
    first, *later = sorted((run / "checkpoints").iterdir())
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    assert later and first.is_dir()
    return run


@pytest.fixture
def pairs(tmp_path):
    arguments = []
    for option, lines in (("--source", SOURCES), ("--target", TARGETS)):
        path = tmp_path / option.strip("-")
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        arguments += [option, path]
    return arguments


def token_scores(seq2seq, tmp_path, run, *arguments):
    outcome = seq2seq("score", run, *arguments, "--json", tmp_path / "scores")
    assert outcome.status == 0, outcome.errors
    records = map(json.loads, (tmp_path / "scores").read_text(encoding="utf-8").splitlines())
    return outcome, np.concatenate([[score for _, score in record["tokens"]] for record in records])


@pytest.mark.long
def test_scores_are_those_of_the_mean(seq2seq, trained, earlier, pairs, tmp_path):
    _, first = token_scores(seq2seq, tmp_path, trained, *pairs)
    _, second = token_scores(seq2seq, tmp_path, earlier, *pairs)
    assert np.abs(first - second).max() > 0.1
    outcome, found = token_scores(seq2seq, tmp_path, trained, *pairs, "--ensemble", earlier)
    np.testing.assert_allclose(found, np.log((np.exp(first) + np.exp(second)) / 2), atol=1e-5)
    assert "mean of probabilities" in outcome.output and str(earlier) in outcome.output
    weights = ["--ensemble_weights", "3", "1", "--ensemble_mean", "probabilities"]
    _, found = token_scores(seq2seq, tmp_path, trained, *pairs, "--ensemble", earlier, *weights)
    np.testing.assert_allclose(found, np.log(0.75 * np.exp(first) + 0.25 * np.exp(second)), atol=1e-5)


@pytest.mark.long
def test_what_is_generated_and_evaluated_has_the_scores_of_the_ensemble(seq2seq, trained, earlier, tmp_path):
    ensemble = seq2seq_jax.load(str(trained), str(earlier), mean="log_probabilities")
    options = ["--ensemble", earlier, "--ensemble-mean", "log_probabilities", "--json", tmp_path / "json"]
    outcome = seq2seq("generate", trained, *options, stdin=SOURCES[0].encode() + b"\n")
    assert outcome.status == 0, outcome.errors
    [best] = json.loads((tmp_path / "json").read_text(encoding="utf-8"))["hypotheses"]
    assert ensemble.generate(SOURCES[0]) == [best["text"]] == [outcome.output.strip()]
    [score] = ensemble.score(SOURCES[0], best["text"])
    assert score.num_tokens == best["num_tokens"]
    assert score.log_probability == pytest.approx(best["log_probability"], abs=1e-4)

    outcome = seq2seq("evaluate", trained, *options)
    assert outcome.status == 0, outcome.errors
    figures = json.loads((tmp_path / "json").read_text())
    steps = [int(min(path.name for path in (run / "checkpoints").iterdir())) for run in (earlier,)]
    assert [member["run"] for member in figures["ensemble"]["members"]] == [str(trained), str(earlier)]
    assert [member["step"] for member in figures["ensemble"]["members"]][1:] == steps
    pairs = list(ensemble.with_parts(splits=["test"]).data.corpus.examples("test"))
    scores = ensemble.score(*map(list, zip(*pairs, strict=True)))
    total, tokens = sum(each.log_probability for each in scores), sum(each.num_tokens for each in scores)
    assert figures["nll"] == pytest.approx(-total / tokens, rel=1e-5)
    assert figures["loss"] > figures["nll"]
    with pytest.raises(ValueError, match="an ensemble has no alignment"):
        ensemble.align(SOURCES)


def test_an_ensemble_is_evaluated_by_itself(seq2seq, trained, earlier):
    outcome = seq2seq("evaluate", trained, "elsewhere", "--ensemble", earlier)
    assert outcome.status == 2
    assert "--ensemble takes the runs beside one RUN, not several" in outcome.error_line


def test_runs_with_other_tokens_are_refused_in_one_line(seq2seq, trained, denoised, pairs):
    for command in (["generate", trained], ["evaluate", trained], ["score", trained, *pairs]):
        outcome = seq2seq(*command, "--ensemble", denoised)
        assert outcome.status == 2
        assert f"{denoised} has another tokenizer than {trained}" in outcome.error_line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ensemble_weights", "1", "2"], "--ensemble_weights has no effect without --ensemble"),
        (["--ensemble", "{run}", "--ensemble_weights", "1"], "an ensemble of 2 runs needs 2 weights, and 1 are given"),
        (["--ensemble", "{run}", "--ensemble_weights", "1", "-1"], "must be above 0"),
        (["--ensemble", "{run}", "--ensemble_mean", "median"], "ensemble_mean"),
        (["--ensemble", "nowhere"], "nowhere is not a run directory"),
    ],
)
def test_what_is_no_ensemble_is_one_line(seq2seq, trained, options, said):
    outcome = seq2seq("generate", trained, *(option.format(run=trained) for option in options), stdin=b"two cows\n")
    assert outcome.status == 2 and said in outcome.error_line
