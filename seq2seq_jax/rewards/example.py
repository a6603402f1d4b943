"""What a reward sees of the examples of a batch."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from seq2seq_jax.batch import Batch, TokenRows


@flax.struct.dataclass
class RewardExample:
    """Examples, one per row of a batch. A text ends at its first EOS token, or with its row.

    Attributes:
        references: target ids of the references of each source; one of pad tokens alone is none.
        source: source ids; None = nothing of the reward reads them, or sources have none.
        labels: further columns of the examples by name, leaves [batch, ...].
    """

    references: Int[Array, "batch references reference_length"]
    source: Int[Array, "batch source_length"] | None = None
    labels: dict[str, PyTree] = flax.struct.field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch) -> "RewardExample":
        """The examples of a batch with one example per row."""
        source = batch.source.tokens if isinstance(batch.source, TokenRows) else None
        return cls(references=batch.target.tokens[:, None], source=source)

    def with_all_references(self, pad_id: int) -> "RewardExample":
        """The same, the first reference in place of those that are none, which changes no reward."""
        if self.references.shape[1] == 1:
            return self
        is_there = jnp.any(self.references != pad_id, axis=-1, keepdims=True)
        return self.replace(references=jnp.where(is_there, self.references, self.references[:, :1]))
