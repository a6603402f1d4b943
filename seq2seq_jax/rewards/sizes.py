"""Exact and usually cheap: the work is done at the smallest of a few static sizes that holds what is really there."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, PyTree, Shaped

SMALLEST = 16
"""Below this size nothing is saved."""

Result = TypeVar("Result", bound=PyTree)


def sizes(worst: int, *, ratio: int, count: int) -> tuple[int, ...]:
    """Ascending sizes, of which the last is `worst` and each other one `ratio` times less than the next, rounded up.

    Args:
        worst: the size that holds everything that can occur.
        ratio: how much smaller each is than the next.
        count: how many at most; each is compiled on its own.
    """
    found = [max(worst, 1)]
    while len(found) < count and found[-1] > SMALLEST:
        found.append(max(-(-found[-1] // ratio), SMALLEST))
    return tuple(reversed(found))


def at_size(function: Callable[[int], Result], needed: Int[Array, ""], candidates: Sequence[int]) -> Result:
    """What a function gives at the smallest size that is not less than `needed`, chosen while the program runs.

    Args:
        function: of a static size; what it returns has the same shapes at every size.
        needed: at most the last of the candidates.
        candidates: sizes, ascending.
    """
    choice = jnp.sum(needed > jnp.asarray(candidates[:-1], jnp.int32), dtype=jnp.int32)
    return jax.lax.switch(choice, [lambda size=size: function(size) for size in candidates])


def pad_to(array: Shaped[Array, "*rows size"], size: int, fill: ArrayLike) -> Shaped[Array, "*rows padded"]:
    """The array with `fill` behind its last dim up to a size."""
    widths = [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])]
    return jnp.pad(array, widths, constant_values=jnp.asarray(fill, array.dtype))
