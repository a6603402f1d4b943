"""The contract between an objective and the training step."""

import abc
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
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
        """Sum / weight."""
        return self.sum / self.weight


class Objective(abc.ABC):
    """What a run minimises.

    A training step prepares its batch once, and then lets every player compute its loss on what came of it.

    Attributes:
        players: names of the sets of parameters that the objective trains, each against its own loss; the first is
            the model that is evaluated and used.
        updates: times that every player is updated on one batch.
    """

    players: tuple[str, ...] = ("model",)
    updates: int = 1

    @abc.abstractmethod
    def initialize(self, player: str, key: jax.Array) -> Params:
        """A player's first parameters, boxed with their logical axes."""

    def initial_state(self, params: dict[str, Params]) -> Any:
        """What the objective itself carries from step to step, a tree of arrays; by default nothing.

        Args:
            params: the players' first parameters.
        """
        return {}

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Any, Any]:
        """What the losses of one step share, such as samples and their rewards; by default the batch itself.

        No gradient goes through it.

        Args:
            params: parameters of every player, before the step.
            state: the objective's own.
            batch: the global batch.
            step: steps done before this one.
            rng: key of this step.

        Returns:
            A tree whose leaves lead with the rows of the batch, so that they can be divided into micro-batches; and
            the objective's next state.
        """
        return batch, state

    @abc.abstractmethod
    def loss(
        self, player: str, params: dict[str, Params], prepared: Any, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[Total, dict[str, Total]]:
        """The loss of one player, to be differentiated by params[player].

        Args:
            params: parameters of every player.
            prepared: what `prepare` gave for the global batch, or a part of its rows.
            step: steps done before this one.
            rng: key of this part of this update; None = nothing random.

        Returns:
            The loss (its `weight` is the normaliser), and further figures to log.
        """

    def counts(self, prepared: Any) -> dict[str, Int[Array, ""]]:
        """Further things to count of a prepared batch, such as samples; logged as their number a second."""
        return {}

    @abc.abstractmethod
    def model_flops(self, prepared: Any) -> Float[Array, ""]:
        """Model FLOPs of one step on what `prepare` gave for the global batch: of all passes, of all players.

        By the lengths that there are, without padding; see `seq2seq_jax.modules.flops`.
        """

    def evaluate(self, params: Params, batch: Batch) -> tuple[Total, dict[str, Total]]:
        """The loss of the first player's parameters on a batch, and further figures; nothing random."""
        player = self.players[0]
        return self.loss(player, {player: params}, batch, step=jnp.zeros((), jnp.int32), rng=None)

    def failure(self) -> str | None:
        """Why a figure of a step is no number, a sentence for a person; None = the objective does not know."""
        return None

    def alarms(self, figures: dict[str, Any]) -> dict[str, str]:
        """What is going wrong, by a short name: sentences for a person, from the figures of a record."""
        return {}
