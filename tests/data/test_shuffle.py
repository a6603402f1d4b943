import collections
import math

import numpy as np
import pytest

from seq2seq_jax.data.shuffle import shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000, 12_345])
def test_every_number_comes_once(size):
    for key in range(3):
        numbers = shuffled(np.arange(size), size, key=np.uint64(key))
        assert np.array_equal(np.sort(numbers), np.arange(size))


def test_a_part_is_that_of_the_whole():
    whole = shuffled(np.arange(1000), 1000, key=np.uint64(7))
    places = np.array([999, 3, 3, 500])
    assert np.array_equal(shuffled(places, 1000, key=np.uint64(7)), whole[places])


def test_keys_give_other_orders():
    orders = [shuffled(np.arange(1000), 1000, key=np.uint64(key)) for key in range(20)]
    # Two random orders agree in one place on average, and in more than 8 about once in a million pairs.
    agreements = [(one == other).sum() for number, one in enumerate(orders) for other in orders[:number]]
    assert max(agreements) <= 8 and 0.7 < np.mean(agreements) < 1.3


@pytest.mark.long
def test_all_orders_of_a_few_are_equally_likely():
    draws = 12_000
    orders = collections.Counter(tuple(shuffled(np.arange(4), 4, key=np.uint64(key)).tolist()) for key in range(draws))
    assert len(orders) == math.factorial(4)
    expected = draws / math.factorial(4)
    # 23 degrees of freedom: 49.7 is passed once in a thousand.
    assert sum((count - expected) ** 2 / expected for count in orders.values()) < 49.7


def test_neighbours_do_not_stay_together_in_a_large_range():
    size = 275_000_000
    numbers = shuffled(np.arange(100_000), size, key=np.uint64(1))
    steps = np.abs(np.diff(numbers))
    # Of two uniform numbers the difference is a third of the range on average.
    assert abs(steps.mean() / size - 1 / 3) < 0.005
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert np.histogram(numbers, 50, (0, size))[0].min() > 1800
