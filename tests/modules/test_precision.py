"""Products of bfloat16 operands against float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.modules.precision import activation_dtype, matrix_product, product

ROWS, INPUT, OUTPUT = 50, 40, 24


def operands(transposed, seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(OUTPUT, INPUT) if transposed else (INPUT, OUTPUT))
    return (
        jnp.asarray(rng.normal(size=(ROWS, INPUT)), jnp.float32),
        jnp.asarray(matrix, jnp.float32),
        jnp.asarray(rng.normal(size=(ROWS, OUTPUT)), jnp.float32),
    )


def rounded(array):
    """The nearest values with 8 significant bits, by hand: ties to even, in float64."""
    mantissa, exponent = np.frexp(np.asarray(array, np.float64))
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def value_and_gradients(transposed, precision, rows, matrix, cotangent):
    value, backward = jax.vjp(
        lambda rows, matrix: matrix_product(
            rows, matrix, axes=(None, None), precision=precision, transposed=transposed
        ),
        rows,
        matrix,
    )
    return value, *backward(cotangent.astype(value.dtype))


def references(transposed, rows, matrix, cotangent):
    rows, matrix, cotangent = (np.asarray(array, np.float64) for array in (rows, matrix, cotangent))
    forward = matrix.T if transposed else matrix
    matrix_gradient = rows.T @ cotangent
    return rows @ forward, cotangent @ forward.T, matrix_gradient.T if transposed else matrix_gradient


def relative_error(found, expected):
    return np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_float32_products_and_gradients(transposed):
    arrays = operands(transposed)
    found = value_and_gradients(transposed, "float32", *arrays)
    for each, expected in zip(found, references(transposed, *arrays), strict=True):
        assert each.dtype == jnp.float32
        assert relative_error(each, expected) < 1e-6


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_products_round_their_operands_and_nothing_else(transposed):
    arrays = operands(transposed)
    found = value_and_gradients(transposed, "bfloat16_products", *arrays)
    exact = references(transposed, *arrays)
    of_rounded = references(transposed, *map(rounded, arrays))
    for each, expected, with_rounded in zip(found, exact, of_rounded, strict=True):
        assert each.dtype == jnp.float32
        # Sums are float32; two roundings to 8 bits are off by 2^-9 at most each, 0.0016 together on average.
        assert relative_error(each, with_rounded) < 1e-6
        assert 5e-4 < relative_error(each, expected) < 4e-3


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_products_have_no_float32_operand_in_either_direction(transposed):
    arrays = operands(transposed)
    program = jax.make_jaxpr(lambda *arrays: value_and_gradients(transposed, "bfloat16_products", *arrays))(*arrays)
    found = [
        (*(variable.aval.dtype for variable in equation.invars), equation.outvars[0].aval.dtype)
        for equation in equations(program.jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    assert found == [(jnp.bfloat16, jnp.bfloat16, jnp.float32)] * 3


def equations(jaxpr):
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from equations(inner.jaxpr)


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_results_are_bfloat16(transposed):
    arrays = operands(transposed)
    value, rows_gradient, matrix_gradient = value_and_gradients(transposed, "bfloat16", *arrays)
    assert value.dtype == jnp.bfloat16
    assert rows_gradient.dtype == matrix_gradient.dtype == jnp.float32
    for each, expected in zip((value, rows_gradient, matrix_gradient), references(transposed, *arrays), strict=True):
        assert 5e-4 < relative_error(each, expected) < 6e-3


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (3, 32), (1, 17)])
def test_gradients_of_odd_shapes(rows, columns):
    """The transpose in blocks is one for every shape, also where 16 does not divide it."""
    rng = np.random.default_rng(1)
    x, matrix, cotangent = (
        jnp.asarray(rounded(rng.normal(size=shape)), jnp.float32)
        for shape in ((rows, columns), (columns, 11), (rows, 11))
    )
    _, _, gradient = value_and_gradients(False, "bfloat16_products", x, matrix, cotangent)
    np.testing.assert_allclose(gradient, np.asarray(x).T @ np.asarray(cotangent), rtol=1e-5, atol=1e-5)


def test_products_of_activations():
    rng = np.random.default_rng(0)
    left, right = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 4), (2, 5, 4)))
    expected = np.einsum("btd,bsd->bts", left, right)
    for precision, dtype in (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16_products", "float32")):
        found = product("btd,bsd->bts", left, right, precision=precision)
        assert found.dtype == activation_dtype(precision) == jnp.dtype(dtype)
        tolerance = 0.03 if dtype == "bfloat16" else 1e-5
        np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=tolerance, atol=tolerance)
