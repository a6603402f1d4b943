"""Matrix products in the model's precision."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq2seq_jax.parallel.mesh import gather_features, shards_of_rows

Precision = Literal["float32", "bfloat16", "bfloat16_products"]
"""A model's arithmetic; parameters are float32 in every precision.

- float32: everything in float32.
- bfloat16: activations and products in bfloat16, with float32 accumulation inside a product (accelerators).
- bfloat16_products: float32 activations; products with parameters have bfloat16 operands and a float32 result (CPUs
  with AMX or AVX512-BF16, where such a product is up to several times as fast as in float32).

Softmax, normalisation statistics, logits, the loss and the optimizer are float32 in every precision. In bfloat16 the
residual stream and the inputs of softmax are rounded to bfloat16, as are the gradients of single products.
"""


def activation_dtype(precision: Precision) -> jnp.dtype:
    """The dtype of activations between modules."""
    return jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)


def operand_dtype(precision: Precision) -> jnp.dtype:
    """The dtype of the operands of products of activations and parameters."""
    return jnp.dtype(jnp.float32 if precision == "float32" else jnp.bfloat16)


def product(equation: str, left: Float[Array, "..."], right: Float[Array, "..."], *, precision: Precision):
    """`einsum` of two activations, in `activation_dtype(precision)`."""
    dtype = activation_dtype(precision)
    return jnp.einsum(equation, left.astype(dtype), right.astype(dtype))


def matrix_product(
    rows: Float[Array, "*dims input"],
    matrix: Float[Array, "input output"] | Float[Array, "output input"],
    *,
    axes: tuple[str | None, str | None],
    precision: Precision,
    transposed: bool = False,
) -> Float[Array, "*dims output"]:
    """The product of activations and a parameter, in `activation_dtype(precision)`.

    Args:
        rows: with the dims that they have, which must not be merged before if one of them but the first is sharded; see
            `merges_rows`.
        axes: logical axes of the parameter's input and output; of dims that were merged, that of the first.
        transposed: whether the matrix is [output, input].
    """
    of_input, of_output = axes
    return gather_features(_matrix_product(gather_features(rows, of_input), matrix, precision, transposed), of_output)


def _matrix_product(rows, matrix, precision, transposed):
    if rows.ndim != 2 and merges_rows(precision):
        merged = _matrix_product(rows.reshape(-1, rows.shape[-1]), matrix, precision, transposed)
        return merged.reshape(*rows.shape[:-1], -1)
    if precision == "bfloat16_products":
        return _bfloat16_product(transposed, rows, matrix)
    dtype = activation_dtype(precision)
    matrix = matrix.astype(dtype)
    return rows.astype(dtype) @ (matrix.T if transposed else matrix)


def merges_rows(precision: Precision) -> bool:
    """Whether products merge the dims of rows, such as length and batch, into one.

    On one device, and in CPUs' precision, sums are in that order, which decides the last bit of results. A merged dim
    of which an inner part is sharded cannot be sharded: every device would gather all rows and multiply them all.
    """
    return precision == "bfloat16_products" or (precision == "float32" and shards_of_rows(0) == 1)


def recurrent_product(
    rows: Float[Array, "rows input"], matrix: Float[Array, "input output"], *, precision: Precision
) -> Float[Array, "rows output"]:
    """Activations times a parameter, in float32 from operands of the precision, for what is carried through time.

    Not to be differentiated: what is carried has a backward pass of its own.
    """
    dtype = operand_dtype(precision)
    return _accumulate("ri,io->ro", rows.astype(dtype), matrix.astype(dtype))


def grouped_product(equation: str, left: Float[Array, "..."], right: Float[Array, "..."], *, precision: Precision):
    """`einsum` of two activations with a float32 result, from operands in `activation_dtype(precision)`."""
    dtype = activation_dtype(precision)
    return _accumulate(equation, left.astype(dtype), right.astype(dtype))


def kernel_gradient(
    rows: Float[Array, "*dims input"], gradient: Float[Array, "*dims output"], *, precision: Precision
) -> Float[Array, "input output"]:
    """The float32 gradient of the parameter that multiplied the rows: rows^T gradient.

    Args:
        rows: with the dims that they have, see `matrix_product`.
    """
    dtype = operand_dtype(precision)
    rows, gradient = rows.astype(dtype), gradient.astype(dtype)
    if merges_rows(precision):
        rows, gradient = (array.reshape(-1, array.shape[-1]) for array in (rows, gradient))
        return _accumulate("ir,ro->io", rows.T if precision == "float32" else _transpose(rows), gradient)
    dims = tuple(range(rows.ndim - 1))
    return jax.lax.dot_general(rows, gradient, ((dims, dims), ((), ())), preferred_element_type=jnp.float32)


def _accumulate(equation, left, right):
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bfloat16_product(transposed, rows, matrix):
    equation = "ri,oi->ro" if transposed else "ri,io->ro"
    return _accumulate(equation, rows.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16))


def _forward(transposed, rows, matrix):
    rows, matrix = rows.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16)
    return _bfloat16_product(transposed, rows, matrix), (rows, matrix)


def _backward(transposed, operands, gradient):
    # Autodiff would multiply a float32 gradient by a bfloat16 operand, which no matrix unit supports.
    rows, matrix = operands
    gradient = gradient.astype(jnp.bfloat16)
    rows_gradient = _accumulate("ro,oi->ri" if transposed else "ro,io->ri", gradient, matrix)
    matrix_gradient = kernel_gradient(rows, gradient, precision="bfloat16_products")
    return rows_gradient, _transpose(matrix_gradient) if transposed else matrix_gradient


def _transpose(array):
    """The transpose as a copy.

    XLA folds a plain transpose into the neighbouring product, and its CPU backend has no bfloat16 code for a product
    over the first dim: it converts to float32, which takes 4.5 ms instead of 1.4 ms (2048 x 256 and 2048 x 1024).
    """
    rows, columns = array.shape
    block = math.gcd(columns, 16)
    return array.reshape(rows, columns // block, block).transpose(1, 2, 0).reshape(columns, rows)


_bfloat16_product.defvjp(_forward, _backward)
