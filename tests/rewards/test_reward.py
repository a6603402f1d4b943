"""Rewards of token ids: the libraries' scores of the decoded texts, and what a config can say."""

import dataclasses
import gzip
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from eight_devices import on_eight_devices

import seq2seq_jax
from seq2seq_jax.rewards.reward import VIEW_OF, RewardConfig
from studies.reward_agreement import LIBRARIES, compare, corrupt, main, rows, words_13a

REPOSITORY = Path(seq2seq_jax.__file__).parents[1]
MULTI30K = [REPOSITORY / "data/multi30k", REPOSITORY.parent / "shared/data/multi30k"]
EVERYTHING = RewardConfig(**dict.fromkeys(VIEW_OF, 1.0))
LENGTH, SAMPLES = 96, 4


def word_share(hypotheses, references):
    """A reward in Python: the words of the reference that the hypothesis has, of all."""
    return [
        len(set(ours.split()) & set(theirs.split())) / max(len(set(theirs.split())), 1)
        for ours, theirs in zip(hypotheses, references, strict=True)
    ]


def too_few(hypotheses, references):
    """A reward that is wrong, as those below are."""
    return [1.0]


def raises(hypotheses, references):
    return [1 / len("") for _ in hypotheses]


def of_nothing(hypotheses, references):
    return [float("nan") for _ in hypotheses]


def endless(hypotheses, references):
    return np.full(len(hypotheses), np.inf)


def words(hypotheses, references):
    return hypotheses


def none(hypotheses, references):
    return None


@pytest.fixture(scope="module")
def ids(tokenizer, texts):
    """Hypotheses, four a text: itself, corrupted, another text, and random ids; and the reference of each."""
    rng = np.random.default_rng(0)
    vocabulary = tokenizer.vocabulary
    sides = [texts, [corrupt(text, rng) for text in texts], texts[::-1]]
    hypotheses = [rows(tokenizer, [text[:LENGTH] for text in side])[:, :LENGTH] for side in sides]
    hypotheses = [np.pad(side, ((0, 0), (0, LENGTH - side.shape[1]))) for side in hypotheses]
    hypotheses.append(rng.integers(0, vocabulary.target_size, hypotheses[0].shape).astype(np.int32))
    references = rows(tokenizer, texts)[:, :LENGTH]
    return np.concatenate(hypotheses), np.tile(references, (SAMPLES, 1))


def of_sources(ids):
    """The same ids as four samples of each source, and references of another length."""
    hypotheses, references = ids
    by_sample = hypotheses.reshape(SAMPLES, -1, LENGTH)
    sources = references[: by_sample.shape[1]]
    return by_sample.swapaxes(0, 1), np.pad(sources, ((0, 0), (0, 9)))


@pytest.fixture(scope="module")
def decoded(tokenizer, ids):
    """(hypothesis, reference) texts."""
    return [tuple(map(tokenizer.decode_target, pair)) for pair in zip(*(side.tolist() for side in ids), strict=True)]


@pytest.fixture(scope="module")
def reward(tokenizer):
    """Every metric; called with one shape alone, as it is slow to compile."""
    return jax.jit(EVERYTHING.build(tokenizer))


@pytest.fixture(scope="module")
def found(reward, ids):
    """Total and scores of every pair."""
    total, scores = reward(ids[0][:, None], ids[1])
    return np.asarray(total)[:, 0], {name: np.asarray(values)[:, 0] for name, values in scores.items()}


@pytest.mark.parametrize("metric", LIBRARIES)
def test_every_metric_is_its_library_s(found, decoded, metric):
    _, score = LIBRARIES[metric]
    expected = [score(*pair) for pair in decoded]
    np.testing.assert_allclose(found[1][metric], expected, rtol=1e-6, atol=1e-6)


def test_metrics_without_a_library(found, decoded):
    def grams(text, order):
        words = words_13a(text)
        return [tuple(words[place : place + order]) for place in range(len(words) - order + 1)]

    def share(part, whole):
        return part / whole if whole else 0.0

    plain = {
        "exact_match": lambda ours, theirs: float(ours == theirs),
        "distinct_1": lambda ours, _: share(len(set(grams(ours, 1))), len(grams(ours, 1))),
        "distinct_2": lambda ours, _: share(len(set(grams(ours, 2))), len(grams(ours, 2))),
        "repetition": lambda ours, _: -share(len(grams(ours, 4)) - len(set(grams(ours, 4))), len(grams(ours, 4))),
        "length": lambda *pair: (
            min(len(words_13a(text)) for text in pair) / (max(len(words_13a(text)) for text in pair) or 1)
            if any(words_13a(text) for text in pair)
            else 1.0
        ),
    }
    assert plain.keys() | LIBRARIES.keys() == VIEW_OF.keys()
    for name, score in plain.items():
        expected = [score(*pair) for pair in decoded]
        np.testing.assert_allclose(found[1][name], expected, rtol=1e-6, err_msg=name)


def test_scores_do_not_depend_on_the_longest_text_of_the_batch(reward, found, decoded, ids):
    """Without the long texts all is computed at smaller sizes."""
    hypotheses, references = (side.copy() for side in ids)
    short = np.array([max(map(len, pair)) <= 60 for pair in decoded])
    assert 100 < short.sum() < len(short)
    hypotheses[~short] = references[~short] = 0
    for name, values in reward(hypotheses[:, None], references)[1].items():
        np.testing.assert_array_equal(np.asarray(values)[short, 0], found[1][name][short], err_msg=name)


def test_the_total_is_the_weighted_sum_of_each_sample(found, tokenizer, ids):
    total, scores = found
    np.testing.assert_allclose(total, sum(scores.values()), rtol=1e-5, atol=1e-5)
    config = RewardConfig(character_error_rate=-0.5, exact_match=2.0)
    total, some = jax.jit(config.build(tokenizer))(*of_sources(ids))
    assert some.keys() == {"character_error_rate", "exact_match"}
    np.testing.assert_allclose(total, 2 * some["exact_match"] - 0.5 * some["character_error_rate"], rtol=1e-6)
    for name, values in some.items():
        np.testing.assert_allclose(np.asarray(values).T.ravel(), scores[name], rtol=1e-6)


def test_a_function_in_python_scores_the_decoded_texts(tokenizer, ids, decoded, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    config = RewardConfig(function="test_reward:word_share", function_weight=2.0)
    total, scores = jax.jit(config.build(tokenizer))(*of_sources(ids))
    expected = word_share(*zip(*decoded, strict=True))
    np.testing.assert_allclose(np.asarray(scores["function"]).T.ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(total, 2 * scores["function"], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("too_few", "must return a number for each of 8 hypotheses, and returned 1"),
        ("raises", "it raised ZeroDivisionError: division by zero at .*test_reward.py, line [0-9]+"),
        ("of_nothing", "must return finite numbers, and returned nan for the hypothesis '"),
        ("endless", "must return finite numbers, and returned inf"),
        ("words", "must return a list of numbers, and returned a list"),
        ("none", "must return a list of numbers, and returned a NoneType"),
    ],
)
def test_a_function_that_fails_gives_nan_and_says_why(tokenizer, ids, monkeypatch, function, said):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    reward = RewardConfig(function=f"test_reward:{function}", function_weight=1.0).build(tokenizer)
    assert reward.failure() is None
    total, _ = jax.jit(reward)(*(side[:2] for side in of_sources(ids)))
    assert np.all(np.isnan(total))
    assert re.fullmatch(rf"objective\.reward\.function test_reward:{function}: [^\n]*{said}[^\n]*", reward.failure())


@pytest.mark.parametrize(
    ("function", "message"),
    [("no_such_module:f", "cannot be imported"), ("json:nothing", "cannot be imported"), ("json", "module:function"),
     ("math:pi", "is not a function")],
)  # fmt: skip
def test_a_function_that_cannot_be_used_is_refused(tokenizer, function, message):
    config = RewardConfig(function=function, function_weight=1.0)
    with pytest.raises(ValueError, match=rf"^objective\.reward\.function [^\n]*{message}[^\n]*$"):
        config.build(tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no metric"),
        ({"bleu": float("nan")}, "finite"),
        ({"bleu": float("inf")}, "finite"),
        ({"bleu": 1.0, "length": -1.0}, "sum to 0"),
        ({"bleu": 1.0, "function": "a:b"}, "need each other"),
        ({"bleu": 1.0, "function_weight": 1.0}, "need each other"),
        ({"bleu": 1.0, "function": "a:b", "function_weight": 0.0}, "function_weight is 0"),
        ({"chrf": 1.0, "bleu_smoothing": "floor"}, "has no effect without BLEU"),
    ],
)
def test_senseless_weights_are_refused(settings, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*objective\.reward[^\n]*{message}[^\n]*$|^[^\n]*{message}[^\n]*$"):
        RewardConfig(**settings)


def test_every_metric_is_a_field_and_every_field_a_metric():
    fields = {field.name for field in dataclasses.fields(RewardConfig)}
    assert fields - VIEW_OF.keys() == {"bleu_smoothing", "function", "function_weight"}
    assert VIEW_OF.keys() <= fields


@pytest.mark.long
def test_devices_score_their_own_rows_without_exchange(tmp_path_factory):
    """Meshes of eight devices give one device's rewards, the function in Python counted in."""
    found = on_eight_devices(tmp_path_factory, "rewards/rewards_on_meshes.py")
    assert found["collectives"] == []
    assert found["total"]["all"] == found["total"]["one"]
    assert found["total"]["uneven"] == found["total"]["one"][:7]
    assert len({round(value, 6) for row in found["total"]["one"] for value in row}) > 10


def multi30k():
    """The directory of Multi30k, if there is one where the configs look for it or beside the repository."""
    return next((directory for directory in MULTI30K if (directory / "train.de.gz").is_file()), None)


def test_multi30k_is_scored_as_the_libraries_score_it(reward, tokenizer, ids):
    directory = multi30k()
    if directory is None:
        pytest.skip(f"needs train.de.gz of Multi30k in {' or '.join(map(str, MULTI30K))}")
    with gzip.open(directory / "train.de.gz", "rt", encoding="utf-8") as file:
        references = file.read().split("\n")[7:29_000:61]
    rng = np.random.default_rng(0)
    sides = ([corrupt(text, rng) for text in references], references)
    # Of the shape that is compiled already: a text too long for it is scored as far as it goes.
    sampled = [rows(tokenizer, side)[:, :LENGTH] for side in sides]
    for agreement in compare(reward, tokenizer, *sampled, batch_size=len(ids[0]), description="Multi30k"):
        assert agreement.unequal == 0 and agreement.largest_difference < 1e-6, agreement
        assert agreement.pairs == len(references) > 450


def test_the_comparison_needs_its_files(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        main(["--directory", str(tmp_path)])
    with pytest.raises(ValueError, match="need each other"):
        main(["--hypotheses", "file"])
