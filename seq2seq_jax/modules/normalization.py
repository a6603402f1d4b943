"""LayerNorm and RMSNorm."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NormalizationKind = Literal["layer", "rms"]


class Normalization(nn.Module):
    """Normalises the last dim; statistics in float32, result in the input's dtype.

    Source: Ba et al. 2016 ("layer": mean and variance, scale and bias); Zhang and Sennrich 2019 ("rms": scale alone).
    """

    kind: NormalizationKind
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*dims model"]) -> Float[Array, "*dims model"]:
        dim = x.shape[-1]
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), (dim,))
        values = x.astype(jnp.float32)
        if self.kind == "layer":
            bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)), (dim,))
            values = values - values.mean(axis=-1, keepdims=True)
        else:
            bias = 0.0
        variance = jnp.square(values).mean(axis=-1, keepdims=True)
        return (values * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)
