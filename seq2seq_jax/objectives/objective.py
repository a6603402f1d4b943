"""The contract between an objective and the training step."""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch

Params = Any
"""A tree of parameters."""


@flax.struct.dataclass
class Total:
    """A sum and what it is to be divided by, so that parts of a batch add up exactly.

    The mean over the global batch is the quotient of the sums over its parts: accumulated micro-batches, and shards
    of a mesh.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """sum / weight."""
        return self.sum / self.weight


@runtime_checkable
class Objective(Protocol):
    """What a run minimises.

    Attributes:
        players: names of the sets of parameters that the objective trains, each against its own loss.
    """

    players: tuple[str, ...]

    def loss(
        self, player: str, params: dict[str, Params], batch: Batch, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[Total, dict[str, Total]]:
        """The loss of one player, to be differentiated by params[player].

        Args:
            params: parameters of every player.
            batch: rows of the global batch, or a part of them.
            step: updates done before this one.
            rng: key of this part of this step; None when the loss is evaluated, without anything random.

        Returns:
            The loss (its `weight` is the normaliser), and further figures to log.
        """
        ...
