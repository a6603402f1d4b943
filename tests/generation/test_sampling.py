"""Sampling against the probabilities of every text, counted by brute force, and against NumPy."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_model import END, PADDING, START, VOCAB_SIZE, VOCABULARY, TableModel, random_model

from seq2seq_jax.generation.sampling import (
    BLOCK,
    Policy,
    draw,
    draw_perturbed,
    draws_by_batch,
    draws_by_line,
    num_blocks,
    sample,
)
from seq2seq_jax.generation.search import beam_search

WORDS = (3, 4, 5)


def samples_of(model, *, num_samples, limits, seed=0, temperature=1.0, minimum_length=0, draws=None, **options):
    policy = Policy(vocabulary=VOCABULARY, temperature=temperature, minimum_length=minimum_length)

    @jax.jit
    def run(key, max_lengths):
        return sample(
            dataclasses.replace(model.context(limits), limits=max_lengths),
            policy=policy,
            draws=draws_by_batch(key, len(limits), num_samples) if draws is None else draws,
            num_samples=num_samples,
            **options,
        )

    found = run(jax.random.key(seed), jnp.array(limits))
    return jax.tree.map(np.asarray, found)


def log_policy(model, source, prefix, *, temperature=1.0, minimum_length=0):
    """The policy's log-probabilities of the next token, in NumPy."""
    logits = model.log_probabilities(source, prefix) / temperature
    allowed = [token for token in (*WORDS, END) if token != END or len(prefix) >= minimum_length]
    found = np.full(VOCAB_SIZE, -np.inf)
    found[allowed] = logits[allowed] - np.log(np.exp(logits[allowed]).sum())
    return found


def texts(limit):
    """Every text of at most `limit` tokens, those that are cut off included."""
    whole = ((*words, END) for length in range(limit) for words in itertools.product(WORDS, repeat=length))
    return [*whole, *itertools.product(WORDS, repeat=limit)]


@pytest.mark.parametrize(("temperature", "minimum_length"), [(1.0, 0), (0.5, 1), (2.0, 2)])
def test_texts_come_as_often_as_they_are_likely(temperature, minimum_length):
    """20,000 samples of a text of up to 3 tokens; the expected distance of the frequencies is below 0.02."""
    model, num_samples = random_model(0), 20_000
    settings = {"temperature": temperature, "minimum_length": minimum_length}
    found = samples_of(model, num_samples=num_samples, limits=[3, 3, 3], **settings)
    for source in range(3):
        counts = {}
        for tokens, length in zip(found.tokens[source], found.lengths[source], strict=True):
            text = tuple(tokens[:length].tolist())
            counts[text] = counts.get(text, 0) + 1
        probabilities = {
            text: np.exp(sum(log_policy(model, source, text[:i], **settings)[token] for i, token in enumerate(text)))
            for text in texts(3)
        }
        assert sum(probabilities.values()) == pytest.approx(1.0)
        assert set(counts) <= {text for text, probability in probabilities.items() if probability > 0}
        distance = sum(abs(counts.get(text, 0) / num_samples - share) for text, share in probabilities.items()) / 2
        assert distance < 0.02


def test_log_probabilities_lengths_and_ends_are_those_of_the_tokens():
    model, limits = random_model(1, num_sources=4), [5, 1, 0, 3]
    settings = {"temperature": 0.7, "minimum_length": 1}
    found = samples_of(model, num_samples=50, limits=limits, **settings)
    assert found.ended[0].any() and not found.ended[0].all()
    for source, row in itertools.product(range(4), range(50)):
        length, tokens = found.lengths[source, row], found.tokens[source, row].tolist()
        text = tokens[:length]
        assert tokens[length:] == [PADDING] * (5 - length)
        assert END not in text[:-1] and not set(text) & {START, PADDING}
        assert found.ended[source, row] == (END in text)
        assert length == limits[source] or found.ended[source, row]
        expected = [log_policy(model, source, tuple(text[:i]), **settings)[token] for i, token in enumerate(text)]
        np.testing.assert_allclose(found.log_probabilities[source, row, :length], expected, rtol=1e-4, atol=1e-5)
        assert not found.log_probabilities[source, row, length:].any()
        assert (found.mask[source, row] == (np.arange(5) < length)).all()


def test_the_first_texts_can_be_greedy():
    model, limits = random_model(2), [4, 4, 4]
    found = samples_of(model, num_samples=3, limits=limits, greedy=1)
    best = beam_search(model.context([9, 9, 9]), beam_size=1, n_best=1, length_penalty=0.0)
    np.testing.assert_array_equal(found.tokens[:, 0], best.tokens[:, 0, :4])
    assert (found.tokens[:, 1:] != found.tokens[:, :1]).any()


def test_the_key_decides_the_samples():
    model = random_model(3)
    take = functools.partial(samples_of, model, num_samples=8, limits=[6, 6, 6])
    np.testing.assert_array_equal(take(seed=1).tokens, take(seed=1).tokens)
    assert (take(seed=1).tokens != take(seed=2).tokens).any()
    # Every sample of every source has draws of its own.
    flat = samples_of(random_model(0, num_sources=1), num_samples=64, limits=[6]).tokens[0]
    assert len(np.unique(flat, axis=0)) > 16


def test_a_draw_depends_on_seed_line_sample_and_position_alone():
    """Neither the other sources nor the number of samples change a text."""
    model = random_model(4, num_sources=4)

    def texts_of(lines, num_samples, seed=7):
        part = TableModel(model.table[np.array(lines)])
        draws = draws_by_line(jnp.array(lines), num_samples=num_samples, seed=seed)
        return samples_of(part, num_samples=num_samples, limits=[6] * len(lines), draws=draws).tokens

    whole = texts_of([0, 1, 2, 3], 4)
    np.testing.assert_array_equal(texts_of([3, 1], 4), whole[[3, 1]])
    np.testing.assert_array_equal(texts_of([2], 16)[:, :4], whole[[2]])
    assert (texts_of([0, 1, 2, 3], 4, seed=8) != whole).any()
    assert len(np.unique(texts_of([0], 64)[0], axis=0)) > 16


def test_draws_by_line_follow_the_weights_and_are_uncorrelated():
    """300 ids in three blocks, one of them without weight: 20,000 draws."""
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=300) * (rng.random(300) < 0.5)
    weights[128:256] = 0.0
    with np.errstate(divide="ignore"):
        rows = jnp.tile(jnp.log(jnp.asarray(weights, jnp.float32)), (1000, 1))
    draws = jax.jit(draws_by_line(jnp.arange(50), num_samples=20, seed=0))
    found = np.stack([draws(jnp.int32(position), rows) for position in range(20)]).reshape(20, 50, 20)
    expected = 20_000 * weights / weights.sum()
    counts = np.bincount(found.ravel(), minlength=300)
    assert not counts[weights == 0].any()
    often = expected >= 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    # Chi-square: its mean is the number of ids, its variance twice that; above 3.3 deviations once in a thousand.
    assert statistic < often.sum() + 3.3 * np.sqrt(2 * often.sum())
    quantiles = (np.cumsum(weights) / weights.sum())[found]
    for axis in range(3):
        pairs = np.moveaxis(quantiles, axis, 0)
        assert abs(np.corrcoef(pairs[:-1].ravel(), pairs[1:].ravel())[0, 1]) < 0.05


@pytest.mark.long
def test_rounding_of_the_weights_hardly_ever_changes_a_draw():
    """Errors of 1e-6, as between two shapes of a batch, in 20,000 draws from 8,000 ids."""
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    changed = {"perturbed": 0, "inverse": 0}
    for index in range(20):
        weights = jnp.asarray(rng.normal(0, 2.5, size=(1000, 8_000)), jnp.float32)
        rounded = weights + jnp.asarray(rng.normal(0, 1e-6, size=weights.shape), jnp.float32)
        noise = jax.random.gumbel(jax.random.fold_in(key, index), (1000, BLOCK + num_blocks(8_000)))
        uniforms = jax.random.uniform(jax.random.fold_in(key, index), (1000,))
        changed["perturbed"] += int((draw_perturbed(weights, noise) != draw_perturbed(rounded, noise)).sum())
        changed["inverse"] += int((draw(weights, uniforms) != draw(rounded, uniforms)).sum())
    assert changed["perturbed"] <= 1 < changed["inverse"]


@pytest.mark.parametrize("vocab", [1, 5, 128, 300, 8_000])
def test_a_draw_is_where_the_cumulative_weight_passes(vocab):
    rng = np.random.default_rng(vocab)
    weights = rng.exponential(size=(400, vocab)) * (rng.random((400, vocab)) < 0.7)
    weights[:, rng.integers(vocab)] = 1.0
    uniforms = np.concatenate([[0.0, 1 - 2**-24], rng.random(398)]).astype(np.float32)
    with np.errstate(divide="ignore"):
        drawn = np.asarray(jax.jit(draw)(jnp.log(jnp.asarray(weights, jnp.float32)), uniforms))
    rows = np.arange(400)
    assert (weights[rows, drawn] > 0).all()
    shares = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    before = np.where(drawn > 0, shares[rows, drawn - 1], 0.0)
    assert (before <= uniforms + 2e-6).all() and (uniforms <= shares[rows, drawn] + 2e-6).all()
