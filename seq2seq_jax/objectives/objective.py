"""The interface between objectives and the training step: players, their turns, and what is logged of them."""

import abc
import dataclasses
from collections.abc import Callable, Collection
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.optimizers import OptimizerConfig

Params = Any
"""A tree of parameters."""


@flax.struct.dataclass
class WeightedSum:
    """A sum and its normaliser, logged as their ratio: the mean over everything that was added.

    Results of parts of a batch (accumulated micro-batches, shards of a mesh) can be added exactly, and so can those of
    several steps: a step that has nothing to say adds a weight of 0.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """Sum / weight."""
        return self.sum / self.weight


@flax.struct.dataclass
class Count:
    """A number of things, logged per second."""

    value: Int[Array, ""] | Float[Array, ""]


Logged = WeightedSum | Count
"""What a step reports under a name; its class says how parts of a batch and steps are put together."""


def values_of(metrics: dict[str, Logged]) -> dict[str, float | int]:
    """Metrics of a step as numbers on the host, means without a weight left out."""
    values = {}
    for name, logged in jax.device_get(metrics).items():
        if isinstance(logged, Count):
            values[name] = logged.value.item()
        elif logged.weight != 0.0:
            values[name] = (logged.sum / logged.weight).item()
    return values


def per_step(value: Float[Array, ""]) -> WeightedSum:
    """A value of a whole step: the mean over steps gives each the same weight."""
    return WeightedSum(value, jnp.ones(()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """A set of parameters that an objective trains.

    Attributes:
        name: of its parameters in checkpoints, and of its metrics; unique.
        initialize: key -> initial parameters, boxed with their logical axes.
        optimizer: update rule, schedule, clipping and moving average; None = those of the experiment. The schedule
            follows the player's own count of updates.
    """

    name: str
    initialize: Callable[[jax.Array], Params]
    optimizer: OptimizerConfig | None = None


class Turn(NamedTuple):
    """One update of one player in a step.

    Attributes:
        index: place among the turns of the step, from 0.
        player: its name.
    """

    index: int
    player: str


@flax.struct.dataclass
class Prepared:
    """What the turns of a step share.

    Attributes:
        rows: a tree whose leaves have the rows of the batch as first dim; micro-batches are cut out of it.
        shared: a tree that every micro-batch sees as it is.
    """

    rows: Any
    shared: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a step does with rows of full length, known without data.

    Attributes:
        flops: model FLOPs of all passes of all players.
        description: of the work, for a person.
        longest_output: most tokens that are generated for a source, a bound of loops that end when all texts have
            ended; 1 = nothing is generated.
        logits_positions: target positions per row whose logits exist at once in the forward pass; None = not stated.
    """

    flops: float
    description: str
    longest_output: int = 1
    logits_positions: int | None = None


class Objective(abc.ABC):
    """A training objective.

    A training step calls `prepare` once per batch. Then the players take their turns: each computes its loss on what
    was prepared, against what the turns before it have made of the other players.
    """

    @property
    @abc.abstractmethod
    def players(self) -> tuple[Player, ...]:
        """The sets of parameters that are trained; the first is the model that generates, and is used afterwards."""

    @property
    def turns(self) -> tuple[str, ...]:
        """Names of the players in the order of their turns in a step, by default each once in the order of `players`.

        ("critic", "critic", "critic", "model") gives the critic three updates for one of the model.
        """
        return tuple(player.name for player in self.players)

    def active(self, turn: Turn, prepared: Prepared, *, step: Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Whether a turn is taken; True = always, which costs nothing.

        A turn that is skipped leaves its player as it is, its count of updates included, and logs nothing. All
        decisions of a run are branches of one compiled program.

        Args:
            prepared: for the global batch; what depends on the objective's state or on other data than the step
                belongs to `prepared.shared`.
            step: number of completed steps.
        """
        return True

    def updates(self, player: str, steps: int) -> int:
        """The updates of a player in a run, which its schedule ends with; by default no turn is skipped.

        Args:
            steps: of the run.
        """
        return steps * self.turns.count(player)

    def initial_params(self, params: dict[str, Params], *, given: Collection[str]) -> dict[str, Params]:
        """The players' initial parameters, of which one may start from another's; by default as they are.

        Args:
            params: of every player: new ones, or those that training starts from.
            given: players whose parameters, or parts of them, are not new.
        """
        return params

    def initial_state(self, params: dict[str, Params]) -> Any:
        """The objective's own initial state, a tree of arrays that is carried from step to step; by default empty.

        Args:
            params: the players' initial parameters.
        """
        return {}

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """The input that the losses of one step share, such as samples and their rewards; by default the batch itself.

        It is not differentiated.

        Args:
            params: parameters of every player, before the step.
            state: the objective's own state.
            batch: the global batch.
            step: number of completed steps.
            rng: key of this step.

        Returns:
            What the turns share, and the objective's next state.
        """
        return Prepared(rows=batch), state

    @abc.abstractmethod
    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """The loss of a turn, to be differentiated with respect to params[turn.player].

        Args:
            params: parameters of every player.
            prepared: result of `prepare`, with all rows of the global batch or some of them.
            step: number of completed steps.
            rng: key of this part of this turn; None = deterministic.

        Returns:
            The loss (its `weight` is the normaliser), and further metrics to log.
        """

    def counts(self, prepared: Prepared) -> dict[str, Int[Array, ""]]:
        """Further counts of a prepared global batch, such as samples; logged per second."""
        return {}

    def prepared_metrics(self, prepared: Prepared) -> dict[str, Logged]:
        """What is logged of a prepared global batch, whichever turns are taken; by default nothing."""
        return {}

    def preparation_flops(self, prepared: Prepared) -> Float[Array, ""]:
        """Model FLOPs of `prepare` for the global batch; by default 0.

        Padding does not count; see `seq2seq_jax.modules.flops`.
        """
        return jnp.zeros(())

    @abc.abstractmethod
    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """Model FLOPs of one turn on the global batch, forward and backward passes. See `preparation_flops`."""

    @abc.abstractmethod
    def work(self, rows: int, source: int, target: int) -> Work:
        """The work of one step with all turns, for `seq2seq compile`.

        Args:
            rows: of the global batch, each with one pair.
            source, target: tokens of each side.
        """

    def evaluate(self, params: dict[str, Params], batch: Batch) -> tuple[WeightedSum, dict[str, Logged]]:
        """The loss of the first player on a batch, and further metrics, those of other players included; deterministic.

        Args:
            params: parameters of every player.
        """
        turn = next(turn for turn in turns_of(self) if turn.player == self.players[0].name)
        return self.loss(turn, params, Prepared(rows=batch), step=jnp.zeros((), jnp.int32), rng=None)

    def failure(self) -> str | None:
        """Why a figure of a step is no number, a sentence for a person; None = the objective does not know."""
        return None

    def stops(self, figures: dict[str, float]) -> str | None:
        """Why training cannot go on, a sentence for a person that says what to change; None = it can.

        Args:
            figures: what was logged of a step.
        """
        return None

    def warnings(self, figures: dict[str, Any]) -> dict[str, str]:
        """Warnings to show the user, by a short name, from the metrics of a record."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(abc.ABC):
    """Config of an objective."""

    requires_unpacked_rows: ClassVar[bool] = False
    """Whether every row must hold a single example."""
    trains_experts: ClassVar[bool] = False
    """Whether all experts of a model are trained, and not expert 0 alone."""

    @property
    def foreign_code(self) -> str | None:
        """What `build` imports from outside the package, "module:function"; None = nothing."""
        return None

    def check(self, model: ModelConfig, *, accumulation: int) -> None:  # noqa: B027
        """Refuse what the objective cannot be trained with, or what has no effect with it.

        Args:
            accumulation: micro-batches of a batch.

        Raises:
            ValueError: with the fields to change.
        """

    @abc.abstractmethod
    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> Objective:
        """The objective for a model.

        Args:
            tokenizer: of the model; None = there is none, where parameters are evaluated only.

        Raises:
            ValueError: it cannot be computed with the model or the tokenizer.
        """

    def build_evaluation(self, model: EncoderDecoder) -> Objective:
        """What evaluates parameters of a model that was trained with this objective; imports no foreign code.

        Its players are some of those of `build`, the first one the same.
        """
        return self.build(model)


def check_sources_are_tokens(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Refuse sources of frames, which discriminators do not read.

    Raises:
        ValueError: with the field to change.
    """
    if model.front_end is not None:
        raise ValueError(
            f"objective {type(objective).__name__} needs sources of tokens, and model.front_end reads frames: choose "
            "another objective, such as policy gradients."
        )


def turns_of(objective: Objective) -> tuple[Turn, ...]:
    """The turns of a step in their order."""
    return tuple(Turn(index, player) for index, player in enumerate(objective.turns))


def model_flops(objective: Objective, prepared: Prepared) -> Float[Array, ""]:
    """Model FLOPs of one step in which every turn is taken."""
    turns = (objective.turn_flops(turn, prepared) for turn in turns_of(objective))
    return sum(turns, objective.preparation_flops(prepared))
