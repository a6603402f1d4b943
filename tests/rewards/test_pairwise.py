"""N-grams of all pairs of texts against those of one pair at a time, and against counting in Python."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.rewards.ngrams import overlap
from seq2seq_jax.rewards.pairwise import pairwise_overlap, weighted_matches
from seq2seq_jax.rewards.words import NO_SYMBOL

ORDER = 4


def texts_of(seed, *, planes, number=7, size=12, alphabet=3):
    """Texts of several lengths, some equal, one empty, with many repetitions."""
    rng = np.random.default_rng(seed)
    symbols = np.full((number, planes, size), NO_SYMBOL, np.uint32)
    for index, length in enumerate([0, size, 1, *rng.integers(1, size, number - 3)]):
        symbols[index, :, :length] = rng.integers(0, alphabet, (planes, length))
    symbols[-1] = symbols[1]
    return symbols


def counts_of(text, n):
    grams = list(zip(*text.tolist(), strict=True))
    grams = [gram for gram in grams if gram[0] != int(NO_SYMBOL)]
    return collections.Counter(tuple(grams[index : index + n]) for index in range(len(grams) - n + 1))


@pytest.mark.parametrize("planes", [1, 2])
def test_matches_of_all_pairs_are_those_of_each_pair(planes):
    texts = texts_of(0, planes=planes)
    found = jax.jit(lambda texts: pairwise_overlap(texts, order=ORDER))(texts)
    pair = jax.jit(lambda a, b: overlap(a, b, order=ORDER))
    for i, hypothesis in enumerate(texts):
        for j, reference in enumerate(texts):
            expected = pair(jnp.asarray(hypothesis), jnp.asarray(reference))
            np.testing.assert_array_equal(found.matches[i, j], expected.matches)
            np.testing.assert_array_equal(found.hypothesis[i, j], expected.hypothesis)
            np.testing.assert_array_equal(found.reference[i, j], expected.reference)
            for n in range(1, ORDER + 1):
                assert found.matches[i, j, n - 1] == (counts_of(hypothesis, n) & counts_of(reference, n)).total()


@pytest.mark.parametrize("fill", [0.05, 0.3, 0.9])
def test_matches_are_exact_however_much_text_there_is(fill):
    """Little text, some and much of what would fit, so that every size of the work is chosen."""
    rng = np.random.default_rng(0)
    texts = np.full((12, 1, 60), NO_SYMBOL, np.uint32)
    for text in texts:
        length = rng.binomial(60, fill)
        text[0, :length] = rng.integers(0, 4, length)
    found = jax.jit(lambda texts: pairwise_overlap(texts, order=3).matches)(texts)
    counts = [[counts_of(text, n) for text in texts] for n in (1, 2, 3)]
    for n, of_order in enumerate(counts):
        expected = [[(one & other).total() for other in of_order] for one in of_order]
        np.testing.assert_array_equal(found[..., n], expected)


def test_more_texts_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="50,000 texts of up to 2 symbols are too many to be compared at a time"):
        jax.eval_shape(lambda texts: pairwise_overlap(texts, order=1), jax.ShapeDtypeStruct((50_000, 1, 2), np.uint32))


def test_weighted_matches_are_those_of_all_pairs_times_their_weights():
    texts = texts_of(1, planes=1)
    weights = np.random.default_rng(2).random((2, len(texts), ORDER)).astype(np.float32)
    found = jax.jit(lambda *each: weighted_matches(*each, order=ORDER))(texts, weights)
    for n in range(1, ORDER + 1):
        counts = [counts_of(text, n) for text in texts]
        pairs = np.array([[(one & other).total() for other in counts] for one in counts])
        np.testing.assert_allclose(found[..., n - 1], weights[..., n - 1] @ pairs.T, rtol=1e-5, atol=1e-6)
