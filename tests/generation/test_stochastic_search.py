"""Stochastic beam search against the probabilities of every text, counted by brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_model import END, VOCABULARY, TableModel, random_model

from seq2seq_jax.generation.sampling import Policy
from seq2seq_jax.generation.stochastic_search import stochastic_beam_search

WORDS = (3, 4, 5)


def repeated(model, number):
    """The same source on many lines, which have draws of their own."""
    return TableModel(np.repeat(model.table, number, axis=0))


def draws_of(model, *, lines, samples, limit, seed=0):
    policy = Policy(vocabulary=VOCABULARY)
    run = jax.jit(
        lambda: stochastic_beam_search(
            repeated(model, lines).context([limit] * lines), policy=policy, num_samples=samples, seed=seed
        )
    )
    found = run()
    return jax.tree.map(np.asarray, found), np.asarray(found.inclusion_probabilities())


def probabilities_of_texts(model, limit):
    def policy(prefix):
        logits = model.log_probabilities(0, prefix)
        allowed = [*WORDS, END]
        p = np.exp(logits[allowed])
        return dict(zip(allowed, p / p.sum(), strict=True))

    whole = ((*words, END) for length in range(limit) for words in itertools.product(WORDS, repeat=length))
    return {
        text: float(np.prod([policy(text[:index])[token] for index, token in enumerate(text)]))
        for text in [*whole, *itertools.product(WORDS, repeat=limit)]
    }


def texts_of(found, line):
    return [
        tuple(tokens[:length].tolist())
        for tokens, length in zip(found.tokens[line], found.lengths[line], strict=True)
        if length
    ]


def test_no_text_is_drawn_twice_and_all_are_found():
    model = random_model(0, num_sources=1)
    expected = probabilities_of_texts(model, 3)
    found, inclusion = draws_of(model, lines=5, samples=len(expected) + 3, limit=3)
    for line in range(5):
        texts = texts_of(found, line)
        assert len(texts) == len(set(texts)) and set(texts) == set(expected)
        np.testing.assert_allclose(
            found.log_probabilities[line, : len(texts)],
            np.log([expected[text] for text in texts]),
            rtol=1e-4,
            atol=1e-4,
        )
        assert np.all(np.diff(found.perturbed[line, : len(texts)]) <= 0)
        assert found.threshold[line] == -np.inf and np.all(inclusion[line, : len(texts)] == 1)


def test_texts_are_included_as_often_as_plackett_and_luce_say():
    """Two of all texts, 20,000 times: chi-square of the ordered pairs, p > 1e-3."""
    model, lines = random_model(1, num_sources=1), 20_000
    p = probabilities_of_texts(model, 2)
    found, _ = draws_of(model, lines=lines, samples=2, limit=2)
    counts = {}
    for line in range(lines):
        pair = tuple(texts_of(found, line))
        counts[pair] = counts.get(pair, 0) + 1
    pairs = {(first, second): p[first] * p[second] / (1 - p[first]) for first in p for second in p if first != second}
    assert sum(pairs.values()) == pytest.approx(1) and set(counts) <= set(pairs)
    often = [pair for pair, share in pairs.items() if share * lines >= 5]
    rare = 1 - sum(pairs[pair] for pair in often)
    observed = np.array([*(counts.get(pair, 0) for pair in often), lines - sum(counts.get(pair, 0) for pair in often)])
    predicted = lines * np.array([*(pairs[pair] for pair in often), max(rare, 1e-9)])
    used = predicted >= 1
    statistic, freedom = ((observed - predicted)[used] ** 2 / predicted[used]).sum(), used.sum() - 1
    # By Wilson and Hilferty, the value that chi-square is above once in a thousand.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_the_horvitz_thompson_estimate_is_unbiased_and_varies_less_than_independent_draws():
    """Of the expected length, from 4 texts a line."""
    model, lines, samples = random_model(2, num_sources=1), 20_000, 4
    p = probabilities_of_texts(model, 3)
    expectation = sum(share * len(text) for text, share in p.items())
    variance = sum(share * (len(text) - expectation) ** 2 for text, share in p.items())
    found, inclusion = draws_of(model, lines=lines, samples=samples, limit=3)
    exists = found.lengths > 0
    with np.errstate(invalid="ignore"):
        weights = np.where(exists, np.exp(found.log_probabilities) / np.where(exists, inclusion, 1.0), 0.0)
    # By its ratio form, whose weights sum to 1 (Kool et al. 2019, section 4.2).
    plain = (weights * found.lengths).sum(axis=1)
    normalised = plain / weights.sum(axis=1)
    assert abs(plain.mean() - expectation) < 3 * plain.std() / lines**0.5
    assert normalised.var() < variance / samples


def test_more_samples_add_to_those_of_fewer_and_lines_do_not_depend_on_each_other():
    model = random_model(3, num_sources=1)
    few, many = (draws_of(model, lines=6, samples=samples, limit=5)[0] for samples in (4, 16))
    np.testing.assert_array_equal(few.tokens, many.tokens[:, :4])
    np.testing.assert_allclose(few.perturbed, many.perturbed[:, :4], rtol=1e-5)
    np.testing.assert_array_equal(draws_of(model, lines=2, samples=4, limit=5)[0].tokens, few.tokens[:2])
    assert len({tuple(texts_of(few, line)) for line in range(6)}) > 1
    assert (draws_of(model, lines=6, samples=4, limit=5, seed=1)[0].tokens != few.tokens).any()


def test_the_largest_perturbed_log_probability_is_a_standard_gumbel():
    model, lines = random_model(4, num_sources=1), 4_000
    found, _ = draws_of(model, lines=lines, samples=1, limit=3)
    # Mean 0.5772 and variance π²/6.
    assert found.perturbed.mean() == pytest.approx(0.5772, abs=4 * (np.pi**2 / 6 / lines) ** 0.5)
    assert found.perturbed.var() == pytest.approx(np.pi**2 / 6, rel=0.15)
    assert jnp.isfinite(found.perturbed).all()
