"""Exact counts of the n-grams that every pair of a set of texts shares: one sort, and one matrix product per order."""

from collections.abc import Callable
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from seq2seq_jax.rewards.ngrams import Overlap
from seq2seq_jax.rewards.sizes import bucketed, sizes
from seq2seq_jax.rewards.text import shift
from seq2seq_jax.rewards.words import NO_SYMBOL, count

Result = TypeVar("Result", bound=PyTree)

Members = Float[Array, "order texts elements"]
"""1 where a text has an element, else 0. An element is the k-th occurrence of an n-gram in its text, for every n-gram
of an order and every k, so that the elements that two texts share are their matches."""


def pairwise_overlap(texts: UInt32[Array, "texts planes size"], *, order: int) -> Overlap:
    """Counts of the n-grams of 1 to `order` symbols, [hypothesis, reference, order], of every text with every text."""
    num_texts = texts.shape[0]
    matches = with_members(texts, lambda members: shared(members, members), order=order)
    lengths = num_ngrams(texts, order=order)
    shape = (num_texts, num_texts, order)
    return Overlap(
        matches=matches.astype(jnp.int32),
        distinct=jnp.zeros(shape, jnp.int32),
        hypothesis=jnp.broadcast_to(lengths[:, None], shape),
        reference=jnp.broadcast_to(lengths[None], shape),
    )


def weighted_matches(
    texts: UInt32[Array, "texts planes size"], weights: Float[Array, "kinds texts order"], *, order: int
) -> Float[Array, "kinds texts order"]:
    """The matches of every text with all texts, each times the weight of the other text: what summing the matches of
    all pairs would give, in time that is linear in the number of texts.

    Args:
        weights: of the matches with a text; several kinds at once, for the texts are sorted once.
    """
    num_kinds, num_texts, _ = weights.shape

    def of_order(found: Occurrences, of_texts: Float[Array, "kinds texts"], places: int) -> Float[Array, "kinds texts"]:
        # The k-th occurrence of an n-gram in a text matches every text that has at least k.
        element = found.ngram + jnp.arange(places) - found.first
        gathered = jnp.where(found.exists, of_texts[:, found.text], 0.0)
        matched = jnp.zeros((num_kinds, places)).at[:, element].add(gathered)[:, element]
        return jnp.zeros((num_kinds, num_texts)).at[:, found.text].add(jnp.where(found.exists, matched, 0.0))

    return _with_occurrences(
        texts,
        lambda found, places: jax.vmap(lambda each, of_texts: of_order(each, of_texts, places), (0, 2), 2)(
            found, weights
        ),
        order=order,
    )


def num_ngrams(texts: UInt32[Array, "texts planes size"], *, order: int) -> Int[Array, "texts order"]:
    """N-grams of each text of 1 to `order` symbols."""
    return jnp.maximum(count(texts)[:, None] - jnp.arange(order), 0)


def shared(
    hypotheses: Float[Array, "order hypotheses elements"], references: Float[Array, "order references elements"]
) -> Float[Array, "hypotheses references order"]:
    """Matches of every hypothesis with every reference."""
    # Zeros and ones, and sums below 2^24: exact in every precision of the operands, with float32 sums.
    found = jnp.einsum("ohe,ore->ohr", hypotheses, references, preferred_element_type=jnp.float32)
    return jnp.moveaxis(found, 0, -1)


def with_members(
    texts: UInt32[Array, "texts planes size"], function: Callable[[Members], Result], *, order: int
) -> Result:
    """The result of a function of the members, whose number of elements is selected at run time by how much text there
    is and how much of it is shared.

    Args:
        function: its result's shapes do not depend on the number of elements.
    """
    num_texts = texts.shape[0]

    def of_occurrences(found: Occurrences, places: int) -> Result:
        # An n-gram has as many elements as the text that has most of it, numbered from its first place.
        sparse = jnp.where(found.exists, found.ngram + jnp.arange(places) - found.first, places)
        used = jax.vmap(lambda elements: jnp.zeros(places, jnp.int32).at[elements].set(1, mode="drop"))(sparse)
        before = jnp.cumsum(used, axis=-1)
        dense = jnp.take_along_axis(before - used, jnp.minimum(sparse, places - 1), axis=-1)

        def at(size: int) -> Result:
            def of_order(text, element, exists):
                element = jnp.where(exists, element, size)
                return jnp.zeros((num_texts, size), jnp.float32).at[text, element].set(1.0, mode="drop")

            return function(jax.vmap(of_order)(found.text, dense, found.exists))

        return bucketed(at, jnp.max(before[:, -1]), sizes(places, ratio=4, count=3))

    return _with_occurrences(texts, of_occurrences, order=order)


@flax.struct.dataclass
class Occurrences:
    """The n-grams of all texts, for each order sorted by n-gram and then by text; places without one are last.

    Attributes:
        ngram: first place of its n-gram, which tells n-grams apart.
        text: that it occurs in.
        first: first place of the n-gram's occurrences in the same text.
        exists: whether there is one.
    """

    ngram: Int[Array, "order places"]
    text: Int[Array, "order places"]
    first: Int[Array, "order places"]
    exists: Bool[Array, "order places"]


def _with_occurrences(
    texts: UInt32[Array, "texts planes size"], function: Callable[[Occurrences, int], Result], *, order: int
) -> Result:
    """The result of a function of the occurrences and the number of their places, which is selected at run time by how
    much text there is.
    """
    num_texts, _, size = texts.shape
    worst = num_texts * size
    if worst * (num_texts + 1) >= 2**31:
        raise ValueError(
            f"{num_texts:,} texts of up to {size:,} symbols are too many to be compared at a time: give fewer"
        )
    exists = texts[:, 0] != NO_SYMBOL
    return bucketed(
        lambda places: function(_occurrences(texts, exists, places, order=order), places),
        jnp.sum(exists, dtype=jnp.int32),
        sizes(worst, ratio=2, count=5),
    )


def _occurrences(
    texts: UInt32[Array, "texts planes size"], exists: Bool[Array, "texts size"], places: int, *, order: int
) -> Occurrences:
    """See Occurrences.

    The n-grams of the highest order are sorted by their symbols, first symbol first, so that equal n-grams of every
    order are adjacent.
    """
    num_texts, num_planes, size = texts.shape
    [place] = jnp.nonzero(exists.reshape(-1), size=places, fill_value=num_texts * size)
    grams = [jnp.moveaxis(shift(texts, offset, NO_SYMBOL), 1, 0) for offset in range(order)]
    keys = [
        jnp.take(gram[plane].reshape(-1), place, mode="fill", fill_value=NO_SYMBOL)
        for gram in grams
        for plane in range(num_planes)
    ]
    *keys, text = jax.lax.sort((*keys, (place // size).astype(jnp.int32)), num_keys=len(keys))
    symbols = jnp.stack(keys).reshape(order, num_planes, places)
    there = symbols[:, 0] != NO_SYMBOL
    differs = jnp.any(symbols != shift(symbols, -1, NO_SYMBOL), axis=1).at[:, 0].set(True)
    indices = jnp.arange(places)
    ngram = jax.lax.cummax(jnp.where(jax.lax.cummax(differs.astype(jnp.int32)) == 1, indices, 0), axis=1)
    # A second sort, by text within an n-gram.
    last = places * num_texts
    key = jnp.sort(jnp.where(there, ngram * num_texts + text, last), axis=-1)
    begins = jnp.concatenate([jnp.ones((order, 1), bool), key[:, 1:] != key[:, :-1]], axis=1)
    return Occurrences(
        ngram=jnp.minimum(key // num_texts, places - 1),
        text=key % num_texts,
        first=jax.lax.cummax(jnp.where(begins, indices, 0), axis=1),
        exists=key < last,
    )
