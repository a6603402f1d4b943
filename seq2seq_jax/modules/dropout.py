"""Dropout with 16 random bits an element, of elements or of whole rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """0 with probability `rate`, else 1 / (1 - rate).

    One 32-bit random word serves two elements, which halves the cost of the random numbers (a large part of dropout's
    on a CPU); the rate is exact to 2^-16.
    """
    return jnp.where(_kept(key, rate, shape), 1.0 / (1.0 - rate), 0.0)


def _kept(key, rate, shape):
    words = jax.random.bits(key, (*shape[:-1], (shape[-1] + 1) // 2), jnp.uint32)
    bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : shape[-1]]
    return bits >= round(rate * 2**16)


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
        keep = _kept(self.make_rng("dropout"), self.rate, shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0).astype(x.dtype)
