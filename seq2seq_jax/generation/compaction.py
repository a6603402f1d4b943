"""Batch compaction: a while-loop over rows that end at different times halves the batch when half of its rows are
left.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from seq2seq_jax.parallel.mesh import on_each_shard, shards_of_rows

Carry = TypeVar("Carry")
Result = TypeVar("Result")

MIN_ROWS = 8
"""Minimum number of rows per device after a compaction: steps of fewer rows would hardly be cheaper."""


def extend_until_done(
    extend: Callable[[Carry, PyTree], Carry],
    carry: Carry,
    shared: PyTree,
    *,
    is_live: Callable[[Carry], Bool[Array, "rows"]],
    result: Callable[[Carry], Result],
    max_compactions: int,
) -> Result:
    """Iterates `extend` until no row is live, and returns `result` of every row.

    When at most half of a device's rows are live, finished rows are removed from the batch, so that further steps cost
    about half; they keep their result. Rows must not depend on each other, and extending a finished row must not change
    its result. Every compaction compiles another loop.

    Args:
        extend: (carry, shared) -> the next carry.
        carry: a tree of scalars and of arrays whose first dim is the rows, or a multiple of them with consecutive
            entries for each row.
        shared: such a tree that no step changes.
        is_live: carry -> whether a row must be extended further.
        result: carry -> arrays whose first dim is the rows.
        max_compactions: maximum number of compactions; 0 = none.
    """
    rows = len(is_live(carry))
    local_rows = rows // shards_of_rows(rows)
    half = -(-local_rows // 2)
    last = max_compactions == 0 or local_rows < 2 * MIN_ROWS
    leave = 0 if last else half

    def continues(carry: Carry) -> Bool[Array, ""]:
        return jnp.any(on_each_shard(lambda live: jnp.sum(live, keepdims=True) > leave, is_live(carry)))

    carry = jax.lax.while_loop(continues, lambda carry: extend(carry, shared), carry)
    if last:
        return result(carry)
    kept = on_each_shard(lambda live: jnp.argsort(~live)[:half], is_live(carry))
    kept_carry, kept_shared = _take(kept, (carry, shared), rows)
    of_kept = extend_until_done(
        extend, kept_carry, kept_shared, is_live=is_live, result=result, max_compactions=max_compactions - 1
    )
    return jax.tree.map(
        lambda whole, part: on_each_shard(lambda whole, kept, part: whole.at[kept].set(part), whole, kept, part),
        result(carry),
        of_kept,
    )


def _take(kept: Int[Array, "kept"], tree: PyTree, rows: int) -> PyTree:
    """The kept rows of all leaves except scalars; the indices count from the first row of each device."""

    def take(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        stretch = len(leaf) // rows

        def of_device(kept: Array, leaf: Array) -> Array:
            by_row = leaf.reshape(-1, stretch, *leaf.shape[1:])
            return by_row[kept].reshape(-1, *leaf.shape[1:])

        return on_each_shard(of_device, kept, leaf)

    return jax.tree.map(take, tree)
