"""Recurrences and scans against loops over NumPy arrays in float64, and against plain differentiation by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differences import gradients, in_double
from recurrences import next_state, outputs_of_row

from seq2seq_jax.modules.recurrence import CELLS, cell_step, reset_state, scan_cell, scan_with_products, zero_state

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3]])
BATCH, LENGTH, HIDDEN = *SEGMENTS.shape, 3
MASK = np.array([[2.0, 0.0, 2.0], [0.0, 2.0, 2.0]])
FIRST = np.array([[1, 0, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0]], np.float32).T[..., None]
LAST = np.array([[0, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1]], np.float32).T[..., None]


def example(cell, *, starts, seed=0):
    rng = np.random.default_rng(seed)
    num_gates, num_states = CELLS[cell].num_gates, CELLS[cell].num_states
    arguments = {
        "inputs": rng.normal(size=(LENGTH, BATCH, num_gates * HIDDEN)),
        "kernel": rng.normal(size=(HIDDEN, num_gates * HIDDEN)),
    }
    if cell == "gru":
        arguments["candidate_bias"] = rng.normal(size=HIDDEN)
    if starts:
        arguments["starts"] = [rng.normal(size=(LENGTH, BATCH, HIDDEN)) for _ in range(num_states)]
    return jax.tree.map(lambda leaf: np.float32(leaf), arguments)


def found(cell, arguments, *, reverse, mask, precision="float32"):
    begins = jnp.asarray(LAST if reverse else FIRST)
    bias, starts = arguments.get("candidate_bias"), arguments.get("starts")
    return scan_cell(
        CELLS[cell],
        reverse,
        precision,
        arguments["inputs"],
        arguments["kernel"],
        None if bias is None else jnp.pad(bias, (2 * HIDDEN, 0)),
        1.0 - begins,
        None if starts is None else tuple(part * begins for part in starts),
        None if mask is None else jnp.asarray(mask, jnp.float32),
    )


def expected(cell, arguments, *, reverse, mask):
    gates = arguments["inputs"].reshape(LENGTH, BATCH, -1, HIDDEN)
    params = {"kernel": arguments["kernel"].reshape(HIDDEN, -1, HIDDEN)}
    if cell == "gru":
        params["candidate_bias"] = arguments["candidate_bias"]
    starts = None if "starts" not in arguments else np.stack(arguments["starts"])
    rows = [
        outputs_of_row(
            cell,
            params,
            gates[:, row],
            SEGMENTS[row],
            reverse=reverse,
            starts=None if starts is None else starts[:, :, row],
            mask=None if mask is None else mask[row],
        )
        for row in range(BATCH)
    ]
    return np.stack(rows, axis=1)


@pytest.mark.parametrize(
    ("reverse", "starts", "mask"),
    [(False, False, None), (True, False, None), (False, True, MASK), (True, True, MASK)],
    ids=["forward", "backward", "forward with starts and mask", "backward with starts and mask"],
)
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrence_and_its_gradients_equal_loops(cell, reverse, starts, mask):
    arguments = example(cell, starts=starts)
    weights = np.random.default_rng(1).normal(size=(LENGTH, BATCH, HIDDEN))

    def objective(arguments):
        outputs = found(cell, arguments, reverse=reverse, mask=mask)
        return jnp.sum(outputs * weights), outputs

    gradient, outputs = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    np.testing.assert_allclose(
        outputs, expected(cell, in_double(arguments), reverse=reverse, mask=mask), rtol=1e-5, atol=1e-6
    )
    by_differences = gradients(
        lambda arguments: np.sum(expected(cell, arguments, reverse=reverse, mask=mask) * weights), arguments
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, by_differences)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", jnp.bfloat16), ("bfloat16_products", jnp.float32)])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrence_in_low_precision(cell, precision, dtype):
    arguments = example(cell, starts=True)
    arguments["inputs"] = jnp.asarray(arguments["inputs"], dtype)
    weights = np.random.default_rng(1).normal(size=(LENGTH, BATCH, HIDDEN))

    def objective(arguments):
        outputs = found(cell, arguments, reverse=False, mask=MASK, precision=precision)
        return jnp.sum(outputs * weights), outputs

    gradient, outputs = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    assert outputs.dtype == dtype
    assert jax.tree.map(lambda leaf: leaf.dtype, gradient) == jax.tree.map(lambda leaf: leaf.dtype, arguments)
    arguments = in_double(arguments)
    np.testing.assert_allclose(
        np.asarray(outputs, np.float64), expected(cell, arguments, reverse=False, mask=MASK), rtol=0.03, atol=0.03
    )
    by_differences = gradients(
        lambda arguments: np.sum(expected(cell, arguments, reverse=False, mask=MASK) * weights), arguments
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0.03, atol=0.05),
        gradient,
        by_differences,
    )


@pytest.mark.parametrize("cell", CELLS)
def test_one_step(cell):
    rng = np.random.default_rng(0)
    num_gates, num_states = CELLS[cell].num_gates, CELLS[cell].num_states
    gates, kernel, state = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((BATCH, num_gates, HIDDEN), (HIDDEN, num_gates, HIDDEN), (num_states, BATCH, HIDDEN))
    )
    after = cell_step(
        cell,
        {},
        jnp.asarray(gates.reshape(BATCH, -1)),
        tuple(jnp.asarray(state)),
        lambda rows: rows @ kernel.reshape(HIDDEN, -1),
        jnp.asarray(MASK, jnp.float32),
    )
    for row in range(BATCH):
        by_hand = next_state(cell, {"kernel": kernel}, gates[row], state[:, row], MASK[row])
        np.testing.assert_allclose([part[row] for part in after], by_hand, rtol=1e-5, atol=1e-6)


def test_a_segment_begins_with_a_state_of_its_own():
    state, start = (jnp.array([[1.0, 2.0], [3.0, 4.0]]),), (jnp.array([[0.0, 0.0], [7.0, 8.0]]),)
    keep = jnp.array([[1.0], [0.0]])
    assert reset_state(state, keep, start)[0].tolist() == [[1, 2], [7, 8]]
    assert reset_state(state, keep, None)[0].tolist() == [[1, 2], [0, 0]]
    assert [part.shape for part in zero_state("lstm", 5, 2)] == [(5, 2), (5, 2)]
    assert [part.shape for part in zero_state("gru", 5, 2)] == [(5, 2)]


ROWS, INPUT, SOURCE, STEPS = 4, 5, 4, 5


def scan_example():
    """Two sources of two rows each, so that `keys` and `values` are a matrix for two rows."""
    rng = np.random.default_rng(0)
    arguments = {
        "kernels": {
            "shared": rng.normal(size=(INPUT + HIDDEN, HIDDEN)),
            "keys": rng.normal(size=(2, HIDDEN, SOURCE)),
            "values": rng.normal(size=(2, SOURCE, HIDDEN)),
        },
        "constants": {"bias": rng.normal(size=HIDDEN), "nothing": None},
        "carry": {"state": rng.normal(size=(ROWS, HIDDEN)), "sum": rng.normal(size=(ROWS, SOURCE))},
        "per_step": (rng.normal(size=(STEPS, ROWS, INPUT)), rng.normal(size=(STEPS, ROWS, 1))),
    }
    return jax.tree.map(jnp.float32, arguments)


MAY_READ = jnp.asarray(np.random.default_rng(5).random((STEPS, ROWS, SOURCE)) > 0.3)


def scan_step(project, constants, carry, per_step):
    (x, gate), may_read = per_step
    state = jnp.tanh(project("shared", jnp.concatenate([x, carry["state"]], axis=-1)) + constants["bias"])
    weights = jax.nn.softmax(jnp.where(may_read, project("keys", state), -1e9) - 0.1 * carry["sum"])
    context = project("values", weights)
    return {"state": state + gate * context, "sum": carry["sum"] + weights}, (context, weights, None)


def with_products(arguments, precision="float32"):
    per_step = arguments["per_step"], MAY_READ
    return scan_with_products(
        scan_step,
        arguments["kernels"],
        arguments["constants"],
        arguments["carry"],
        per_step,
        precision=precision,
    )


def plain_scan(arguments):
    def project(name, rows):
        kernel = arguments["kernels"][name]
        if kernel.ndim == 2:
            return rows @ kernel
        return jnp.einsum("bni,bio->bno", rows.reshape(2, 2, -1), kernel).reshape(ROWS, -1)

    return jax.lax.scan(
        lambda carry, per_step: scan_step(project, arguments["constants"], carry, per_step),
        arguments["carry"],
        (arguments["per_step"], MAY_READ),
    )


def weighted_sum(results):
    carry, (contexts, weights, nothing) = results
    assert nothing is None
    leaves = [carry["state"], carry["sum"], contexts, weights]
    return sum(jnp.sum(jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape) * leaf) for leaf in leaves)


def values_and_gradients(scan, arguments):
    def objective(arguments):
        results = scan(arguments)
        return weighted_sum(results), results

    return jax.jit(jax.grad(objective, has_aux=True))(arguments)


@pytest.fixture(scope="module")
def of_plain_scan():
    return values_and_gradients(plain_scan, scan_example())


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), ("bfloat16_products", 0.05), ("bfloat16", 0.05)]
)
def test_a_scan_with_products_and_its_gradients_are_those_of_a_plain_scan(of_plain_scan, precision, tolerance):
    arguments = scan_example()
    if precision == "bfloat16":
        for name in ("keys", "values"):
            arguments["kernels"][name] = arguments["kernels"][name].astype(jnp.bfloat16)
    found = values_and_gradients(lambda arguments: with_products(arguments, precision), arguments)
    assert jax.tree.map(lambda leaf: leaf.dtype, found[0]) == jax.tree.map(lambda leaf: leaf.dtype, arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance),
        found,
        of_plain_scan,
    )


def shapes_of_products_in_loops(jaxpr, inside=False):
    """Of the matrix products in all loops of a program; sorted, for a transpose may follow."""
    for equation in jaxpr.eqns:
        if inside and equation.primitive.name == "dot_general":
            yield tuple(sorted(equation.outvars[0].aval.shape))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_of_products_in_loops(inner, inside or equation.primitive.name == "scan")


def test_gradients_of_kernels_are_made_after_the_loop():
    arguments = scan_example()
    of_kernels = {tuple(sorted(kernel.shape)) for kernel in arguments["kernels"].values()}

    def shapes(function, *arguments):
        return set(shapes_of_products_in_loops(jax.make_jaxpr(function)(*arguments).jaxpr))

    assert shapes(lambda arguments: values_and_gradients(plain_scan, arguments), arguments) & of_kernels
    in_loops = shapes(lambda arguments: values_and_gradients(with_products, arguments), arguments)
    assert in_loops and not in_loops & of_kernels
    in_loops = shapes(
        jax.grad(lambda arguments: jnp.sum(found("lstm", arguments, reverse=False, mask=None))),
        example("lstm", starts=False),
    )
    assert in_loops == {(BATCH, 4 * HIDDEN), (BATCH, HIDDEN)}
