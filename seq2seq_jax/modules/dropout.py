"""Dropout from a counter-based hash, of elements or of whole rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32


def dropout_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """0 with probability `rate`, else 1 / (1 - rate)."""
    return jnp.where(_kept(key, rate, shape), 1.0 / (1.0 - rate), 0.0)


def dropped(
    x: Float[Array, "*dims"], key: jax.Array, rate: float, *, shape: tuple[int, ...] | None = None
) -> Float[Array, "*dims"]:
    """x, its elements 0 with probability `rate` and the rest scaled by 1 / (1 - rate).

    Args:
        shape: of what is drawn, where several elements share it; None = that of x.
    """
    return jnp.where(_kept(key, rate, shape or x.shape), x / (1.0 - rate), 0).astype(x.dtype)


def _kept(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """False with probability `rate`, exact to 2^-32.

    An element's word is a hash of the key and of its place in the whole array: the same on every mesh, nothing but
    arithmetic that the compiler fuses with what uses it, and a fraction of the cost of a cipher such as Threefry, which
    draws the key's own words alone.
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    rows = jnp.zeros((*shape[:-1], 1), jnp.uint32)
    for dim, size in enumerate(shape[:-1]):
        rows = rows * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, rows.shape, dim)
    columns = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    # A row has 64 bits of its own, so that no two rows are one sequence from two starts.
    words = _mixed(columns ^ _mixed(rows ^ seeds[0], seeds[1]), _mixed(rows ^ seeds[1], seeds[0]))
    return words >= jnp.uint32(round(rate * 2**32))


def _mixed(word: UInt32[Array, "*dims"], addend: UInt32[Array, "..."]) -> UInt32[Array, "*dims"]:
    """A bijection of 32-bit words of which every bit of the input turns every bit of the output with probability 1/2.

    Source: Wellons 2018, "Prospecting for Hash Functions" (lowbias32), with an addend in its middle.
    """
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D) + addend
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    Draws from the rng stream "dropout".

    Attributes:
        whole_rows: one mask for all places of a row, so for all time steps of a recurrence (variational dropout, Gal
            and Ghahramani 2016); examples that share a row share it.

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
