"""Bucketed sizes: work is done at the smallest of a few static sizes that fits the actual data."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, PyTree, Shaped

SMALLEST = 16
"""Smaller sizes would save no time."""

Result = TypeVar("Result", bound=PyTree)


def sizes(worst: int, *, ratio: int, count: int) -> tuple[int, ...]:
    """Ascending sizes; the last is `worst`, and each other one is the next one divided by `ratio`, rounded up.

    Args:
        worst: the size that fits all possible data.
        ratio: of successive sizes.
        count: maximum number of sizes; each is compiled separately.
    """
    found = [max(worst, 1)]
    while len(found) < count and found[-1] > SMALLEST:
        found.append(max(-(-found[-1] // ratio), SMALLEST))
    return tuple(reversed(found))


def bucketed(function: Callable[[int], Result], needed: Int[Array, ""], candidates: Sequence[int]) -> Result:
    """The result of a function at the smallest size >= `needed`, which is selected at run time.

    Args:
        function: static size -> result, whose shapes do not depend on the size.
        needed: at most the last candidate.
        candidates: ascending sizes.
    """
    choice = jnp.sum(needed > jnp.asarray(candidates[:-1], jnp.int32), dtype=jnp.int32)
    return jax.lax.switch(choice, [lambda size=size: function(size) for size in candidates])


def pad_to(array: Shaped[Array, "*rows size"], size: int, fill: ArrayLike) -> Shaped[Array, "*rows padded"]:
    """The array with its last dim padded with `fill` to a size."""
    widths = [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])]
    return jnp.pad(array, widths, constant_values=jnp.asarray(fill, array.dtype))
