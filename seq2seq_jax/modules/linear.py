"""A linear map whose dims carry logical axis names."""

import math

import flax.linen as nn
from jaxtyping import Array, Float

from seq2seq_jax.modules.precision import Precision, activation_dtype, matrix_product, operand_dtype
from seq2seq_jax.parallel.sharded_product import product_with_parameter


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

        def product(x, kernel):
            inputs, outputs = kernel.shape[:num_inputs], kernel.shape[num_inputs:]
            rows, matrix = x.reshape(-1, math.prod(inputs)), kernel.reshape(math.prod(inputs), -1)
            result = matrix_product(rows, matrix, precision=self.precision)
            return result.reshape(*x.shape[: x.ndim - num_inputs], *outputs)

        result = product_with_parameter(
            product,
            x,
            kernel,
            axes=self.axes,
            num_inputs=num_inputs,
            dtype=operand_dtype(self.precision),
            gradient_dtype=activation_dtype(self.precision),
        )
        if self.bias:
            initializer = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[num_inputs:])
            result = result + self.param("bias", initializer, self.output_dims).astype(result.dtype)
        return result
