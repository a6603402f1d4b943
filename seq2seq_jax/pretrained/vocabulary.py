"""Tables of tokens for another tokenizer than the one that they were trained with."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq2seq_jax.data.spelling import Speller
from seq2seq_jax.data.tokenizer import Tokenizer

Side = Literal["source", "target"]


def rows_by_piece(
    old: Sequence[str], new: Sequence[str], *, same: Mapping[int, int] | None = None
) -> list[tuple[int, ...]]:
    """For each new id the old ids that its row is the mean of: that of the same text, or those that spell its text.

    See `Speller.spell`; where nothing spells a text, there are no ids.

    Args:
        old, new: texts of ids, see `Tokenizer.spellings`.
        same: new id -> old id of tokens that mean the same whatever their text, such as the EOS token.
    """
    speller, same = Speller(old), same or {}
    return [(same[token],) if token in same else speller.spell(text) for token, text in enumerate(new)]


def rows_of_tokenizer(old: Tokenizer, new: Tokenizer, old_side: Side, new_side: Side) -> list[tuple[int, ...]]:
    """`rows_by_piece` of two tokenizers, in which special tokens belong together by what they are for."""
    ours, theirs = new.vocabulary, old.vocabulary
    same = {ours.pad_id: theirs.pad_id, ours.bos_id: theirs.bos_id, ours.eos_id: theirs.eos_id}
    if new.unknown_id is not None and old.unknown_id is not None:
        same[new.unknown_id] = old.unknown_id
    same |= dict(zip(ours.sentinel_ids, theirs.sentinel_ids, strict=False))
    size = getattr(theirs, f"{old_side}_size")
    same = {token: origin for token, origin in same.items() if origin < size}
    return rows_by_piece(old.spellings(old_side), new.spellings(new_side), same=same)


def new_rows(
    table: Float[Array, "old ..."], rows: Sequence[tuple[int, ...]], *, seed: int, sharding: Any = None
) -> Float[Array, "new ..."]:
    """The table for new ids: means of old rows; where there are none, noise with the mean and spread of the old rows.

    Args:
        rows: see `rows_by_piece`.
        seed: of the noise.
        sharding: of the result; None = that of a jitted function.
    """
    parts = np.array([token for ids in rows for token in ids], np.int32)
    owners = np.repeat(np.arange(len(rows), dtype=np.int32), [len(ids) for ids in rows])
    counts = np.array([len(ids) for ids in rows], np.float32)
    make = jax.jit(functools.partial(_new_rows, seed=seed), out_shardings=sharding)
    return make(table, parts, owners, counts)


def _new_rows(
    table: Float[Array, "old ..."],
    parts: Int[Array, " parts"],
    owners: Int[Array, " parts"],
    counts: Float[Array, " new"],
    *,
    seed: int,
) -> Float[Array, "new ..."]:
    shape = (len(counts), *(1,) * (table.ndim - 1))
    sums = jax.ops.segment_sum(table[parts], owners, num_segments=len(counts))
    counts = counts.reshape(shape)
    noise = jax.random.normal(jax.random.key(seed), sums.shape, table.dtype)
    noise = jnp.mean(table, axis=0) + jnp.std(table, axis=0) * noise
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), noise)
