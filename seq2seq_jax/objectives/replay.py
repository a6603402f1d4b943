"""A replay buffer: earlier samples with their sources, kept in an objective's state for a discriminator."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.discriminators.discriminator import text_rows
from seq2seq_jax.rewards.sizes import pad_to

Buffer = dict[str, Any]
"""`source` and `target` token ids [size, length], pad tokens where there are none, and `count` of all pairs that were
written."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a buffer holds.

    Attributes:
        size: pairs that are kept, the latest.
        length: most tokens of a side; a pair with a longer side is kept as none.
        pad_id: of the vocabulary.
    """

    size: int
    length: int
    pad_id: int

    def empty(self) -> Buffer:
        """A buffer without pairs."""
        empty = jnp.full((self.size, self.length), self.pad_id, jnp.int32)
        return {"source": empty, "target": jnp.copy(empty), "count": jnp.zeros((), jnp.int32)}

    def draw(self, buffer: Buffer, rows: int, *, rng: jax.Array) -> Batch:
        """Earlier pairs, one per row; those that are none have no token."""
        filled = jnp.minimum(buffer["count"], self.size)
        chosen = jax.random.randint(rng, (rows,), 0, jnp.maximum(filled, 1))

        def side(tokens: Int[Array, "rows length"]):
            return text_rows(tokens, tokens != self.pad_id)

        return Batch(source=side(buffer["source"][chosen]), target=side(buffer["target"][chosen]))

    def write(
        self, buffer: Buffer, batch: Batch, tokens: Int[Array, "batch room"], mask: Bool[Array, "batch room"]
    ) -> Buffer:
        """The buffer with a sample of each source of a batch."""
        kept = min(len(tokens), self.size)
        source = jnp.where(batch.source.mask, batch.source.tokens, self.pad_id)[:kept]
        target = jnp.where(mask, tokens, self.pad_id)[:kept]
        fits = jnp.all(source[:, self.length :] == self.pad_id, axis=1)
        fits &= jnp.all(target[:, self.length :] == self.pad_id, axis=1)
        places = (buffer["count"] + jnp.arange(kept)) % self.size

        def written(array: Int[Array, "size length"], new: Int[Array, "kept room"]) -> Int[Array, "size length"]:
            new = jnp.where(fits[:, None], pad_to(new[:, : self.length], self.length, self.pad_id), self.pad_id)
            return array.at[places].set(new)

        return {
            "source": written(buffer["source"], source),
            "target": written(buffer["target"], target),
            "count": buffer["count"] + kept,
        }
