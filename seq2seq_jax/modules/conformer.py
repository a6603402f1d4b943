"""The convolution module of Conformer blocks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.normalization import Normalization
from seq2seq_jax.modules.precision import Precision


class ConvolutionModule(nn.Module):
    """Gated projection, depthwise convolution within each segment, normalisation, swish, projection.

    LayerNorm takes the place of the paper's batch normalisation: its statistics are those of a vector, so that neither
    padding nor other segments of a row have a part in them.

    Attributes:
        kernel_size: vectors that the convolution reads, centred; odd.
        norm: the normalisation after the convolution.

    Source: Gulati et al. 2020, section 2.2.
    """

    model_dim: int
    kernel_size: int
    norm: Normalization
    precision: Precision

    def setup(self):
        dim = self.model_dim
        self.expand = Linear((dim,), (2, dim), ("model", None, "hidden"), bias=True, precision=self.precision)
        self.kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(
                nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=0, out_axis=()), (None, "hidden")
            ),
            (self.kernel_size, dim),
        )
        self.bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("hidden",)), (dim,))
        self.contract = Linear((dim,), (dim,), ("hidden", "model"), bias=True, precision=self.precision)

    def __call__(
        self, x: Float[Array, "batch length model"], segment_ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch length model"]:
        expanded = self.expand(x)
        gated = expanded[..., 0, :] * jax.nn.sigmoid(expanded[..., 1, :])
        mixed = self.norm(depthwise(gated, self.kernel, segment_ids) + self.bias.astype(gated.dtype))
        return self.contract(jax.nn.silu(mixed))

    @staticmethod
    def flops(length: Amount, *, model_dim: int, kernel_size: int) -> Amount:
        """Model FLOPs for this many vectors."""
        return product_flops(length, model_dim, 3 * model_dim) + product_flops(length, kernel_size, model_dim)


def depthwise(
    x: Float[Array, "batch length model"],
    kernel: Float[Array, "window model"],
    segment_ids: Int[Array, "batch length"],
) -> Float[Array, "batch length model"]:
    """Σ_k kernel[k] x[t + k - window // 2] over vectors of the same segment; one sum, which compilers fuse."""
    length, half = x.shape[1], len(kernel) // 2
    values = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    ids = jnp.pad(segment_ids, ((0, 0), (half, half)), constant_values=-1)
    total = jnp.zeros(x.shape, jnp.float32)
    for index in range(len(kernel)):
        is_inside = (ids[:, index : index + length] == segment_ids)[..., None]
        total += jnp.where(is_inside, values[:, index : index + length].astype(jnp.float32), 0.0) * kernel[index]
    return total.astype(x.dtype)
