"""A linear map whose dims carry logical axis names."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq2seq_jax.modules.precision import Precision, activation_dtype, matrix_product, operand_dtype
from seq2seq_jax.parallel.sharded_product import product_with_parameter

LORA_IN, LORA_OUT = "lora_in", "lora_out"
"""Names of the two factors of a change of low rank."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """A change of a kernel as the product of two factors of low rank, the second of which is zero at first.

    Attributes:
        rank: width between the factors.
        scale: what their product is multiplied by.

    Source: Hu et al. 2022, equation 3; the scale is their alpha / r.
    """

    rank: int
    scale: float


class Linear(nn.Module):
    """x @ kernel, over the last `len(input_dims)` dims of x; with LoRA, x @ (kernel + scale * in @ out).

    Attributes:
        input_dims: sizes of the contracted dims.
        output_dims: sizes of the dims that replace them.
        axes: logical axis name of each input and output dim, or None.
        bias: whether a bias is added.
        precision: precision of the product.
        lora: a change of the kernel of low rank; None = there is none.
    """

    input_dims: tuple[int, ...]
    output_dims: tuple[int, ...]
    axes: tuple[str | None, ...]
    bias: bool
    precision: Precision
    lora: Lora | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        num_inputs = len(self.input_dims)
        initializer = nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=range(num_inputs), out_axis=range(num_inputs, len(self.axes))
        )
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(initializer, self.axes), self.input_dims + self.output_dims
        )

        result = self._product(x, kernel, self.axes, num_inputs)
        if self.lora is not None:
            inputs, outputs = self.axes[:num_inputs], self.axes[num_inputs:]
            # Uniform within 1 / sqrt(inputs), as in Hu et al.'s code and in PEFT.
            initializer = nn.initializers.variance_scaling(
                1 / 3, "fan_in", "uniform", in_axis=range(num_inputs), out_axis=num_inputs
            )
            first = self.param(
                LORA_IN,
                nn.with_logical_partitioning(initializer, (*inputs, None)),
                (*self.input_dims, self.lora.rank),
            )
            second = self.param(
                LORA_OUT,
                nn.with_logical_partitioning(nn.initializers.zeros, (None, *outputs)),
                (self.lora.rank, *self.output_dims),
            )
            narrow = self._product(x, first, (*inputs, None), num_inputs)
            result = result + self._product(narrow, second, (None, *outputs), 1) * self.lora.scale
        if self.bias:
            initializer = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[num_inputs:])
            result = result + self.param("bias", initializer, self.output_dims).astype(result.dtype)
        return result

    def _product(
        self, x: Float[Array, "..."], kernel: Float[Array, "..."], axes: tuple[str | None, ...], num_inputs: int
    ) -> Float[Array, "..."]:
        """x @ kernel, over the kernel's first dims; axes are its logical ones."""

        def product(x, kernel):
            inputs, outputs = kernel.shape[:num_inputs], kernel.shape[num_inputs:]
            rows, matrix = x.reshape(-1, math.prod(inputs)), kernel.reshape(math.prod(inputs), -1)
            ends = axes[0], axes[num_inputs]
            result = matrix_product(rows, matrix, axes=ends, precision=self.precision)
            return result.reshape(*x.shape[: x.ndim - num_inputs], *outputs)

        return product_with_parameter(
            product,
            x,
            kernel,
            axes=axes,
            num_inputs=num_inputs,
            dtype=operand_dtype(self.precision),
            gradient_dtype=activation_dtype(self.precision),
        )


def merge_lora(layer: dict[str, Any], lora: Lora, *, num_layers: int | None) -> dict[str, Any]:
    """Parameters of a linear layer, its change of low rank added to the kernel.

    Args:
        layer: with the kernel and both factors, and perhaps a bias.
        num_layers: size of the first dim of all parameters; None = they are of one layer.
    """
    kernel, first, second = (layer[name].astype(jnp.float32) for name in ("kernel", LORA_IN, LORA_OUT))
    leading = () if num_layers is None else (num_layers,)
    first = first.reshape(*leading, -1, lora.rank)
    change = jnp.matmul(first, second.reshape(*leading, lora.rank, -1), precision="highest") * lora.scale
    merged = (kernel + change.reshape(kernel.shape)).astype(layer["kernel"].dtype)
    return {name: values for name, values in layer.items() if name not in (LORA_IN, LORA_OUT)} | {"kernel": merged}
