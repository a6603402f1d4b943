"""Edit distance and longest common subsequence, by dynamic programming along the diagonals of the table."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from seq2seq_jax.rewards.words import NO_SYMBOL, count

Cell = Int[Array, "*rows columns"]


def edit_distances(
    hypotheses: UInt32[Array, "*rows planes hypothesis"], references: UInt32[Array, "*rows planes reference"]
) -> Int[Array, "*rows"]:
    """Minimum number of insertions, deletions and substitutions that turn the hypothesis into its reference.

    Source: Levenshtein 1966.
    """

    def cell(above: Cell, left: Cell, corner: Cell, equal: Bool[Array, "*rows columns"]) -> Cell:
        return jnp.minimum(jnp.minimum(above, left) + 1, corner + ~equal)

    return _last_cell(hypotheses, references, cell, border=1)


def longest_common_subsequences(
    hypotheses: UInt32[Array, "*rows planes hypothesis"], references: UInt32[Array, "*rows planes reference"]
) -> Int[Array, "*rows"]:
    """Length of the longest common subsequence."""

    def cell(above: Cell, left: Cell, corner: Cell, equal: Bool[Array, "*rows columns"]) -> Cell:
        return jnp.where(equal, corner + 1, jnp.maximum(above, left))

    return _last_cell(hypotheses, references, cell, border=0)


def _last_cell(
    hypotheses: UInt32[Array, "*rows planes hypothesis"],
    references: UInt32[Array, "*rows planes reference"],
    cell: Callable[[Cell, Cell, Cell, Bool[Array, "*rows columns"]], Cell],
    *,
    border: int,
) -> Int[Array, "*rows"]:
    """The last cell of the dynamic-programming table with one row per hypothesis symbol and one column per reference
    symbol.

    The cells of a diagonal depend only on the two previous diagonals, so that they are computed in parallel.

    Args:
        cell: (cells above, cells to the left, cells above left, whether the symbols are equal) -> cells.
        border: increment between cells of the first row and column, which start at 0.
    """
    rows, length, width = hypotheses.shape[:-2], hypotheses.shape[-1], references.shape[-1] + 1
    columns = jnp.arange(width)
    # Diagonal d pairs column j with hypothesis symbol d - j, which is a window of the reversed hypothesis.
    margin = [(0, 0)] * (hypotheses.ndim - 1)
    reversed_hypotheses = jnp.pad(hypotheses[..., ::-1], [*margin, (width, width)], constant_values=NO_SYMBOL)
    references_by_column = jnp.pad(references, [*margin, (1, 0)], constant_values=NO_SYMBOL)
    reference_lengths = count(references)
    last_diagonals = count(hypotheses) + reference_lengths

    def advance(diagonal, carry):
        before, previous, result = carry
        window = jax.lax.dynamic_slice_in_dim(reversed_hypotheses, width + length - diagonal, width, axis=-1)
        equal = jnp.all(window == references_by_column, axis=-2)
        left, corner = (jnp.roll(cells, 1, axis=-1) for cells in (previous, before))
        inner = cell(previous, left, corner, equal)
        cells = jnp.where((columns == 0) | (columns == diagonal), border * diagonal, inner)
        at_end = jnp.take_along_axis(cells, reference_lengths[..., None], axis=-1)[..., 0]
        return previous, cells, jnp.where(diagonal == last_diagonals, at_end, result)

    nothing = jnp.zeros((*rows, width), jnp.int32)
    carry = (nothing, nothing, jnp.zeros(rows, jnp.int32))
    return jax.lax.fori_loop(1, jnp.max(last_diagonals) + 1, advance, carry)[2]
