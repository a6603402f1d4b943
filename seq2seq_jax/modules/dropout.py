"""Dropout from a counter-based hash, with masks per element or per row."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32


def has_dropout(config: Any) -> bool:
    """Whether one of the rates of dropout of a config of an encoder or a decoder is above 0."""
    return any(getattr(config, field.name) for field in dataclasses.fields(config) if "dropout" in field.name)


def dropout_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """0 with probability `rate`, else 1 / (1 - rate)."""
    return jnp.where(_kept(key, rate, shape), 1.0 / (1.0 - rate), 0.0)


def dropped(
    x: Float[Array, "*dims"], key: jax.Array, rate: float, *, shape: tuple[int, ...] | None = None
) -> Float[Array, "*dims"]:
    """x with elements set to 0 with probability `rate`, and the others scaled by 1 / (1 - rate).

    Args:
        shape: of the mask, which broadcasts to that of x; None = that of x.
    """
    return jnp.where(_kept(key, rate, shape or x.shape), x / (1.0 - rate), 0).astype(x.dtype)


def _kept(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """False with probability `rate`, exact to 2^-32.

    The random word of an element is a hash of the key and of the element's index in the global array. It is the same on
    every mesh, consists of arithmetic that the compiler fuses with its consumer, and costs a fraction of a cipher such
    as Threefry, which is used only for the two words of the key.
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    rows = jnp.zeros((*shape[:-1], 1), jnp.uint32)
    for dim, size in enumerate(shape[:-1]):
        rows = rows * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, rows.shape, dim)
    columns = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    # Each row is hashed with its own 64 bits, so that no two rows are parts of the same pseudorandom sequence.
    words = _mixed(columns ^ _mixed(rows ^ seeds[0], seeds[1]), _mixed(rows ^ seeds[1], seeds[0]))
    return words >= jnp.uint32(round(rate * 2**32))


def _mixed(word: UInt32[Array, "*dims"], addend: UInt32[Array, "..."]) -> UInt32[Array, "*dims"]:
    """A bijection of 32-bit words in which each input bit flips each output bit with probability about 1/2.

    Source: Wellons 2018, "Prospecting for Hash Functions" (lowbias32), with an addend in its middle.
    """
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D) + addend
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


class Dropout(nn.Module):
    """Sets elements to 0 with probability `rate` and scales the others by 1 / (1 - rate).

    Uses the rng stream "dropout".

    Attributes:
        whole_rows: use one mask for all positions of a row, and so for all time steps of a recurrence (variational
            dropout, Gal and Ghahramani 2016); examples packed into one row share it.

    Source: Srivastava et al. 2014.
    """

    rate: float
    whole_rows: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*dims"], *, deterministic: bool) -> Float[Array, "*dims"]:
        if deterministic or self.rate == 0.0:
            return x
        shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]) if self.whole_rows else x.shape
        return dropped(x, self.make_rng("dropout"), self.rate, shape=shape)
