"""`seq2seq rerank` and its tuning, on lists that a run has made."""

import json
import math

import pytest
import sacrebleu

SOURCES = ["two red cows", "seven black birds", "three grey cats"]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def records_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("lists")


@pytest.fixture
def lists(seq2seq, trained, directory):
    """Three texts for each source, once."""
    path = directory / "lists.jsonl"
    if not path.exists():
        options = ["--input", write(directory / "sources", SOURCES), "--json", path, "--output", directory / "first"]
        outcome = seq2seq("generate", trained, *options, "--generation.beam_size", "3", "--generation.n_best", "3")
        assert outcome.status == 0, outcome.errors
    return path


def test_a_run_scores_the_texts_that_it_has_made_as_it_did_then(seq2seq, trained, lists, tmp_path):
    features = ["--features", f"forward,run={trained}", "length,weight=0"]
    outcome = seq2seq("rerank", trained, "--input", lists, *features, "--json", tmp_path / "json")
    assert outcome.status == 0, outcome.errors
    given, found = records_of(lists), records_of(tmp_path / "json")
    assert outcome.output.splitlines() == [record["hypotheses"][0]["text"] for record in found]
    for before, after in zip(given, found, strict=True):
        assert before["source"] == after["source"]
        # Texts that are longer than the run takes have no value, and come last.
        scores = [-math.inf if each["rerank_score"] is None else each["rerank_score"] for each in after["hypotheses"]]
        assert scores == sorted(scores, reverse=True) and scores[0] > -math.inf
        for each in after["hypotheses"]:
            features, score = each.pop("features"), each.pop("rerank_score")
            assert features["length"] == len(each["text"].split())
            assert score == features[f"forward,run={trained}"]
            assert each in before["hypotheses"]
        best = after["hypotheses"][0]
        assert best["log_probability"] == max(each["log_probability"] for each in before["hypotheses"])
        assert scores[0] == pytest.approx(best["log_probability"], abs=1e-4)


def test_plain_lines_are_lists(seq2seq, trained, tmp_path):
    texts = ["a b c", "a", "b c", "d", "d e", "d e f"]
    options = ["--input", write(tmp_path / "lines", texts), "--n", "3", "--source", write(tmp_path / "in", ["x", "y"])]
    outcome = seq2seq("rerank", trained, *options, "--features", "length,weight=-1", "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.errors
    assert (tmp_path / "out").read_text() == "a\nd\n"


def test_tuned_weights_are_written_and_read(seq2seq, trained, lists, tmp_path):
    """The references are the texts that come last."""
    given = records_of(lists)
    references = write(tmp_path / "references", [record["hypotheses"][-1]["text"] for record in given])
    tune = ["--tune", references, "--metric", "chrf", "--features", "score", "length", "--json", tmp_path / "tuned"]
    outcome = seq2seq("rerank", trained, "--input", lists, *tune)
    assert outcome.status == 0, outcome.errors
    tuned = json.loads((tmp_path / "tuned").read_text())
    assert [feature["feature"] for feature in tuned["features"]] == ["score", "length"]
    assert tuned["features"][0]["weight"] < 0 and tuned["after"] > tuned["before"]
    assert f"{tuned['before']:.2f} of the lists as they were, {tuned['after']:.2f} with these weights" in outcome.output
    outcome = seq2seq("rerank", trained, "--input", lists, "--tuned", tmp_path / "tuned")
    assert outcome.status == 0, outcome.errors
    chosen, wanted = outcome.output.splitlines(), references.read_text(encoding="utf-8").splitlines()
    assert sacrebleu.corpus_chrf(chosen, [wanted]).score == pytest.approx(tuned["after"])
    assert sacrebleu.corpus_chrf([record["hypotheses"][0]["text"] for record in given], [wanted]).score == (
        pytest.approx(tuned["before"])
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --features, such as score length,weight=0.1, or --tuned FILE"),
        (["--features", "scores"], "there is no feature 'scores'"),
        (["--features", "reverse"], "feature reverse needs run"),
        (["--features", "reverse,run={run}"], "needs a run of the reverse direction"),
        (["--features", "score", "--metric", "chrf"], "--metric has no effect without --tune"),
        (["--features", "score", "--n", "3"], "--n and --source go together"),
        (["--features", "score", "--tune", "{lines}"], "line 3 has no counterpart"),
        (["--features", "score", "--tuned", "{lists}"], "one of the two"),
        (["--tuned", "{lists}"], "cannot be read as tuned weights"),
        (["--features", "score", "--output", "{lists}"], "is the file that is read"),
        (["--features", "forward,run=nowhere"], "nowhere is not a run directory"),
        (["--features", "score", "--input", "{lines}"], "line 1 of {lines} is no n-best list"),
    ],
)
def test_what_cannot_be_reranked_is_one_line(seq2seq, trained, lists, tmp_path, options, said):
    names = {"run": trained, "lists": lists, "lines": write(tmp_path / "lines", ["a", "b"])}
    before = lists.read_bytes()
    given = [] if "--input" in options else ["--input", lists]
    outcome = seq2seq("rerank", trained, *given, *(option.format(**names) for option in options))
    assert outcome.status == 2 and said.format(**names) in outcome.error_line
    assert lists.read_bytes() == before
