"""Hash functions of integers in which every output bit depends on every input bit."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, UInt32, UInt64

GOLDEN = 0x9E3779B97F4A7C15
"""What the state of SplitMix64 grows by."""
MASK = 2**64 - 1


def mixed(values: UInt32[Array | np.ndarray, "*dims"]) -> UInt32[Array | np.ndarray, "*dims"]:
    """A bijection of 32-bit integers in which each input bit flips about half of the output bits.

    Source: the finalizer of MurmurHash3 (Appleby 2011).
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = (values ^ (values >> shift)) * values.dtype.type(factor)
    return values ^ (values >> 16)


def mixed_64(values: UInt64[np.ndarray, "*dims"]) -> UInt64[np.ndarray, "*dims"]:
    """The same for 64-bit integers, on the host.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def random_words(keys: UInt64[np.ndarray, " keys"], count: int) -> UInt64[np.ndarray, "keys count"]:
    """`count` pseudorandom 64-bit integers for each key, a function of the key alone.

    Source: SplitMix64 (Steele, Lea and Flood 2014), seeded with the keys.
    """
    return mixed_64(keys[:, None] + np.uint64(GOLDEN) * np.arange(1, count + 1, dtype=np.uint64))


def uniform_numbers(key: int, first: int = 0) -> Iterator[float]:
    """Numbers in (0, 1] from the words of `random_words` of a key, from number `first`, without end: where few are
    needed at a time.
    """
    for number in itertools.count(first + 1):
        word = (key + GOLDEN * number) & MASK
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            word = ((word ^ (word >> shift)) * factor) & MASK
        yield (((word ^ (word >> 31)) >> 11) + 1.0) * 2.0**-53
