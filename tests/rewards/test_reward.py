"""Rewards of token ids: the libraries' scores of the decoded texts, and what a config can say."""

import dataclasses
import gzip
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import pytest
from eight_devices import on_eight_devices
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

import seq2seq_jax
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.host import TextReward
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.rewards.terms import TERMS, RewardTerm
from studies.reward_agreement import LIBRARIES, compare, corrupt, main, rows, words_13a

REPOSITORY = Path(seq2seq_jax.__file__).parents[1]
MULTI30K = [REPOSITORY / "data/multi30k", REPOSITORY.parent / "shared/data/multi30k"]
EVERYTHING = RewardConfig(**dict.fromkeys(TERMS, 1.0))
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


def of_one(references):
    """Examples with one reference each."""
    return RewardExample(references=references[:, None])


def of_sources(ids):
    """The same ids as four samples of each source, and references of another length."""
    hypotheses, references = ids
    by_sample = hypotheses.reshape(SAMPLES, -1, LENGTH)
    sources = references[: by_sample.shape[1]]
    return by_sample.swapaxes(0, 1), of_one(np.pad(sources, ((0, 0), (0, 9))))


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
    total, scores = reward(ids[0][:, None], of_one(ids[1]))
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
    assert plain.keys() | LIBRARIES.keys() == TERMS.keys()
    for name, score in plain.items():
        expected = [score(*pair) for pair in decoded]
        np.testing.assert_allclose(found[1][name], expected, rtol=1e-6, err_msg=name)


def test_scores_do_not_depend_on_the_longest_text_of_the_batch(reward, found, decoded, ids):
    """Without the long texts all is computed at smaller sizes."""
    hypotheses, references = (side.copy() for side in ids)
    short = np.array([max(map(len, pair)) <= 60 for pair in decoded])
    assert 100 < short.sum() < len(short)
    hypotheses[~short] = references[~short] = 0
    for name, values in reward(hypotheses[:, None], of_one(references))[1].items():
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


SEVERAL = {
    "bleu": lambda ours, theirs: BLEU(effective_order=True).sentence_score(ours, theirs).score / 100,
    "chrf": lambda ours, theirs: CHRF().sentence_score(ours, theirs).score / 100,
    "rouge_l": lambda ours, theirs: RougeScorer(["rougeL"]).score_multi(theirs, ours)["rougeL"].fmeasure,
    "word_error_rate": lambda ours, theirs: -min(jiwer.wer(each, ours) for each in theirs),
    "exact_match": lambda ours, theirs: float(ours in theirs),
}


def cut_rows(tokenizer, texts, length=64):
    """Target ids of texts, cut or padded to a length."""
    ids = rows(tokenizer, texts)[:, :length]
    return np.pad(ids, ((0, 0), (0, length - ids.shape[1])))


@pytest.mark.parametrize("num_there", [2, 3])
def test_of_several_references_the_libraries_take_the_best_or_all(tokenizer, texts, num_there):
    """BLEU counts n-grams of all references and takes the closest length; the others take the best reference."""
    texts = [text[:40] for text in texts[:40]]
    rng = np.random.default_rng(1)
    shown = [[text, corrupt(text, rng), texts[-1 - index]][:num_there] for index, text in enumerate(texts)]
    sides = [*zip(*shown, strict=True), *[[""] * len(texts)] * (3 - num_there)]
    references = np.stack([cut_rows(tokenizer, side) for side in sides], axis=1)
    # One that is not there has no token at all; an empty text has its EOS token.
    references[:, num_there:] = tokenizer.vocabulary.pad_id
    hypotheses = np.stack([cut_rows(tokenizer, [corrupt(text, rng) for text in texts]) for _ in range(2)], axis=1)
    config = RewardConfig(**dict.fromkeys(SEVERAL, 1.0))
    _, found = jax.jit(config.build(tokenizer))(hypotheses, RewardExample(references=references))
    for name, score in SEVERAL.items():
        expected = [
            [score(tokenizer.decode_target(ids), [tokenizer.decode_target(each) for each in those[:num_there]])
             for ids in samples]
            for samples, those in zip(hypotheses.tolist(), references.tolist(), strict=True)
        ]  # fmt: skip
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)
    assert len(set(np.asarray(found["bleu"]).ravel().tolist())) > 20


class NeedsMore(TextReward):
    """A reward that cannot be made."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, outputs, examples):
        return [self.weight for _ in outputs]


class Seen(TextReward):
    """A reward of everything that there is: characters of output, source and references, and a label."""

    def __call__(self, outputs, examples):
        return [
            len(output) + 1e3 * len(example["source"]) + 1e6 * len(example["target"]) + 0.25 * float(example["weight"])
            for output, example in zip(outputs, examples, strict=True)
        ]


# Twice the label for a sample that begins with the same id as its source.
same_start = RewardTerm(
    view=None,
    score=lambda compared: jnp.where(
        compared.tokens[..., 0] == compared.example.source[:, :1], 2.0 * compared.example.labels["weight"][:, None], 0.0
    ),
)
# The words of the sample that no reference has, from the counts of n-grams.
new_words = RewardTerm(
    view="13a",
    order=1,
    score=lambda compared: 1.0 * (compared.overlap.hypothesis - compared.overlap.matches)[..., 0],
    compares_with_all=True,
)


def test_a_reward_from_outside_sees_the_whole_example(tokenizer, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    source = rows(tokenizer, ["ein Mann", "zwei Hunde laufen"], 48)
    samples = np.stack([rows(tokenizer, ["ein Hund", "zwei"], 48), rows(tokenizer, ["Mann ein", "zwei Hunde"], 48)], 1)
    references = np.stack([rows(tokenizer, ["ein Mann", "zwei"], 48), rows(tokenizer, ["Hund", ""], 48)], axis=1)
    references[1, 1] = tokenizer.vocabulary.pad_id
    example = RewardExample(references=references, source=source, labels={"weight": np.array([3.0, 5.0])})

    def rewards_of(name):
        reward = RewardConfig(function=f"test_reward:{name}", function_weight=1.0).build(tokenizer)
        found, _ = jax.jit(reward)(samples, example)
        assert reward.failure() is None
        return found.tolist()

    assert rewards_of("Seen") == [[2008008.75, 2008008.75], [1017005.25, 1017011.25]]
    is_same = samples[..., 0] == source[:, :1]
    assert is_same.any() and not is_same.all()
    assert rewards_of("same_start") == (is_same * [[6.0], [10.0]]).tolist()
    assert rewards_of("new_words") == [[0.0, 0.0], [0.0, 1.0]]


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
    total, _ = jax.jit(reward)(*jax.tree.map(lambda side: side[:2], of_sources(ids)))
    assert np.all(np.isnan(total))
    assert re.fullmatch(rf"objective\.reward\.function test_reward:{function}: [^\n]*{said}[^\n]*", reward.failure())


@pytest.mark.parametrize(
    ("function", "message"),
    [("no_such_module:f", "cannot be imported"), ("json:nothing", "cannot be imported"), ("json", "module:function"),
     ("math:pi", "is not a function"), ("decimal:Decimal", "is not a function"),
     ("test_reward:NeedsMore", "cannot be made without arguments")],
)  # fmt: skip
def test_a_function_that_cannot_be_used_is_refused(tokenizer, monkeypatch, function, message):
    monkeypatch.syspath_prepend(Path(__file__).parent)
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
    assert fields - TERMS.keys() == {"bleu_smoothing", "function", "function_weight"}
    assert TERMS.keys() <= fields


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
