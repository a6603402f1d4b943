"""The interface between objectives and the training step."""

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
class WeightedSum:
    """A sum and its normaliser, so that results of parts of a batch can be added exactly.

    The mean over the global batch is the ratio of the two sums over its parts, which are accumulated micro-batches and
    shards of a mesh.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """Sum / weight."""
        return self.sum / self.weight


class Objective(abc.ABC):
    """A training objective.

    A training step calls `prepare` once per batch, and then computes the loss of every player on the result.

    Attributes:
        players: names of the sets of parameters that the objective trains, each with its own loss; the first is the
            model that is evaluated and used.
        updates: number of updates of every player per batch.
    """

    players: tuple[str, ...] = ("model",)
    updates: int = 1

    @abc.abstractmethod
    def initialize(self, player: str, key: jax.Array) -> Params:
        """A player's initial parameters, boxed with their logical axes."""

    def initial_state(self, params: dict[str, Params]) -> Any:
        """The objective's own initial state, a tree of arrays that is carried from step to step; by default empty.

        Args:
            params: the players' initial parameters.
        """
        return {}

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Any, Any]:
        """The input that the losses of one step share, such as samples and their rewards; by default the batch itself.

        It is not differentiated.

        Args:
            params: parameters of every player, before the step.
            state: the objective's own state.
            batch: the global batch.
            step: number of completed steps.
            rng: key of this step.

        Returns:
            A tree whose leaves have the rows of the batch as first dim, so that they can be split into micro-batches;
            and the objective's next state.
        """
        return batch, state

    @abc.abstractmethod
    def loss(
        self, player: str, params: dict[str, Params], prepared: Any, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, WeightedSum]]:
        """The loss of one player, to be differentiated with respect to params[player].

        Args:
            params: parameters of every player.
            prepared: result of `prepare` for the global batch, or some of its rows.
            step: number of completed steps.
            rng: key of this part of this update; None = deterministic.

        Returns:
            The loss (its `weight` is the normaliser), and further metrics to log.
        """

    def counts(self, prepared: Any) -> dict[str, Int[Array, ""]]:
        """Further counts of a prepared batch, such as samples; logged per second."""
        return {}

    @abc.abstractmethod
    def model_flops(self, prepared: Any) -> Float[Array, ""]:
        """Model FLOPs of one step on the result of `prepare` for the global batch: all passes of all players.

        Padding does not count; see `seq2seq_jax.modules.flops`.
        """

    def evaluate(self, params: Params, batch: Batch) -> tuple[WeightedSum, dict[str, WeightedSum]]:
        """The loss of the first player's parameters on a batch, and further metrics; deterministic."""
        player = self.players[0]
        return self.loss(player, {player: params}, batch, step=jnp.zeros((), jnp.int32), rng=None)

    def failure(self) -> str | None:
        """Why a figure of a step is no number, a sentence for a person; None = the objective does not know."""
        return None

    def warnings(self, figures: dict[str, Any]) -> dict[str, str]:
        """Warnings to show the user, by a short name, from the metrics of a record."""
        return {}
