"""Dropout's rate, scale and independence, from large samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.modules.dropout import Dropout

SHAPE = (500, 401)


def drop(x, rate, seed=0):
    return np.asarray(Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(seed)}))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    found = drop(jnp.ones(SHAPE), rate)
    np.testing.assert_allclose(np.unique(found), [0.0, 1 / (1 - rate)], rtol=1e-6)
    # Standard error of a share of n: sqrt(p (1 - p) / n); four of them.
    margin = 4 * (rate * (1 - rate) / found.size) ** 0.5
    assert abs(np.mean(found == 0.0) - rate) < margin
    assert abs(found.mean() - 1.0) < margin / (1 - rate)


def test_what_is_kept_is_the_input_scaled():
    x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    found = drop(jnp.asarray(x), 0.25)
    np.testing.assert_allclose(found[found != 0], x[found != 0] / 0.75, rtol=1e-6)
    assert 0 < np.sum(found == 0) < x.size


def test_no_two_elements_share_their_fate():
    """All pairs of columns are uncorrelated, and so are rows that follow each other."""
    kept = (drop(jnp.ones((20_000, 9)), 0.5) != 0).astype(float)
    correlations = np.corrcoef(kept.T) - np.eye(9)
    assert np.abs(correlations).max() < 4.5 / 20_000**0.5
    rows = np.corrcoef(kept[:-1].ravel(), kept[1:].ravel())[0, 1]
    assert abs(rows) < 4.5 / kept.size**0.5


def signs(key, shape=(2_048, 512)):
    """1 where an element is kept at rate 1/2, else -1."""
    kept = Dropout(0.5).apply({}, jnp.ones(shape), deterministic=False, rngs={"dropout": key})
    return np.where(np.asarray(kept) != 0, 1.0, -1.0)


def test_masks_are_uncorrelated_at_every_shift_of_rows_and_columns():
    """Two-dimensional autocorrelation by Fourier transform: a million shifts, of which none is beyond chance."""
    found = signs(jax.random.key(1))
    power = np.abs(np.fft.fft2(found)) ** 2
    correlations = np.fft.ifft2(power).real.ravel()[1:] / found.size**0.5
    # Each is a standard normal number; of a million, the largest is beyond 6.2 with a probability below 0.001.
    assert np.abs(correlations).max() < 6.2
    assert abs(correlations.std() - 1.0) < 0.01
    # No frequency stands out: its power is exponential with mean 1.
    assert (power.ravel()[1:] / found.size).max() < np.log(found.size) + 8


def test_keys_that_follow_from_each_other_draw_unrelated_masks():
    """Of steps, of layers and of seeds: folded in, and neighbours; at the same place and at every other."""
    key = jax.random.key(5)
    keys = [key, jax.random.key(6), *(jax.random.fold_in(key, step) for step in range(6))]
    masks = [signs(key, (512, 256)) for key in keys]
    spectra = [np.fft.fft2(mask) for mask in masks]
    for i in range(len(masks)):
        for j in range(i):
            correlations = np.fft.ifft2(spectra[i] * spectra[j].conj()).real / masks[i].size ** 0.5
            assert np.abs(correlations).max() < 6.2, (i, j)


def test_groups_of_neighbours_take_all_their_patterns_alike():
    """Eight elements of a row or of a column, 256 patterns: chi-square of 255 degrees of freedom."""
    kept = signs(jax.random.key(2)) > 0
    for groups in (kept.reshape(-1, 8), kept.T.reshape(-1, 8)):
        counts = np.bincount(groups @ (1 << np.arange(8)), minlength=256)
        expected = len(groups) / 256
        assert abs(np.sum((counts - expected) ** 2) / expected - 255) < 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3])
def test_the_number_dropped_scatters_as_a_binomial_one(rate):
    """Over rows, columns and keys alike."""
    shape, keys = (256, 256), 64
    module = Dropout(rate)
    dropped = np.stack(
        [
            np.asarray(module.apply({}, jnp.ones(shape), deterministic=False, rngs={"dropout": jax.random.key(seed)}))
            == 0
            for seed in range(keys)
        ]
    )
    assert abs(dropped.mean() - rate) < 4.5 * (rate * (1 - rate) / dropped.size) ** 0.5
    for dims in ((0, 1), (0, 2), (1, 2)):
        counts = dropped.sum(axis=dims)
        draws = dropped.size / len(counts)
        statistic = np.sum((counts - draws * rate) ** 2) / (draws * rate * (1 - rate))
        assert abs(statistic - len(counts)) < 5 * (2 * len(counts)) ** 0.5


@pytest.mark.parametrize("last_dim", [1, 2, 3, 8])
def test_every_length_of_the_last_dim_keeps_its_shape(last_dim):
    found = drop(jnp.ones((4_000, last_dim)), 0.5)
    assert found.shape == (4_000, last_dim)
    np.testing.assert_allclose((found == 0).mean(axis=0), 0.5, atol=0.04)


def test_the_key_alone_decides():
    x = jnp.ones((20, 30))
    np.testing.assert_array_equal(drop(x, 0.5, seed=1), drop(x, 0.5, seed=1))
    np.testing.assert_array_equal(drop(x, 0.5, seed=1) == 0, drop(2.0 * x, 0.5, seed=1) == 0)
    assert abs(np.mean(drop(x, 0.5, seed=1) == drop(x, 0.5, seed=2)) - 0.5) < 0.1


@pytest.mark.parametrize(("rate", "deterministic"), [(0.5, True), (0.0, False)])
def test_without_dropout_no_key_is_needed(rate, deterministic):
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, deterministic=deterministic), x)


def test_bfloat16_stays_bfloat16():
    x = jnp.ones((2, 3), jnp.bfloat16)
    assert Dropout(0.5).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}).dtype == jnp.bfloat16


def test_whole_rows_have_one_mask_for_all_their_places():
    module, x = Dropout(0.25, whole_rows=True), jnp.asarray(np.random.default_rng(0).normal(size=(300, 7, 9)))
    found = np.asarray(module.apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}))
    kept = found != 0
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1], kept.shape))
    np.testing.assert_allclose(found[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    masks = kept[:, 0]
    assert abs(np.mean(masks) - 0.75) < 4 * (0.75 * 0.25 / masks.size) ** 0.5
    # Rows differ from each other, and so do the elements of a mask.
    assert len(np.unique(masks, axis=0)) > 50
    assert np.abs(np.corrcoef(masks.T) - np.eye(9)).max() < 4.5 / 300**0.5
    np.testing.assert_array_equal(module.apply({}, x, deterministic=True), x)
