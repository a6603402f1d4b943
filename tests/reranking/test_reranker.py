"""Reranking: sums computed by hand, what each feature scores, and what is refused."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest

from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.metrics.exact_match import ExactMatch
from seq2seq_jax.evaluation.sums import CorpusSums
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.generation.generator import Hypothesis
from seq2seq_jax.reranking.features import (
    FEATURES,
    Discriminator,
    Forward,
    LanguageModel,
    Length,
    LogProbability,
    Reverse,
    Score,
    feature_from_json,
    feature_to_json,
    parse_feature,
)
from seq2seq_jax.reranking.lists import Candidate, CandidateList, lists_of, lists_of_lines, read_records
from seq2seq_jax.reranking.reranker import Reranker
from seq2seq_jax.reranking.runs import Runs
from seq2seq_jax.run.data import RunData
from seq2seq_jax.run.directory import RunDirectory
from seq2seq_jax.run.inference import Inference

EN_DE, DE_EN, FR_DE, EN_FR = (
    {"source": source, "target": target} for source, target in (("en", "de"), ("de", "en"), ("fr", "de"), ("en", "fr"))
)
HYPOTHESES = [
    [Hypothesis(text=text, score=score, log_probability=total, num_tokens=3) for text, score, total in best]
    for best in ([("a b c", -1.0, -3.0), ("a b", -1.5, -2.0), ("a", -1.6, -1.0)], [("d e f g", -4.0, -2.5)])
]
SOURCES = ["x y", "z"]


@functools.cache
def tokenizer(joint=True):
    config = TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False, joint=joint)
    return Tokenizer.train([("ab", "abc")], config)


def run(name="run", *, joint=True, source="en", target="de"):
    directory = RunDirectory(Path(name))
    directory.tokenizer = tokenizer(joint)
    base = load_config_by_name("multi30k/transformer_small")
    data = dataclasses.replace(base.data, source=source, target=target)
    return Inference(directory, dataclasses.replace(base, data=data), data=RunData(data, base.task))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ([Score()], ["a b c", "a b", "a"]),
        ([LogProbability()], ["a", "a b", "a b c"]),
        # -1 + 0.9 = -0.1; -1.5 + 0.6 = -0.9; -1.6 + 0.3 = -1.3
        ([Score(), Length(weight=0.3)], ["a b c", "a b", "a"]),
        # -0.5 - 1.2 = -1.7; -0.75 - 0.8 = -1.55; -0.8 - 0.4 = -1.2
        ([Score(weight=0.5), Length(weight=-0.4)], ["a", "a b", "a b c"]),
        # -2 - 1.5 = -3.5; -3 - 1 = -4; -3.2 - 0.5 = -3.7
        ([Score(weight=2.0), LogProbability(weight=0.5)], ["a b c", "a", "a b"]),
        # 5, 3 and 1 characters: equal sums stay as they were.
        ([Length(unit="characters", weight=0.0)], ["a b c", "a b", "a"]),
        ([Length(unit="characters", weight=-1.0)], ["a", "a b", "a b c"]),
    ],
)
def test_texts_are_ordered_by_the_weighted_sum(features, expected):
    first, second = Reranker(run(), features).rerank(SOURCES, HYPOTHESES)
    assert [each.text for each in first] == expected
    assert second == HYPOTHESES[1]


def test_a_text_without_a_value_comes_last_and_a_list_of_such_stays(monkeypatch):
    """Its length is more than the run takes, say."""
    values = {"a b c": np.nan, "a b": -9.0, "a": -3.0, "d e f g": np.nan}
    monkeypatch.setattr(Runs, "_score", lambda runs, path, which, pairs: np.array([values[text] for _, text in pairs]))
    reranker = Reranker(run(), [Forward(run="run"), Score()])
    first, second = reranker.rerank(SOURCES, HYPOTHESES)
    assert [each.text for each in first] == ["a", "a b", "a b c"] and second == HYPOTHESES[1]
    # Whatever the weights are, it is not chosen.
    tuned = reranker.tune(SOURCES, HYPOTHESES, ["a b c", "d"], metric=ExactMatch())
    assert tuned.before.value == 50.0 and tuned.after.value == 0.0


def test_what_features_score(monkeypatch):
    asked = []

    def score(runs, path, which, pairs):
        asked.append((path, which, pairs))
        return np.arange(len(pairs), dtype=float)

    monkeypatch.setattr(Runs, "_score", score)
    monkeypatch.setattr(Inference, "open", lambda path, **_: run(path, **(DE_EN if path == "back" else EN_DE)))
    lists = lists_of([*SOURCES, "z"], [*HYPOTHESES, HYPOTHESES[1]])
    features = [Forward(run="forth"), Reverse(run="back", checkpoint="7"), LanguageModel(run="lm", source=".")]
    table = Reranker(run(), features).table(lists)
    texts = ["a b c", "a b", "a", "d e f g"]
    of_texts = dict.fromkeys(texts[:3], "x y") | {"d e f g": "z"}
    # Equal pairs once.
    assert asked == [
        ("forth", "best", [(of_texts[text], text) for text in texts]),
        ("back", "7", [(text, of_texts[text]) for text in texts]),
        ("lm", "best", [(".", text) for text in texts]),
    ]
    np.testing.assert_array_equal(table.values[0], [[0.0] * 3, [1.0] * 3, [2.0] * 3])
    np.testing.assert_array_equal(table.values[1], table.values[2])


@pytest.mark.parametrize(
    ("feature", "names", "joint", "said"),
    [
        (Reverse, EN_DE, True, "other goes from en to de, and the run that the lists come from goes from en to de"),
        (Reverse, FR_DE, True, "other goes from fr to de, and the run .* needs a run of the reverse direction"),
        (Reverse, DE_EN, True, None),
        (Reverse, {"source": "german", "target": "english"}, True, None),
        # Names tell nothing, but each side's own tokenizer is on the same side.
        (Reverse, {"source": "quelle", "target": "ziel"}, False, "needs a run of the reverse direction"),
        (Forward, DE_EN, True, "other goes from de to en, the reverse of the run .* as the feature reverse"),
        (Forward, EN_DE, True, None),
        (LanguageModel, DE_EN, True, "other writes en, and the texts of the lists are de"),
        (LanguageModel, {"source": "blank", "target": "de"}, True, None),
    ],
)
def test_a_run_of_another_direction_is_refused(monkeypatch, feature, names, joint, said):
    monkeypatch.setattr(Runs, "_score", lambda runs, path, which, pairs: np.zeros(len(pairs)))
    monkeypatch.setattr(Inference, "open", lambda path, **_: run(path, joint=joint, **names))
    generator = run(joint=joint)
    monkeypatch.setattr(Inference, "with_parts", lambda run, **_: run)
    reranker = Reranker(generator, [feature(run="other")])
    if said is None:
        assert reranker.rerank(SOURCES, HYPOTHESES) == HYPOTHESES
        return
    with pytest.raises(ValueError, match=said) as error:
        reranker.rerank(SOURCES, HYPOTHESES)
    assert "\n" not in str(error.value)


def test_the_run_itself_is_no_reverse():
    with pytest.raises(ValueError, match="needs a run of the reverse direction"):
        Reranker(run(), [Reverse(run="run")]).rerank(SOURCES, HYPOTHESES)


@pytest.mark.parametrize("metric", [Bleu(), ChrF(), ChrF(word_order=2), Bleu(lowercase=True)], ids=str)
def test_sums_of_statistics_give_the_metric(metric):
    rng = np.random.default_rng(1)
    words = "der Hund läuft schnell über die grüne Wiese und bellt laut .".split()
    texts = [" ".join(rng.choice(words, rng.integers(5, 12))) for _ in range(80)]
    outputs, references = texts[:40], texts[40:]
    examples = [{"target": [one, other]} for one, other in zip(references, references[::-1], strict=True)]
    sums = CorpusSums.of(metric, outputs, examples)
    found = sums.score(sums.rows.sum(axis=0))
    assert found == pytest.approx(metric.corpus(outputs, examples)[metric.names[0]].value, abs=1e-9)
    assert found > 1
    assert CorpusSums.of(ExactMatch(), outputs, examples) is None


@pytest.mark.parametrize("metric", [Bleu(), ChrF(), ExactMatch()], ids=str)
def test_tuning_finds_that_the_score_is_upside_down(metric):
    """The worse a text, the better its score; its length tells nothing."""
    rng = np.random.default_rng(2)
    words = "der Hund läuft schnell über die grüne Wiese und bellt laut in den Abend hinein".split()
    references = [" ".join(rng.permutation(words)[:8]) for _ in range(30)]
    hypotheses = []
    for reference in references:
        best = []
        for wrong in range(6):
            text = reference.split()
            for place in rng.permutation(8)[:wrong]:
                text[place] = str(rng.choice(words))
            best.append(Hypothesis(text=" ".join(text), score=wrong - 6.0, log_probability=-1.0, num_tokens=9))
        hypotheses.append(best[::-1])
    tuned = Reranker(run(), [Score(), Length()]).tune(references, hypotheses, references, metric=metric)
    assert tuned.before.value < 60 and tuned.after.value == pytest.approx(100.0)
    assert tuned.reranker.features[0].weight < 0
    assert [best[0].text for best in tuned.reranker.rerank(references, hypotheses)] == references


def test_features_are_what_command_lines_and_files_name():
    for text in ("score", "length,unit=characters", "reverse,run=runs/back,checkpoint=latest", "language_model,run=r"):
        feature = parse_feature(f"{text},weight=-0.5")
        assert (str(feature), feature.weight) == (text, -0.5)
        assert feature_from_json(json.loads(json.dumps(feature_to_json(feature)))) == feature
    assert parse_feature("forward,run=runs/x") == Forward(run="runs/x")


def test_a_discriminator_is_asked_about_each_text_and_must_be_there(monkeypatch):
    monkeypatch.setattr(
        Runs, "_judge", lambda runs, path, which, pairs: np.array([float(len(text)) for _, text in pairs])
    )
    monkeypatch.setattr(Inference, "open", lambda path, **_: run(path))
    lists = lists_of(SOURCES, HYPOTHESES)
    table = Reranker(run(), [Discriminator(run="other")]).table(lists)
    np.testing.assert_array_equal(np.concatenate(table.values)[:, 0], [5.0, 3.0, 1.0, 7.0])
    with pytest.raises(ValueError, match="MaximumLikelihoodConfig, which has no discriminator"):
        run().system.judge  # noqa: B018


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scores", f"there is no feature 'scores'. Name one of {', '.join(FEATURES)}"),
        ("reverse", "feature reverse needs run: give reverse,run=VALUE"),
        ("length,unit=tokens", "features.length.unit must be one of words, characters"),
        ("score,weight=much", "weight must be a number, and is 'much'"),
        ("score,weight=nan", "features.score.weight must be a finite number"),
        ("score,run=x", "feature score has no field 'run'"),
        ("score,5", "expected field=value after the comma, and got '5'"),
    ],
)
def test_a_feature_that_is_none_is_refused(text, said):
    with pytest.raises(ValueError) as error:
        parse_feature(text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_features_are_some_and_each_once():
    with pytest.raises(ValueError, match="at least one feature"):
        Reranker(run(), [])
    with pytest.raises(ValueError, match="have one twice"):
        Reranker(run(), [Score(), Score(weight=2.0)])


def test_a_score_that_lists_do_not_have_is_refused():
    lists = [CandidateList(source="x", candidates=(Candidate(text="a"),))]
    with pytest.raises(ValueError, match="n-best list 1 has no score .* forward,run=RUN"):
        Reranker(run(), [Score()]).table(lists)
    nameless = [dataclasses.replace(lists[0], source=None)]
    with pytest.raises(ValueError, match="n-best list 1 has no source, which the feature forward needs"):
        Reranker(run(), [Forward(run="run")]).table(nameless)


def test_lists_come_from_json_lines_and_from_plain_ones():
    record = {"source": "x", "hypotheses": [dataclasses.asdict(each) for each in HYPOTHESES[0]]}
    lists, records = read_records([json.dumps(record), '{"hypotheses": [{"text": "a"}]}'], "file")
    assert lists[0] == lists_of(["x"], HYPOTHESES[:1])[0] and records[0] == record
    assert lists[1].source is None and np.isnan(lists[1].candidates[0].score)
    first, second = lists_of_lines(["a", "b", "c", "d"], ["x", "y"], "file", n=2)
    assert [each.text for each in second.candidates] == ["c", "d"] and (first.source, second.source) == ("x", "y")


@pytest.mark.parametrize(
    "line", ["two cows", "[]", '{"source": "x"}', '{"hypotheses": [{"score": 1}]}', '{"hypotheses": [{"text": 3}]}', ""]
)
def test_a_line_that_is_no_list_is_named(line):
    good = '{"source": "x", "hypotheses": [{"text": "a"}]}'
    with pytest.raises(ValueError, match="line 2 of lists.jsonl is no n-best list") as error:
        read_records([good, line], "lists.jsonl")
    assert "\n" not in str(error.value)


def test_numbers_that_do_not_match_are_named():
    with pytest.raises(ValueError, match="file has 3 lines, and 2 for each of 2 sources are 4"):
        lists_of_lines(["a", "b", "c"], ["x", "y"], "file", n=2)
    with pytest.raises(ValueError, match="got 1 lists for 2 sources"):
        lists_of(SOURCES, HYPOTHESES[:1])
    with pytest.raises(ValueError, match="list of source 1 is empty"):
        lists_of(["x"], [[]])
    with pytest.raises(ValueError, match="references for each of 2 lists, and got 1"):
        Reranker(run(), [Score()]).tune(SOURCES, HYPOTHESES, ["a"])
