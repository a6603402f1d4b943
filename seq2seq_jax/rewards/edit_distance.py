"""Edit distance and longest common subsequence of sequences, along the diagonals of the table."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from seq2seq_jax.rewards.words import NO_SYMBOL, count

Cell = Int[Array, "*rows columns"]


def edit_distances(
    hypotheses: UInt32[Array, "*rows planes hypothesis"], references: UInt32[Array, "*rows planes reference"]
) -> Int[Array, "*rows"]:
    """Fewest insertions, deletions and substitutions of one symbol that make the hypothesis its reference.

    Source: Levenshtein 1966.
    """

    def cell(above: Cell, left: Cell, corner: Cell, equal: Bool[Array, "*rows columns"]) -> Cell:
        return jnp.minimum(jnp.minimum(above, left) + 1, corner + ~equal)

    return _last_cell(hypotheses, references, cell, border=1)


def longest_common_subsequences(
    hypotheses: UInt32[Array, "*rows planes hypothesis"], references: UInt32[Array, "*rows planes reference"]
) -> Int[Array, "*rows"]:
    """Most symbols that both have in the same order, gaps allowed."""

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
    """The last cell of the table of dynamic programming that has a row a hypothesis symbol, a column a reference's.

    The cells of one diagonal depend on the two diagonals before it alone, so that all are computed at once.

    Args:
        cell: from the cells above, to the left and in the corner between, and whether the two symbols are equal.
        border: what each cell of the first row and column has more than the one before it; the corner has 0.
    """
    rows, length, width = hypotheses.shape[:-2], hypotheses.shape[-1], references.shape[-1] + 1
    columns = jnp.arange(width)
    # The diagonal d pairs column j with hypothesis symbol d - j: of the reversed hypothesis, a window.
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
