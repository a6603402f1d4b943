"""A while-loop over rows that end one by one: the batch is halved when half of its rows are left."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from seq2seq_jax.parallel.mesh import on_each_shard, shards_of_rows

Carry = TypeVar("Carry")
Result = TypeVar("Result")

MIN_ROWS = 8
"""Fewer rows of a device are not made by halving: their steps would hardly be cheaper."""


def extend_until_done(
    extend: Callable[[Carry, PyTree], Carry],
    carry: Carry,
    shared: PyTree,
    *,
    is_live: Callable[[Carry], Bool[Array, "rows"]],
    result: Callable[[Carry], Result],
    halvings: int,
) -> Result:
    """What `result` gives of each row once no row is live.

    Rows that are done leave the batch when at most half of a device's rows are live, so that the others' steps cost
    about half; they keep the result that they had then. No row may depend on others, and extending one that is done
    must change nothing of its result. Every halving compiles a loop of its own.

    Args:
        extend: carry and shared to the next carry.
        carry: arrays that lead with rows, or a multiple of them of which every row has a stretch, or scalars.
        shared: the same, of what no step changes.
        is_live: whether a row has to be extended further.
        result: of a carry, arrays that lead with rows.
        halvings: at most so many; 0 = none.
    """
    rows = len(is_live(carry))
    local_rows = rows // shards_of_rows(rows)
    half = -(-local_rows // 2)
    last = halvings == 0 or local_rows < 2 * MIN_ROWS
    leave = 0 if last else half

    def goes_on(carry: Carry) -> Bool[Array, ""]:
        return jnp.any(on_each_shard(lambda live: jnp.sum(live, keepdims=True) > leave, is_live(carry)))

    carry = jax.lax.while_loop(goes_on, lambda carry: extend(carry, shared), carry)
    if last:
        return result(carry)
    kept = on_each_shard(lambda live: jnp.argsort(~live)[:half], is_live(carry))
    kept_carry, kept_shared = _take(kept, (carry, shared), rows)
    of_kept = extend_until_done(extend, kept_carry, kept_shared, is_live=is_live, result=result, halvings=halvings - 1)
    return jax.tree.map(
        lambda whole, part: on_each_shard(lambda whole, kept, part: whole.at[kept].set(part), whole, kept, part),
        result(carry),
        of_kept,
    )


def _take(kept: Int[Array, "kept"], tree: PyTree, rows: int) -> PyTree:
    """The rows that are kept, indices of which count from each device's first, of all leaves but scalars."""

    def take(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        stretch = len(leaf) // rows

        def of_device(kept: Array, leaf: Array) -> Array:
            by_row = leaf.reshape(-1, stretch, *leaf.shape[1:])
            return by_row[kept].reshape(-1, *leaf.shape[1:])

        return on_each_shard(of_device, kept, leaf)

    return jax.tree.map(take, tree)
