"""Exact counts of the n-grams that two sequences share, with one sort for all n."""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from seq2seq_jax.rewards.text import shift
from seq2seq_jax.rewards.words import NO_SYMBOL, count


@flax.struct.dataclass
class Overlap:
    """Counts of n-grams; those of n symbols at index n - 1.

    Attributes:
        matches: n-grams of the hypothesis that occur in the reference, each clipped to its count there.
        distinct: distinct n-grams of the hypothesis.
        hypothesis: n-grams of the hypothesis.
        reference: n-grams of the reference.
    """

    matches: Int[Array, "*rows order"]
    distinct: Int[Array, "*rows order"]
    hypothesis: Int[Array, "*rows order"]
    reference: Int[Array, "*rows order"]


def overlap(
    hypotheses: UInt32[Array, "*rows planes hypothesis"],
    *references: UInt32[Array, "*rows planes reference"],
    order: int,
) -> Overlap:
    """Counts of the n-grams of 1 to `order` symbols (see Symbols), row by row.

    The n-grams of the highest order, of all sides, are sorted by their symbols, first symbol first. Equal n-grams of
    every order are then adjacent, so that one sort serves all orders, in O(length log length).

    Args:
        references: one, or several, of which the one with most of an n-gram clips its matches, and the one whose length
            is closest to the hypothesis's (of equally close ones the shorter) gives the n-grams of the reference, as in
            BLEU.
    """
    sides = (hypotheses, *references)
    grams = [jnp.concatenate([shift(side, offset, NO_SYMBOL) for side in sides], axis=-1) for offset in range(order)]
    size, num_planes = grams[0].shape[-1], hypotheses.shape[-2]
    keys = [gram[..., plane, :] for gram in grams for plane in range(num_planes)]
    owner = np.repeat(np.arange(len(sides), dtype=np.int8), [side.shape[-1] for side in sides])
    *keys, owner = jax.lax.sort((*keys, jnp.broadcast_to(owner, keys[0].shape)), num_keys=len(keys))

    symbols = jnp.stack(keys, axis=-2).reshape(*owner.shape[:-1], order, num_planes, size)
    exists = symbols[..., 0, :] != NO_SYMBOL
    differs = jnp.any(symbols != shift(symbols, -1, NO_SYMBOL), axis=-2)
    begins = jax.lax.cummax(differs.astype(jnp.int32), axis=differs.ndim - 2)
    in_hypothesis, *in_references = (
        _count_in_groups(begins, exists & (owner == index)[..., None, :]) for index in range(len(sides))
    )
    orders = jnp.arange(order)
    length = count(hypotheses)
    return Overlap(
        matches=jnp.sum(jnp.minimum(in_hypothesis, functools.reduce(jnp.maximum, in_references)), axis=-1),
        distinct=jnp.sum(in_hypothesis > 0, axis=-1),
        hypothesis=jnp.maximum(length[..., None] - orders, 0),
        reference=jnp.maximum(_closest(length, [count(each) for each in references])[..., None] - orders, 0),
    )


def _closest(length: Int[Array, "*rows"], candidates: Sequence[Int[Array, "*rows"]]) -> Int[Array, "*rows"]:
    """The candidate with the least distance from the length, the lesser of two."""

    def closer(first, second):
        first_distance, second_distance = jnp.abs(first - length), jnp.abs(second - length)
        is_first = (first_distance < second_distance) | ((first_distance == second_distance) & (first < second))
        return jnp.where(is_first, first, second)

    return functools.reduce(closer, candidates)


def _count_in_groups(
    begins: Int[Array, "*rows size"], counted: Bool[Array, "*rows size"]
) -> Int[Array, "*rows groups"]:
    """Number of counted elements in each group of adjacent elements.

    Args:
        begins: 1 where a group starts; elements before the first start are group 0.
        counted: True at elements to count.
    """

    def of_row(groups, counted):
        # If a group starts at every element, the index of the last group is the row's size.
        return jnp.zeros(groups.shape[0] + 1, jnp.int32).at[groups].add(counted)

    of_rows = jnp.vectorize(of_row, signature="(size),(size)->(groups)")
    return of_rows(jnp.cumsum(begins, axis=-1), counted.astype(jnp.int32))
