"""Recurrent layers: LSTM and GRU over packed rows, with a fast custom backward pass.

The input products of all time steps are one matrix product before the loop over time, and the gradients of all
parameters are matrix products after the backward loop. Inside the loops each step has one product, that of the carried
state, and elementwise operations. On a mesh only the rows are sharded inside the loops: parameters are gathered before
them, so that no step waits for another device.
"""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from seq2seq_jax.modules.precision import (
    Precision,
    activation_dtype,
    grouped_product,
    kernel_gradient,
    operand_dtype,
    recurrent_product,
)

CellKind = Literal["lstm", "gru"]

State = tuple[Float[Array, "*dims hidden"], ...]
"""The state of a cell, its output first: (hidden, cell) for an LSTM, (hidden,) for a GRU. Float32."""


def replicate(tree: PyTree) -> PyTree:
    """Parameters with the sharding for a loop over time: replicated on every device."""
    return jax.tree.map(lambda leaf: nn.with_logical_constraint(leaf, (None,) * leaf.ndim), tree)


def shard_rows(tree: PyTree, *, dim: int = 0) -> PyTree:
    """Activations with the sharding for a loop over time: sharded along their batch dim only."""

    def constrained(leaf):
        axes = tuple("batch" if index == dim else None for index in range(leaf.ndim))
        return nn.with_logical_constraint(leaf, axes)

    return jax.tree.map(constrained, tree)


def shard_for_scan(tree: PyTree) -> PyTree:
    """`replicate` for vectors and matrices, which are parameters, and `shard_rows` for arrays of more dims."""
    return jax.tree.map(lambda leaf: replicate(leaf) if leaf.ndim < 3 else shard_rows(leaf), tree)


def _sigmoid(x):
    # XLA has a fast hyperbolic tangent on every backend, and a slower exponential.
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


class LSTM:
    """Gates in the order input, forget, candidate, output.

    i, f, o = sigmoid, g = tanh of W x + U h + b;  c' = f c + i g;  h' = o tanh(c').

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate).
    """

    num_gates = 4
    num_states = 2

    @staticmethod
    def forward(inputs, product, state, normalize=lambda cell: cell):
        """The next state, and the residuals of the backward pass.

        Args:
            inputs: W x + b, [batch, 4 * hidden].
            product: U h.
            normalize: is applied to c' before the output's tanh; `backward` supports the identity only.
        """
        _, before = state
        i, f, g, o = jnp.split(inputs + product, 4, axis=-1)
        i, f, g, o = _sigmoid(i), _sigmoid(f), jnp.tanh(g), _sigmoid(o)
        cell = f * before + i * g
        # Four arrays instead of one: slices of one array would be copied in every step of the backward loop.
        return (o * jnp.tanh(normalize(cell)), cell), (i, f, g, o, before)

    @staticmethod
    def backward(saved, gradient):
        """Gradients of inputs, of the product, and of the previous state except through the product."""
        i, f, g, o, before = saved
        hidden_gradient, cell_gradient = gradient
        tanh = jnp.tanh(f * before + i * g)
        d = cell_gradient + hidden_gradient * o * (1 - tanh * tanh)
        gates = [
            d * g * i * (1 - i),
            d * before * f * (1 - f),
            d * i * (1 - g * g),
            hidden_gradient * tanh * o * (1 - o),
        ]
        gates = jnp.concatenate(gates, axis=-1)
        return gates, gates, (jnp.zeros_like(d), d * f)


class GRU:
    """Gates in the order reset, update, candidate; the reset gate acts on the product, as in cuDNN and PyTorch.

    r, z = sigmoid of W x + U h + b;  n = tanh(W x + b + r (U h + b'));  h' = (1 - z) n + z h.

    Source: Cho et al. 2014, arXiv:1406.1078v1.
    """

    num_gates = 3
    num_states = 1

    @staticmethod
    def forward(inputs, product, state):
        """See LSTM.forward; here the product is U h, with b' added to its last third."""
        (before,) = state
        reset_input, update_input, candidate_input = jnp.split(inputs, 3, axis=-1)
        reset, update, candidate = jnp.split(product, 3, axis=-1)
        r, z = _sigmoid(reset_input + reset), _sigmoid(update_input + update)
        n = jnp.tanh(candidate_input + r * candidate)
        return (n + z * (before - n),), (r, z, n, candidate, before)

    @staticmethod
    def backward(saved, gradient):
        """See LSTM.backward."""
        r, z, n, candidate, before = saved
        (d,) = gradient
        dn = d * (1 - z) * (1 - n * n)
        dz = d * (before - n) * z * (1 - z)
        dr = dn * candidate * r * (1 - r)
        return jnp.concatenate([dr, dz, dn], axis=-1), jnp.concatenate([dr, dz, dn * r], axis=-1), (d * z,)


CELLS = {"lstm": LSTM, "gru": GRU}


def zero_state(cell: CellKind, batch: int, hidden_dim: int) -> State:
    """The initial state, all zeros."""
    return (jnp.zeros((batch, hidden_dim), jnp.float32),) * CELLS[cell].num_states


def reset_state(state: State, keep: Float[Array, "batch 1"], start: State | None) -> State:
    """The previous state or, where a segment starts, that segment's initial state."""
    state = tuple(part * keep for part in state)
    if start is None:
        return state
    return tuple(part + started for part, started in zip(state, start, strict=True))


def gate_inputs(constants: dict[str, Array], product: Float[Array, "*dims gates"]) -> Float[Array, "*dims gates"]:
    """W x + b from the product W x, with layer normalisation if the layer has it."""
    if "input_scale" in constants:
        product = (_standardized(product) * constants["input_scale"]).astype(product.dtype)
    return product + constants["bias"].astype(product.dtype)


def cell_step(
    cell: CellKind,
    constants: dict[str, Array],
    inputs: Float[Array, "batch gates"],
    state: State,
    project: Callable[[Float[Array, "batch hidden"]], Float[Array, "batch gates"]],
    mask: Float[Array, "batch hidden"] | None = None,
) -> State:
    """One step of a layer, for layers that `scan_cell` does not support.

    Args:
        constants: the layer's parameters except for kernels.
        inputs: the inputs' contribution to the gates.
        project: multiplies by the recurrent kernel.
        mask: of recurrent dropout.
    """
    product = project(state[0] if mask is None else state[0] * mask)
    if "product_scale" in constants:
        product = _standardized(product) * constants["product_scale"]
    if "product_bias" in constants:
        product = product + constants["product_bias"]
    inputs = inputs.astype(jnp.float32)
    if "cell_scale" not in constants:
        return CELLS[cell].forward(inputs, product, state)[0]
    return LSTM.forward(
        inputs, product, state, lambda c: _standardized(c) * constants["cell_scale"] + constants["cell_bias"]
    )[0]


def _standardized(x):
    values = x.astype(jnp.float32)
    values = values - values.mean(axis=-1, keepdims=True)
    return values * jax.lax.rsqrt(jnp.square(values).mean(axis=-1, keepdims=True) + 1e-6)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan_cell(
    cell: type,
    reverse: bool,
    precision: Precision,
    inputs: Float[Array, "length batch gates"],
    kernel: Float[Array, "hidden gates"],
    bias: Float[Array, "gates"] | None,
    keep: Float[Array, "length batch 1"],
    start: State | None,
    mask: Float[Array, "batch hidden"] | None,
) -> Float[Array, "length batch hidden"]:
    """The cell's outputs at all time steps.

    Before each step the state becomes keep * state + start, so that every segment starts from its own initial state.

    Args:
        cell: LSTM or GRU.
        reverse: whether time runs from the last step to the first.
        inputs: W x + b of every step.
        kernel: U.
        bias: of the product U h.
        keep: 1 to carry the state into this step, 0 where a segment starts; not differentiated.
        start: initial states of segments, [length, batch, hidden], 0 where none starts; None = 0 everywhere.
        mask: h is multiplied by it before U in every step (variational dropout); not differentiated.
    """
    return _scan_cell_forward(cell, reverse, precision, inputs, kernel, bias, keep, start, mask)[0]


def _scan_cell_forward(cell, reverse, precision, inputs, kernel, bias, keep, start, mask):
    batch, hidden = inputs.shape[1], kernel.shape[0]
    dtype = activation_dtype(precision)
    operand = replicate(_operand(precision, kernel))
    inputs, keep, start = shard_rows((inputs, keep, start), dim=1)

    def step(state, per_step):
        inputs, keep, start = per_step
        state = reset_state(state, keep, start)
        read = state[0] if mask is None else state[0] * mask
        product = recurrent_product(read, operand, precision=precision)
        if bias is not None:
            product = product + bias
        after, saved = cell.forward(inputs.astype(jnp.float32), product, state)
        return after, (after[0].astype(dtype), read.astype(dtype), tuple(part.astype(dtype) for part in saved))

    zeros = (jnp.zeros((batch, hidden), jnp.float32),) * cell.num_states
    _, (outputs, read, saved) = jax.lax.scan(step, zeros, (inputs, keep, start), reverse=reverse)
    outputs, read, saved = shard_rows((outputs, read, saved), dim=1)
    return outputs, (read, saved, kernel, bias, keep, start, mask)


def _scan_cell_backward(cell, reverse, precision, residuals, output_gradient):
    read, saved, kernel, bias, keep, start, mask = residuals
    transposed = replicate(_operand(precision, kernel.T))
    output_gradient, keep, saved = shard_rows((output_gradient, keep, saved), dim=1)

    def step(gradient, per_step):
        output_gradient, keep, saved = per_step
        saved = tuple(part.astype(jnp.float32) for part in saved)
        gradient = (gradient[0] + output_gradient.astype(jnp.float32), *gradient[1:])
        of_inputs, of_product, (direct, *others) = cell.backward(saved, gradient)
        through = recurrent_product(of_product, transposed, precision=precision)
        before = (direct + (through if mask is None else through * mask), *others)
        carried = tuple(part * keep for part in before)
        return carried, (of_inputs, of_product, None if start is None else before)

    zeros = (jnp.zeros(read.shape[1:], jnp.float32),) * cell.num_states
    _, (of_inputs, of_product, of_start) = jax.lax.scan(
        step, zeros, (output_gradient, keep, saved), reverse=not reverse
    )
    of_inputs, of_product, of_start = shard_rows((of_inputs, of_product, of_start), dim=1)
    of_kernel = kernel_gradient(read, of_product, precision=precision)
    of_bias = None if bias is None else jnp.sum(of_product, axis=(0, 1))
    constants = jax.tree.map(jnp.zeros_like, (keep, mask))
    return of_inputs.astype(activation_dtype(precision)), of_kernel, of_bias, constants[0], of_start, constants[1]


scan_cell.defvjp(_scan_cell_forward, _scan_cell_backward)


Kernel = Float[Array, "input output"] | Float[Array, "batch input output"]
"""The right operand of a product of rows: one matrix for all rows, or one per group, of `batch` equal groups of
consecutive rows."""

Project = Callable[[str, Float[Array, "rows input"]], Float[Array, "rows output"]]
"""Multiplies rows by the kernel of a name, each name once per step; in float32."""


def projection(kernels: dict[str, Kernel], *, precision: Precision) -> Project:
    """A `Project` of kernels, without the bookkeeping of `scan_with_products`."""
    operands = {name: _operand(precision, kernel) for name, kernel in kernels.items()}
    return lambda name, rows: _product(precision, rows, operands[name])


def _operand(precision, kernel):
    """A kernel in the dtype of its products; XLA does not move this conversion out of a loop."""
    return kernel.astype(operand_dtype(precision) if kernel.ndim == 2 else activation_dtype(precision))


def scan_with_products(
    step: Callable[[Project, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    kernels: dict[str, Kernel],
    constants: PyTree,
    carry: PyTree,
    per_step: PyTree,
    *,
    precision: Precision,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` of step(project, constants, carry, inputs) that computes the kernels' gradients after the loop.

    Plain differentiation of a scan adds each step's outer product to a kernel's gradient inside the backward loop;
    here the rows are saved, and one matrix product of all rows and all gradients follows the loop.

    Args:
        kernels: the kernels of `project`.
        constants: further arrays that the step reads and that have gradients: vectors, and arrays [batch, ...] of more
            dims.
        per_step: [length, batch, ...].
    """
    kernels, constants = shard_for_scan((kernels, constants))
    carry, per_step = shard_rows(carry), shard_rows(per_step, dim=1)
    zeros = _zeros_of_products(step, kernels, constants, carry, per_step, precision)

    def run(kernels, added, constants, carry, per_step):
        operands = {name: _operand(precision, kernel) for name, kernel in kernels.items()}

        def body(carry, inputs):
            added, inputs = inputs
            rows = {}

            def project(name, values):
                rows[name] = values
                return _product(precision, values, operands[name]) + added[name]

            carry, outputs = step(project, constants, carry, inputs)
            return carry, (outputs, rows)

        carry, (outputs, rows) = jax.lax.scan(body, carry, (added, per_step))
        return (carry, outputs), rows

    @jax.custom_vjp
    def scan(kernels, constants, carry, per_step):
        return run(kernels, zeros, constants, carry, per_step)[0]

    def forward(kernels, constants, carry, per_step):
        results, differentiate, rows = jax.vjp(
            functools.partial(run, kernels), zeros, constants, carry, per_step, has_aux=True
        )
        return results, (differentiate, rows, kernels)

    def backward(residuals, gradient):
        differentiate, rows, kernels = residuals
        of_products, *others = differentiate(gradient)

        of_kernels = {
            name: _gradient_of_kernel(kernel, rows[name], of_products[name], precision)
            for name, kernel in kernels.items()
        }
        return of_kernels, *others

    scan.defvjp(forward, backward)
    return scan(kernels, constants, carry, per_step)


def _zeros_of_products(step, kernels, constants, carry, per_step, precision):
    """Zeros in the shapes of all steps' products; their gradients are those of the products."""
    shapes = {}

    def project(name, rows):
        product = _product(precision, rows, kernels[name])
        shapes[name] = product.shape
        return product

    first = jax.tree.map(lambda leaf: leaf[0], per_step)
    jax.eval_shape(functools.partial(step, project), constants, carry, first)
    length = jax.tree.leaves(per_step)[0].shape[0]
    return {name: jnp.zeros((length, *shape), jnp.float32) for name, shape in shapes.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(precision, rows, kernel):
    if kernel.ndim == 2:
        return recurrent_product(rows, kernel, precision=precision)
    groups = rows.reshape(kernel.shape[0], -1, rows.shape[-1])
    products = grouped_product("bni,bio->bno", groups, kernel, precision=precision)
    return products.reshape(rows.shape[0], kernel.shape[-1])


def _product_forward(precision, rows, kernel):
    return _product(precision, rows, kernel), (rows, kernel)


def _product_backward(precision, residuals, gradient):
    rows, kernel = residuals
    of_rows = _product(precision, gradient, jnp.swapaxes(kernel, -1, -2)).astype(rows.dtype)
    # The kernel's gradient is computed after the loop.
    return of_rows, jnp.zeros_like(kernel)


_product.defvjp(_product_forward, _product_backward)


def _gradient_of_kernel(kernel, rows, gradient, precision):
    """The kernel's gradient from all steps: rows [length, rows, input] and gradient [length, rows, output]."""
    if kernel.ndim == 2:
        return kernel_gradient(rows, gradient, precision=precision)
    rows, gradient = (array.reshape(len(array), kernel.shape[0], -1, array.shape[-1]) for array in (rows, gradient))
    return grouped_product("lbni,lbno->bio", rows, gradient, precision=precision).astype(kernel.dtype)
