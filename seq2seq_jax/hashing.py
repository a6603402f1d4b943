"""Numbers whose every bit depends on every bit of the numbers that they are made of."""

from jaxtyping import Array, UInt32


def mixed(values: UInt32[Array, "*dims"]) -> UInt32[Array, "*dims"]:
    """A bijection of 32-bit numbers in which each bit of the input changes about half of the output's.

    Source: the finalizer of MurmurHash3 (Appleby 2011).
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = (values ^ (values >> shift)) * values.dtype.type(factor)
    return values ^ (values >> 16)
