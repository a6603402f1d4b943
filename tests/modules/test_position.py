"""Positions against formulas in NumPy and buckets computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.modules.position import LearnedPositions, RelativeBias, RotaryConfig, rotate, sinusoidal


def test_sinusoidal_by_hand():
    """Four frequencies from 1 to 1/10000, each 10000^(1/3) = 21.5443 times slower than the one before."""
    found = np.asarray(sinusoidal(jnp.array([[0, 1, 5]]), model_dim=8))[0]
    np.testing.assert_allclose(found[0], [0, 0, 0, 0, 1, 1, 1, 1], atol=1e-7)
    angles = [5.0, 5 / 21.5443469, 5 / 464.158883, 5 / 10_000]
    np.testing.assert_allclose(
        found[2], [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles], atol=1e-6
    )
    np.testing.assert_allclose(found[1, [0, 4]], [0.84147098, 0.54030231], atol=1e-6)


def test_sinusoidal_follows_the_position_ids_not_the_place():
    packed = sinusoidal(jnp.array([[0, 1, 2, 0, 1]]), model_dim=6)
    np.testing.assert_array_equal(packed[0, 3:], packed[0, :2])


def test_sinusoidal_of_two_dims_has_one_frequency():
    np.testing.assert_allclose(sinusoidal(jnp.array([2]), model_dim=2), [[math.sin(2), math.cos(2)]], atol=1e-6)


def test_open_sinusoids_by_hand():
    """Four frequencies, each 10000^(1/4) = 10 times slower than the one before: the fifth would be 1/10000."""
    found = np.asarray(sinusoidal(jnp.array([[5]]), model_dim=8, is_open=True))[0, 0]
    angles = [5.0, 0.5, 0.05, 0.005]
    np.testing.assert_allclose(
        found, [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles], atol=1e-6
    )


def test_frequencies_of_rotary_positions():
    """With base 10^6 three pairs turn by 1, 0.01 and 0.0001 radians per token: 1,000 tokens are 159, 1.59 and 0.0159
    turns. Between 4 and 1 turns a third of the way to 4, so that 0.01 is kept by (1.59 - 1) / 3 = 0.197.
    """
    plain = RotaryConfig(base=1e6)
    np.testing.assert_allclose(plain.frequencies(3), [1, 1e-2, 1e-4], rtol=1e-5)
    np.testing.assert_allclose(RotaryConfig(base=1e6, factor=4.0).frequencies(3), [0.25, 2.5e-3, 2.5e-5], rtol=1e-5)
    llama = RotaryConfig(base=1e6, factor=8.0, keep_above=4.0, divide_below=1.0, trained_length=1_000)
    kept = (10 / (2 * math.pi) - 1) / 3
    expected = [1, 1e-2 * (kept + (1 - kept) / 8), 1e-4 / 8]
    np.testing.assert_allclose(llama.frequencies(3), expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [{"base": 1.0}, {"factor": 0.5}, {"keep_above": 4.0}])
def test_frequencies_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^rotary\.[^\n]*$"):
        RotaryConfig(**wrong)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_rotate_turns_each_pair_by_an_angle_that_grows_with_the_position():
    x, positions = random(2, 3, 2, 6), np.array([[0, 1, 7], [40, 2, 0]])
    found = rotate(x, jnp.asarray(positions))
    for batch, place, head in np.ndindex(2, 3, 2):
        for pair in range(3):
            angle = positions[batch, place] * 10_000 ** (-pair / 3)
            first, second = (float(x[batch, place, head, pair + offset]) for offset in (0, 3))
            expected = (
                first * math.cos(angle) - second * math.sin(angle),
                second * math.cos(angle) + first * math.sin(angle),
            )
            np.testing.assert_allclose(found[batch, place, head, [pair, pair + 3]], expected, atol=1e-5)


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    query, key = random(1, 1, 1, 8), random(1, 1, 1, 8, seed=1)

    def product(query_position, key_position):
        turned = (rotate(x, jnp.array([[position]])) for x, position in ((query, query_position), (key, key_position)))
        return float(jnp.sum(jnp.multiply(*turned)))

    assert product(9, 4) == pytest.approx(product(5, 0), abs=1e-5)
    assert product(105, 100) == pytest.approx(product(5, 0), abs=1e-4)
    assert product(4, 9) != pytest.approx(product(9, 4), abs=1e-2)
    assert product(3, 3) == pytest.approx(float(jnp.sum(query * key)), abs=1e-5)


def test_rotate_is_computed_in_float32_and_keeps_the_dtype():
    """At position 1000 a bfloat16 angle would be off by up to two radians."""
    x = random(1, 1, 1, 8)
    exact = rotate(x, jnp.array([[1000]]))
    low = rotate(x.astype(jnp.bfloat16), jnp.array([[1000]]))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float32), exact, atol=0.03)


def test_learned_positions_are_rows_of_the_table():
    module = LearnedPositions(max_positions=5, model_dim=3)
    positions = jnp.array([[0, 4, 1]])
    params = random_parameters(module, positions)
    assert params["table"].shape == (5, 3)
    found = module.apply({"params": params}, positions)
    np.testing.assert_array_equal(found[0], np.asarray(params["table"])[[0, 4, 1]])


def buckets(distances, **settings):
    module = RelativeBias(num_heads=1, **settings)
    return jax.jit(module.bucket)(jnp.array(distances)).tolist()


def test_bidirectional_buckets_by_hand():
    """32 buckets: 16 a direction, 8 of them single distances, 8 that grow by 16^(1/8) = 1.414 up to 128.

    Their first distances are the next integers from 8 * 1.414^n: 8, 12, 16, 23, 32, 46, 64, 91.
    """
    settings = {"num_buckets": 32, "max_distance": 128, "bidirectional": True}
    first = [8, 12, 16, 23, 32, 46, 64, 91]
    expected = {distance: distance for distance in range(8)}
    expected |= {distance: 8 + index for index, distance in enumerate(first)}
    expected |= {distance - 1: 7 + index for index, distance in enumerate(first)}
    expected |= {127: 15, 128: 15, 129: 15, 5000: 15}
    behind = [-distance for distance in expected]
    assert buckets(behind, **settings) == list(expected.values())
    ahead = {distance: 16 + bucket for distance, bucket in expected.items() if distance > 0}
    assert buckets(list(ahead), **settings) == list(ahead.values())


def test_causal_buckets_by_hand():
    """32 buckets: 16 single distances back, 16 that grow by 8^(1/16) = 1.1388 up to 128; what is ahead is distance 0.

    First distances: the next integers from 16 * 1.1388^n: 16, 18.2, 20.7, 23.6, 26.9, 30.6, 34.9, 39.7, 45.3, 51.5,
    58.7, 66.8, 76.1, 86.7, 98.7, 112.4.
    """
    settings = {"num_buckets": 32, "max_distance": 128, "bidirectional": False}
    first = [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    expected = {distance: distance for distance in range(16)}
    expected |= {distance: 16 + index for index, distance in enumerate(first)}
    expected |= {distance - 1: 15 + index for index, distance in enumerate(first)}
    expected |= {128: 31, 10_000: 31}
    assert buckets([-distance for distance in expected], **settings) == list(expected.values())
    assert buckets([1, 2, 500], **settings) == [0, 0, 0]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_relative_bias_is_that_of_the_bucket_of_key_minus_query(bidirectional):
    """8 buckets, 4 of them exact: distances up to 3 back are buckets 0 to 3 (causal), 0 and 1 (bidirectional)."""
    module = RelativeBias(num_heads=3, num_buckets=8, max_distance=16, bidirectional=bidirectional)
    queries, keys = jnp.array([[0, 1, 2], [0, 1, 0]]), jnp.array([[0, 1, 2, 3], [1, 0, 1, 2]])
    params = random_parameters(module, queries, keys)
    table = np.asarray(params["table"])
    assert table.shape == (8, 3)
    # Distances 2 and 3 of bidirectional buckets: 2 + floor(log(d / 2) / log(16 / 2) * 2) = 2.
    bucket = {-2: 2, -1: 1, 0: 0, 1: 5, 2: 6, 3: 6} if bidirectional else {-2: 2, -1: 1, 0: 0, 1: 0, 2: 0, 3: 0}
    found = module.apply({"params": params}, queries, keys)
    assert found.shape == (2, 3, 3, 4)
    for batch, head, query, key in np.ndindex(found.shape):
        distance = int(keys[batch, key] - queries[batch, query])
        assert found[batch, head, query, key] == table[bucket[distance], head]
