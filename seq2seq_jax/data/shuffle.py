"""Any part of a seeded shuffle without the rest of it, however long it is."""

import numpy as np
from jaxtyping import Int, UInt64

from seq2seq_jax.hashing import mixed_64, random_words

NUM_ROUNDS = 8


def epoch_keys(seed: int, epoch: int | np.integer) -> UInt64[np.ndarray, " 2"]:
    """Of an epoch's order, and of its transforms.

    Args:
        seed: of the run, at least 0.
    """
    return np.random.SeedSequence((seed, int(epoch))).generate_state(2, np.uint64)


def shuffled(places: Int[np.ndarray, " places"], size: int, *, key: np.uint64) -> Int[np.ndarray, " places"]:
    """What a shuffle of range(size) puts in some of its places.

    Args:
        places: from 0 to size - 1.
        key: decides the shuffle.

    Returns:
        Different numbers from 0 to size - 1 for different places.

    Source:
        Luby and Rackoff 1988 (a bijection of pairs of numbers from any functions of one number, in rounds); Black and
        Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3 (a number that is out of range goes on).
    """
    half_bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half_bits) - np.uint64(1)
    (round_keys,) = random_words(np.array([key], np.uint64), NUM_ROUNDS)

    def moved(numbers):
        left, right = numbers >> half_bits, numbers & low
        for round_key in round_keys:
            left, right = right, left ^ (mixed_64(right ^ round_key) & low)
        return left << half_bits | right

    numbers = moved(places.astype(np.uint64))
    while (outside := numbers >= size).any():
        numbers[outside] = moved(numbers[outside])
    return numbers.astype(np.int64)
