"""Dropout with 16 random bits an element."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    One 32-bit random word serves two elements, which halves the cost of the random numbers (a large part of dropout's
    on a CPU); the rate is exact to 2^-16. Draws from the rng stream "dropout".

    Source: Srivastava et al. 2014.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*dims"], *, deterministic: bool) -> Float[Array, "*dims"]:
        if deterministic or self.rate == 0.0:
            return x
        words = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], (x.shape[-1] + 1) // 2), jnp.uint32)
        bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : x.shape[-1]]
        keep = bits >= round(self.rate * 2**16)
        return jnp.where(keep, x / (1.0 - self.rate), 0).astype(x.dtype)
