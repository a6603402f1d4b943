"""Exact counts of the n-grams that every pair of a set of texts shares: one sort, and one matrix product an order."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from seq2seq_jax.rewards.ngrams import Overlap
from seq2seq_jax.rewards.text import shift
from seq2seq_jax.rewards.words import NO_SYMBOL, count


def pairwise_overlap(texts: UInt32[Array, "texts planes size"], *, order: int) -> Overlap:
    """Counts of the n-grams of 1 to `order` symbols, [hypothesis, reference, order], of every text with every text.

    The n-grams of all texts are sorted once. The k-th occurrence of an n-gram in its text is one element, with a number
    of its own below texts * size; the matches of two texts are the elements that both have, so that those of all pairs
    are one product of the matrix [text, element] of zeros and ones with its transpose.
    """
    num_texts = texts.shape[0]
    members = _members(texts, order=order)
    # Zeros and ones, and sums below 2^24: exact in float32.
    product = jax.vmap(lambda members: jnp.matmul(members, members.T, precision=jax.lax.Precision.HIGHEST))
    matches = product(members.astype(jnp.float32)).astype(jnp.int32)
    lengths = jnp.maximum(count(texts)[:, None] - jnp.arange(order), 0)
    return Overlap(
        matches=jnp.moveaxis(matches, 0, -1),
        distinct=jnp.zeros((num_texts, num_texts, order), jnp.int32),
        hypothesis=jnp.broadcast_to(lengths[:, None], (num_texts, num_texts, order)),
        reference=jnp.broadcast_to(lengths[None], (num_texts, num_texts, order)),
    )


def aggregated_overlap(
    texts: UInt32[Array, "texts planes size"], weights: Float[Array, " texts"], *, order: int
) -> tuple[Float[Array, "texts order"], Int[Array, "texts order"], Float[Array, " order"]]:
    """Matches of every text with the mean of all texts, a reference whose n-grams have fractional counts.

    Args:
        weights: of the texts in the mean; they sum to 1.

    Returns:
        Matches; n-grams of each text; n-grams of the mean.

    Source: Vamvas and Sennrich 2024, arXiv:2402.04251, section 3.
    """
    counts = _counts(texts, order=order)
    mean = jnp.einsum("t,otg->og", weights, counts)
    matches = jnp.sum(jnp.minimum(counts, mean[:, None]), axis=-1).T
    lengths = jnp.maximum(count(texts)[:, None] - jnp.arange(order), 0)
    return matches, lengths, weights @ lengths


def _groups(
    texts: UInt32[Array, "texts planes size"], *, order: int
) -> tuple[Int[Array, "order places"], Int[Array, " places"], Array]:
    """For every place of every text, sorted by n-grams: where the group of equal n-grams of each order begins, the
    text, and whether there is an n-gram of each order.
    """
    num_texts, num_planes, size = texts.shape
    grams = [shift(texts, offset, NO_SYMBOL) for offset in range(order)]
    keys = [gram[:, plane].reshape(-1) for gram in grams for plane in range(num_planes)]
    owner = jnp.repeat(jnp.arange(num_texts, dtype=jnp.int32), size)
    *keys, owner = jax.lax.sort((*keys, owner), num_keys=len(keys))
    symbols = jnp.stack(keys).reshape(order, num_planes, -1)
    exists = jax.lax.cumprod((symbols[:, 0] != NO_SYMBOL).astype(jnp.int32)).astype(bool)
    differs = jnp.any(symbols != shift(symbols, -1, NO_SYMBOL), axis=1).at[:, 0].set(True)
    begins = jax.lax.cummax(differs.astype(jnp.int32))
    places = jnp.arange(begins.shape[1])
    return jax.lax.cummax(jnp.where(begins == 1, places, 0), axis=1), owner, exists


def _members(texts: UInt32[Array, "texts planes size"], *, order: int) -> Int[Array, "order texts elements"]:
    """1 where a text has an element, see `pairwise_overlap`, else 0."""
    num_texts, _, size = texts.shape
    groups, owner, exists = _groups(texts, order=order)
    total = num_texts * size

    def of_order(groups, exists):
        # Within a group by text, places without an n-gram last; a text's occurrences are then adjacent.
        key = jnp.sort(jnp.where(exists, groups * num_texts + owner, total * num_texts))
        places = jnp.arange(total)
        first = jnp.concatenate([jnp.ones(1, bool), key[1:] != key[:-1]])
        rank = places - jax.lax.cummax(jnp.where(first, places, 0))
        # A text has no more of an n-gram than its group has places.
        element = jnp.where(key < total * num_texts, key // num_texts + rank, total)
        return jnp.zeros((num_texts, total), jnp.int8).at[key % num_texts, element].set(1, mode="drop")

    return jax.vmap(of_order)(groups, exists)


def _counts(texts: UInt32[Array, "texts planes size"], *, order: int) -> Float[Array, "order texts groups"]:
    """How often each text has each n-gram."""
    num_texts, _, size = texts.shape
    groups, owner, exists = _groups(texts, order=order)

    def of_order(groups, exists):
        place = jnp.where(exists, groups, num_texts * size)
        return jnp.zeros((num_texts, num_texts * size)).at[owner, place].add(1.0, mode="drop")

    return jax.vmap(of_order)(groups, exists)
