"""A linear map whose dims carry logical axis names."""

import math

import flax.linen as nn
from jaxtyping import Array, Float

from seq2seq_jax.modules.precision import Precision, matrix_product


class Linear(nn.Module):
    """x @ kernel, over the last `len(input_dims)` dims of x.

    Attributes:
        input_dims: sizes of the contracted dims.
        output_dims: sizes of the dims that replace them.
        axes: logical axis name of each input and output dim, or None.
        bias: whether a bias is added.
        precision: precision of the product.
    """

    input_dims: tuple[int, ...]
    output_dims: tuple[int, ...]
    axes: tuple[str | None, ...]
    bias: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        num_inputs = len(self.input_dims)
        initializer = nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=range(num_inputs), out_axis=range(num_inputs, len(self.axes))
        )
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(initializer, self.axes), self.input_dims + self.output_dims
        )
        rows = x.reshape(-1, math.prod(self.input_dims))
        matrix = kernel.reshape(math.prod(self.input_dims), -1)
        result = matrix_product(rows, matrix, precision=self.precision)
        result = result.reshape(*x.shape[: x.ndim - num_inputs], *self.output_dims)
        if self.bias:
            initializer = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[num_inputs:])
            result = result + self.param("bias", initializer, self.output_dims).astype(result.dtype)
        return result
