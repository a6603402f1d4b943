"""Matrix products in the precision that a model asks for."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["float32", "bfloat16", "bfloat16_products"]
"""How a model computes; its parameters are float32 in all of them.

- float32: everything in float32.
- bfloat16: activations and products in bfloat16, sums inside a product in float32 (accelerators).
- bfloat16_products: float32 activations, bfloat16 operands of matrix products, float32 results (CPUs with AMX or
  AVX512-BF16: several times the matrix speed of float32 there).

Softmax, normalisation statistics and the loss are float32 in all of them.
"""


def activation_dtype(precision: Precision) -> jnp.dtype:
    """The dtype of activations between modules."""
    return jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)


def product(equation: str, left: Float[Array, "..."], right: Float[Array, "..."], *, precision: Precision):
    """`einsum` of two operands.

    Args:
        equation: every index of an operand stands in the other operand or in the result (so that each gradient is
            itself one product).

    Returns:
        The product, in `activation_dtype(precision)`.
    """
    if precision == "bfloat16_products":
        return _product_of_bfloat16(equation, left, right)
    dtype = activation_dtype(precision)
    return jnp.einsum(equation, left.astype(dtype), right.astype(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product_of_bfloat16(equation, left, right):
    return jnp.einsum(
        equation, left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )


def _forward(equation, left, right):
    left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return _product_of_bfloat16(equation, left, right), (left, right)


def _backward(equation, operands, gradient):
    # Autodiff would multiply a float32 gradient with a bfloat16 operand, which no matrix unit does.
    left, right = operands
    operand_indices, result_indices = equation.split("->")
    left_indices, right_indices = operand_indices.split(",")
    return (
        _product_of_bfloat16(f"{result_indices},{right_indices}->{left_indices}", gradient, right),
        _product_of_bfloat16(f"{left_indices},{result_indices}->{right_indices}", left, gradient),
    )


_product_of_bfloat16.defvjp(_forward, _backward)
