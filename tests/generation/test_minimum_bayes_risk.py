"""Minimum Bayes risk against sacrebleu in a loop over all pairs of the same samples."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu
from table_model import VOCABULARY, random_model

from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.methods import MinimumBayesRisk
from seq2seq_jax.generation.minimum_bayes_risk import expected_utilities
from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.rewards.text import PieceTable

WORDS = "the cat sat on a mat with two big red dogs, and it was fun. A dog saw 3 cats; not 4!".split()


@pytest.fixture(scope="module")
def tokenizer():
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(300)]
    return Tokenizer.train([(line, line) for line in lines], TokenizerConfig(kind="bpe", vocabulary_size=330))


def samples_of(tokenizer, texts):
    """Texts of every source as what was drawn."""
    ids = [tokenizer.encode_target(of_source) for of_source in texts]
    length = max(len(each) for of_source in ids for each in of_source)
    tokens = np.full((len(texts), len(texts[0]), length), tokenizer.vocabulary.pad_id, np.int32)
    lengths = np.zeros(tokens.shape[:2], np.int32)
    for row, of_source in enumerate(ids):
        for column, each in enumerate(of_source):
            tokens[row, column, : len(each)], lengths[row, column] = each, len(each)
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    return Samples(
        tokens=jnp.asarray(tokens),
        log_probabilities=zeros,
        lengths=jnp.asarray(lengths),
        ended=jnp.ones(lengths.shape, bool),
    )


def texts_of(seed, *, sources=6, number=10):
    """Variations of a sentence a source, of which some are equal, and one empty."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(sources):
        base = list(rng.choice(WORDS, rng.integers(2, 8)))
        texts = []
        for _ in range(number - 1):
            text = [word if rng.random() < 0.8 else str(rng.choice(WORDS)) for word in base]
            texts.append(" ".join(text[: rng.integers(1, len(text) + 1)]))
        found.append([*texts, ""])
    return found


METRICS = {
    "chrf": sacrebleu.CHRF(),
    "chrf, beta 1": sacrebleu.CHRF(beta=1),
    "bleu": sacrebleu.BLEU(effective_order=True, tokenize="13a"),
}


@pytest.mark.parametrize("metric", METRICS)
def test_expected_utilities_are_those_of_sacrebleu(tokenizer, metric):
    texts = texts_of(1)
    utility, _, beta = metric.partition(", beta ")
    run = functools.partial(
        expected_utilities, table=PieceTable.of(tokenizer), utility=utility, chrf_beta=float(beta or 2)
    )
    found, is_first = jax.jit(run)(samples_of(tokenizer, texts))
    for source, of_source in enumerate(texts):
        # As the model's tokens say them.
        said = [tokenizer.decode_target(tokenizer.encode_target([text])[0]) for text in of_source]
        expected = [
            np.mean([METRICS[metric].sentence_score(text, [other]).score for other in said]) / 100 for text in said
        ]
        np.testing.assert_allclose(found[source], expected, rtol=1e-4, atol=1e-5)
        assert is_first[source].tolist() == [text not in of_source[:index] for index, text in enumerate(of_source)]
        assert int(np.argmax(found[source])) == int(np.argmax(expected))


@pytest.mark.long
def test_texts_that_tie_have_the_same_utility(tokenizer):
    """Each has one word that no other has: their utilities with the samples are the same numbers, in another order."""
    words = ["cat", "dog", "mat", "was", "fun", "saw", "sat", "big"]
    texts = [[f"the {word} with two red dogs, and it was 3 cats; not 4!" for word in words] + ["A dog saw a cat."] * 3]
    run = jax.jit(lambda samples: expected_utilities(samples, PieceTable.of(tokenizer), utility="bleu")[0])
    [found] = np.asarray(run(samples_of(tokenizer, texts)))
    tied = [index for index, word in enumerate(words) if word not in ("dog", "was", "saw", "cat")]
    assert len({found[index] for index in tied}) == 1


def aggregated_chrf(texts):
    """chrF2 of each text, of its mean precision and mean recall with all texts, pair by pair."""
    counts = [
        [collections.Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, 7)]
        for text in ("".join(text.split()) for text in texts)
    ]
    scores = []
    for of_text in counts:
        precisions, recalls = [], []
        for n in range(6):
            hypothesis = of_text[n].total()
            references = [other[n] for other in counts if other[n]]
            if hypothesis:
                matches = [(of_text[n] & reference).total() for reference in references]
                precisions.append(np.mean(matches) / hypothesis)
                recalls.append(np.mean([m / each.total() for m, each in zip(matches, references, strict=True)]))
        precision, recall = (np.mean(each) if each else 0.0 for each in (precisions, recalls))
        scores.append(5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0)
    return scores


def test_the_aggregated_utility_is_chrf_of_mean_precision_and_recall(tokenizer):
    texts, table = texts_of(2), PieceTable.of(tokenizer)
    run = jax.jit(lambda samples: expected_utilities(samples, table, utility="aggregated_chrf")[0])
    found = run(samples_of(tokenizer, texts))
    for source, of_source in enumerate(texts):
        said = [tokenizer.decode_target(tokenizer.encode_target([text])[0]) for text in of_source]
        np.testing.assert_allclose(found[source], aggregated_chrf(said), rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_pruning_leaves_out_texts_but_the_best(tokenizer, utility):
    """40 samples: all are compared with 16, those that are left with 32, and those with all."""
    texts = texts_of(3, sources=4, number=40)
    samples, table = samples_of(tokenizer, texts), PieceTable.of(tokenizer)

    def utilities(pruning):
        run = jax.jit(lambda samples: expected_utilities(samples, table, utility=utility, pruning=pruning)[0])
        return np.asarray(run(samples))

    exact, pruned, cautious = utilities(None), utilities(0.9), utilities(1 - 1e-6)
    kept = pruned > -np.inf
    # What is left has the utility that it has without pruning; the worst texts, such as the empty one, are gone.
    np.testing.assert_allclose(pruned[kept], exact[kept], rtol=1e-5)
    assert (kept.sum(axis=1) < 40).all() and kept.sum() < 80 and not kept[:, -1].any()
    assert (np.argmax(pruned, axis=1) == np.argmax(exact, axis=1)).all()
    # Whatever won in a single resample is kept.
    assert ((cautious > -np.inf) >= kept).all()


@pytest.mark.long
def test_texts_are_left_out_that_win_in_few_resamples(tokenizer):
    """The first step by its definition, with the resamples that all sources share."""
    [texts] = texts_of(4, sources=1, number=20)
    said = [tokenizer.decode_target(tokenizer.encode_target([text])[0]) for text in texts]
    score = METRICS["chrf"].sentence_score
    against_first = np.array([[score(text, [other]).score for other in said[:16]] for text in said])
    resamples = np.random.default_rng(0).multinomial(16, np.full(16, 1 / 16), size=500)
    means = against_first @ resamples.T
    wins = np.mean(means >= means[np.argmax(against_first.mean(axis=1))] - 1e-9, axis=1)
    table = PieceTable.of(tokenizer)
    run = jax.jit(lambda samples: expected_utilities(samples, table, utility="chrf", pruning=0.95)[0])
    kept = np.asarray(run(samples_of(tokenizer, [texts])))[0] > -np.inf
    assert kept.tolist() == (wins > 0.05).tolist() and 1 < kept.sum() < 20


def test_the_method_returns_texts_once_best_first(monkeypatch, tokenizer):
    """Over a tiny model whose ids are read as those of the tokenizer."""
    model = random_model(0, num_sources=3)
    method = MinimumBayesRisk(samples=40, n_best=30, epsilon=None)
    table = dataclasses.replace(PieceTable.of(tokenizer), eos_id=VOCABULARY.eos_id, pad_id=VOCABULARY.pad_id)
    found = jax.jit(lambda: method.generate(model.context([2, 2, 3], piece_table=lambda: table)))()
    found = jax.tree.map(np.asarray, found)
    for source in range(3):
        exists = found.scores[source] > -np.inf
        texts = [tuple(tokens.tolist()) for tokens in found.tokens[source][exists]]
        assert len(texts) == len(set(texts)) > 1
        assert (np.diff(found.scores[source][exists]) <= 0).all()
        assert not found.lengths[source][~exists].any() and (found.tokens[source][~exists] == VOCABULARY.pad_id).all()
    # Of two tokens there are fewer than 30 texts.
    assert (found.scores[0] == -np.inf).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"samples": 4, "n_best": 5}, "n_best must be at most samples"),
        ({"epsilon": 2.0}, "epsilon must lie above 0"),
        ({"pruning": 1.0}, "pruning must lie between 0 and 1"),
        ({"pruning": 0.9, "utility": "aggregated_chrf"}, "pruning has no effect with utility aggregated_chrf"),
        ({"chrf_beta": 1.0, "utility": "bleu"}, "chrf_beta has no effect with utility bleu"),
        ({"chrf_beta": 0.0}, "chrf_beta must be above 0"),
        ({"pruning": 0.9, "n_best": 2}, "pruning finds the best text alone, and n_best is 2"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        MinimumBayesRisk(**settings)
