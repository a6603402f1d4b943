"""LayerNorm and RMSNorm."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NormalizationKind = Literal["layer", "rms", "rms_plus_one"]
EPSILON = 1e-6
"""Added to the variance where a config says nothing else."""


class Normalization(nn.Module):
    """Normalises the last dim; statistics in float32, result in the input's dtype.

    Source: Ba et al. 2016 ("layer": mean and variance, scale and bias); Zhang and Sennrich 2019 ("rms": scale alone);
    Gemma Team 2024 ("rms_plus_one": the scale is 1 plus the parameter).
    """

    kind: NormalizationKind
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "*dims model"]) -> Float[Array, "*dims model"]:
        dim = x.shape[-1]
        initializer = nn.initializers.zeros if self.kind == "rms_plus_one" else nn.initializers.ones
        scale = self.param("scale", nn.with_logical_partitioning(initializer, ("norm",)), (dim,))
        if self.kind == "rms_plus_one":
            scale = 1.0 + scale
        values = x.astype(jnp.float32)
        if self.kind == "layer":
            bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)), (dim,))
            values = values - values.mean(axis=-1, keepdims=True)
        else:
            bias = 0.0
        variance = jnp.square(values).mean(axis=-1, keepdims=True)
        return (values * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)
