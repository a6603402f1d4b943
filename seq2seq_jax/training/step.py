"""The state of a run and its one jitted, donated update, for any objective."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.core import meta
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.modules.patterns import merged
from seq2seq_jax.modules.segments import lengths_of_pairs
from seq2seq_jax.objectives.objective import (
    Count,
    Logged,
    Objective,
    Params,
    Prepared,
    Turn,
    per_step,
    turns_of,
)
from seq2seq_jax.optimizers import Optimizer, OptimizerConfig, split
from seq2seq_jax.parallel.mesh import RULES, JittedOnMesh, batch_sharding, replicated, shardings
from seq2seq_jax.values import check_seed

DROPOUT_STREAM, INITIALIZATION_STREAM, PREPARATION_STREAM = 0, 1, 2
"""What a run's key is folded with, so that each use draws its own random numbers."""

Evaluate = Callable[[dict[str, Params], Batch], tuple[Logged, dict[str, Logged]]]
"""(params by player, batch) -> loss, and what is logged beside it."""


@flax.struct.dataclass
class PlayerState:
    """What a step changes of one player.

    Attributes:
        params: float32 parameters.
        optimizer_state: of the player's optimizer.
        average: exponential moving average of params, or None.
        updates: the player's updates so far.
    """

    params: Params
    optimizer_state: Any
    average: Params | None
    updates: Int[Array, ""]

    @property
    def evaluated(self) -> Params:
        """The parameters that are evaluated and used: the average where there is one."""
        return self.params if self.average is None else self.average


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        step: steps done.
        players: by name.
        objective: what the objective carries from step to step.
    """

    step: Int[Array, ""]
    players: dict[str, PlayerState]
    objective: Any


def num_parameters(params: Params) -> int:
    """Numbers in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@runtime_checkable
class Update(Protocol):
    """A compiled training step.

    Attributes:
        compilations: programs that its calls have had compiled in this process.
        compiling_seconds: what its calls have taken until these programs were there.
    """

    compilations: int
    compiling_seconds: float

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Logged]]:
        """The state after it, and its metrics."""


def run_key(seed: int) -> jax.Array:
    """The key from which a run draws everything random but its batches.

    Raises:
        ValueError: the seed does not lie in [0, 2**32), and another one has its key.
    """
    check_seed("seed", seed)
    return jax.random.key(seed)


def player_optimizers(
    objective: Objective, default: OptimizerConfig, *, steps: int
) -> tuple[dict[str, Optimizer], dict[str, float | None]]:
    """The optimizer of each player of an objective, and the decay of its moving average (None = it has none).

    Args:
        default: of players without an optimizer of their own.
        steps: of the run.
    """
    configs = {player.name: player.optimizer or default for player in objective.players}
    # Patterns of the experiment's optimizer are those of the model, which is the first player.
    meant = {player.name for index, player in enumerate(objective.players) if index == 0 or player.optimizer}
    optimizers = {
        name: config.build(objective.updates(name, steps), is_of_all=name in meant) for name, config in configs.items()
    }
    return optimizers, {name: config.ema_decay for name, config in configs.items()}


def learning_rates(
    objective: Objective, default: OptimizerConfig, *, steps: int
) -> Callable[[TrainState], dict[str, float]]:
    """State -> learning rate of each player, that of its first update in the last step that it took all turns in.

    The names are those of metrics. See `player_optimizers` for the arguments.
    """
    schedules = {
        player.name: (player.optimizer or default).learning_rate_schedule(objective.updates(player.name, steps))
        for player in objective.players
    }

    def rates(state: TrainState) -> dict[str, float]:
        counts = {name: max(int(state.players[name].updates) - objective.turns.count(name), 0) for name in schedules}
        return {
            f"{metric_prefix(objective, name)}learning_rate": float(schedule(counts[name]))
            for name, schedule in schedules.items()
        }

    return rates


def initial_state(
    objective: Objective,
    optimizers: Mapping[str, Optimizer],
    *,
    average_decays: Mapping[str, float | None],
    seed: int,
    mesh: Mesh,
) -> tuple[Callable[..., TrainState], TrainState]:
    """The state before the first step, and its layout.

    Args:
        optimizers: of every player.
        average_decays: of every player's moving average; None = it keeps none.

    Returns:
        A function that makes the state, laid out on the mesh, from new parameters or (`given`, donated) with those of
        some players, of which a dict may lack parts, which are new; and the state's shapes, dtypes and shardings
        (ShapeDtypeStruct leaves), which cost nothing.
    """

    def boxed(given: dict[str, Params]) -> TrainState:
        key = jax.random.fold_in(run_key(seed), INITIALIZATION_STREAM)
        params = {
            player.name: player.initialize(jax.random.fold_in(key, index))
            for index, player in enumerate(objective.players)
        }
        for name, values in given.items():
            own = params[name]
            values = merged(_unboxed(own), values)
            params[name] = meta.replace_boxed(own, jax.tree.map(jnp.copy, values))
        params = objective.initial_params(params, given=given.keys())
        players = {
            name: PlayerState(
                params=own,
                optimizer_state=_with_own_axes(optimizers[name].init(own), own),
                average=None if average_decays[name] is None else jax.tree.map(jnp.copy, own),
                updates=jnp.zeros((), jnp.int32),
            )
            for name, own in params.items()
        }
        return TrainState(step=jnp.zeros((), jnp.int32), players=players, objective=objective.initial_state(params))

    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shapes = jax.eval_shape(boxed, {})
        layout = shardings(mesh, shapes)
    make = JittedOnMesh(lambda given: _unboxed(boxed(given)), mesh, out_shardings=layout, donate_argnums=0)

    def build(given: dict[str, Params] | None = None) -> TrainState:
        return make(given or {})

    return build, _described(shapes, layout)


def parameter_layouts(objective: Objective, *, mesh: Mesh) -> dict[str, Params]:
    """Shapes, dtypes and shardings (ShapeDtypeStruct leaves) of every player's parameters, which cost nothing."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shapes = {
            player.name: jax.eval_shape(lambda initialize=player.initialize: initialize(run_key(0)))
            for player in objective.players
        }
        layout = shardings(mesh, shapes)
    return _described(shapes, layout)


def _described(shapes: Any, layout: Any) -> Any:
    """Unboxed shapes and dtypes with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        _unboxed(shapes),
        layout,
    )


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _with_own_axes(optimizer_state: Any, params: Params) -> Any:
    """An optimizer's state, its arrays boxed with the logical axes that they have themselves.

    Optax leaves them in the boxes of the parameters that they belong to, but Adafactor's factored moments lack one of
    the parameter's dims, and are a single number where it does not factor.
    """
    boxes = {
        jax.tree_util.keystr(path): box for path, box in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_boxed)
    }

    def with_own_axes(path, leaf):
        if not _is_boxed(leaf):
            return leaf
        # A parameter's path in a tree of parameters is all keys of dicts, and what leads there is none.
        first = 1 + max(place for place, key in enumerate(path) if not isinstance(key, jax.tree_util.DictKey))
        box = boxes[jax.tree_util.keystr(path[first:])]
        return leaf.replace(names=_names_of_moment(leaf.value.shape, box.names, box.value.shape))

    return jax.tree_util.tree_map_with_path(with_own_axes, optimizer_state, is_leaf=_is_boxed)


def _names_of_moment(
    shape: tuple[int, ...], names: tuple[str | None, ...], parameter_shape: tuple[int, ...]
) -> tuple[str | None, ...]:
    """Logical axes of a moment of a parameter with these axes: all, all but one, or none."""
    if shape == parameter_shape:
        return names
    for dim in reversed(range(len(names))):
        if shape == parameter_shape[:dim] + parameter_shape[dim + 1 :]:
            return names[:dim] + names[dim + 1 :]
    return (None,) * len(shape)


def _unboxed(tree: Any) -> Any:
    """The leaves alone; flax's own unbox would also constrain them to their axes."""
    return jax.tree.map(lambda leaf: leaf.value if _is_boxed(leaf) else leaf, tree, is_leaf=_is_boxed)


def apply_gradient(
    player: PlayerState,
    gradient: Params,
    optimizer: Optimizer,
    *,
    average_decay: float | None,
    turns: int,
) -> PlayerState:
    """A player after one update of its parameters and of their moving average.

    Args:
        gradient: of the parameters that the optimizer trains.
        average_decay: of the moving average; None = there is none.
        turns: of the player in a step.
    """
    trained, frozen = split(optimizer, player.params)
    updates, optimizer_state = optimizer.update(gradient, player.optimizer_state, trained)
    trained, average = optax.apply_updates(trained, updates), player.average
    if average_decay is not None:
        # Early in training the average is that of all parameters so far, not of the initial ones.
        steps = player.updates // turns
        decay = jnp.minimum(average_decay, (1.0 + steps) / (10.0 + steps))
        before, unchanged = split(optimizer, average)
        average = merged(unchanged, jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, before, trained))
    params = merged(frozen, trained)
    return PlayerState(params=params, optimizer_state=optimizer_state, average=average, updates=player.updates + 1)


def updates_of_old_checkpoints(objective: Objective) -> Callable[[int], dict[str, int]]:
    """Step -> each player's count of updates, by path in a checkpoint.

    Versions that did not count them skipped no turns.
    """
    turns = {player.name: objective.turns.count(player.name) for player in objective.players}
    return lambda step: {f"players/{name}/updates": step * count for name, count in turns.items()}


def metric_prefix(objective: Objective, player: str) -> str:
    """What the names of a player's metrics begin with: nothing for the first player, NAME_ for others."""
    return "" if player == objective.players[0].name else f"{player}_"


def build_update(
    objective: Objective,
    optimizers: Mapping[str, Optimizer],
    *,
    accumulation: int,
    average_decays: Mapping[str, float | None],
    seed: int,
    mesh: Mesh,
    layout: TrainState,
) -> JittedOnMesh:
    """One jitted step of an objective; the state that goes in is donated.

    The objective prepares the batch, and its players take their turns: each computes its loss against what those before
    it have become. A turn that may be skipped is a branch of the program.

    Losses and gradients are those of the whole global batch: sums over micro-batches and shards, divided once by the
    summed weights, so neither accumulation nor the mesh changes them.

    Args:
        accumulation: micro-batches that the rows of a batch are divided into, one after the other.
        average_decays: of every player's moving average; None = there is none.
        layout: shapes and shardings of the state.

    Returns:
        (state, batch) -> (state, metrics); metrics are scalars on the device: a player's `loss`, what the objective
        logs, and `gradient_norm` before clipping, of the last turn that the player has taken, names of all players but
        the first leading with the player's, with a weight of 0 if it has taken none; what the objective logs of the
        prepared batch; and counts of the global batch, among them `model_flops` of the step.
    """

    def gradients(
        turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], key: jax.Array
    ) -> tuple[Params, dict[str, Logged]]:
        own, frozen = split(optimizers[turn.player], params[turn.player])

        def loss_sum(own, rows, part_key):
            everyone = {**params, turn.player: merged(frozen, own)}
            loss, logged = objective.loss(turn, everyone, prepared.replace(rows=rows), step=step, rng=part_key)
            return loss.sum, {"loss": loss, **logged}

        differentiate = jax.grad(loss_sum, has_aux=True)
        if accumulation == 1:
            return differentiate(own, prepared.rows, key)

        def micro_batches(rows):
            # Row r goes to part r % accumulation: every shard keeps its own rows.
            return jnp.swapaxes(rows.reshape(-1, accumulation, *rows.shape[1:]), 0, 1)

        def add(total, part):
            index, rows = part
            return jax.tree.map(jnp.add, total, differentiate(own, rows, jax.random.fold_in(key, index))), None

        parts = jnp.arange(accumulation), jax.tree.map(micro_batches, prepared.rows)
        zeros = _zeros(jax.eval_shape(differentiate, own, jax.tree.map(lambda rows: rows[0], parts[1]), key))
        return jax.lax.scan(add, zeros, parts)[0]

    def take(
        turn: Turn, players: dict[str, PlayerState], prepared: Prepared, *, step: Int[Array, ""], key: jax.Array
    ) -> tuple[PlayerState, dict[str, Logged]]:
        """The player after its turn, and what is logged of it."""
        params = {name: player.params for name, player in players.items()}
        gradient, metrics = gradients(turn, params, prepared, step=step, key=key)
        gradient = jax.tree.map(lambda leaf: leaf / metrics["loss"].weight, gradient)
        metrics["gradient_norm"] = per_step(optax.tree.norm(gradient))
        name = turn.player
        player = apply_gradient(
            players[name],
            gradient,
            optimizers[name],
            average_decay=average_decays[name],
            turns=objective.turns.count(name),
        )
        return player, metrics

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Logged]]:
        def step_key(stream):
            return jax.random.fold_in(jax.random.fold_in(run_key(seed), stream), state.step)

        players, metrics = dict(state.players), {}
        params = {name: player.params for name, player in players.items()}
        prepared, objective_state = objective.prepare(
            params, state.objective, batch, step=state.step, rng=step_key(PREPARATION_STREAM)
        )
        flops = objective.preparation_flops(prepared)
        for turn in turns_of(objective):
            key = jax.random.fold_in(step_key(DROPOUT_STREAM), turn.index)
            active = objective.active(turn, prepared, step=state.step)
            player, logged = _taken_if(
                active,
                lambda turn=turn, key=key, now=dict(players): take(turn, now, prepared, step=state.step, key=key),
                players[turn.player],
            )
            players[turn.player] = player
            prefix = metric_prefix(objective, turn.player)
            for name, value in logged.items():
                metrics[prefix + name] = _after_turn(metrics.get(prefix + name), value, active)
            flops += jnp.where(active, objective.turn_flops(turn, prepared), 0.0)
        counts = objective.counts(prepared) | {
            "model_flops": flops,
            "pairs": jnp.sum(lengths_of_pairs(batch)[0] > 0),
            "target_tokens": jnp.sum(batch.target.mask),
            "source_tokens": jnp.sum(batch.source.mask),
        }
        metrics |= objective.prepared_metrics(prepared)
        metrics |= {name: Count(value) for name, value in counts.items()}
        return TrainState(step=state.step + 1, players=players, objective=objective_state), metrics

    state_sharding = jax.tree.map(lambda leaf: leaf.sharding, layout)
    return JittedOnMesh(
        update,
        mesh,
        donate_argnums=0,
        in_shardings=(state_sharding, batch_sharding(mesh)),
        out_shardings=(state_sharding, replicated(mesh)),
    )


def _taken_if(
    active: bool | Bool[Array, ""], take: Callable[[], tuple[PlayerState, dict[str, Logged]]], player: PlayerState
) -> tuple[PlayerState, dict[str, Logged]]:
    """The result of a turn; of one that is skipped the player as it is, and metrics of weight 0."""
    if isinstance(active, bool) and active:
        return take()
    zeros = _zeros(jax.eval_shape(take)[1])
    return jax.lax.cond(active, take, lambda: (player, zeros))


def _after_turn(before: Logged | None, logged: Logged, active: bool | Bool[Array, ""]) -> Logged:
    """What is logged under a name after another turn of the same player in a step: of means the last, counts added."""
    if before is None:
        return logged
    if isinstance(logged, Count):
        return Count(before.value + logged.value)
    return jax.tree.map(lambda old, new: jnp.where(active, new, old), before, logged)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def build_loss(evaluate: Evaluate, *, mesh: Mesh, layouts: dict[str, Params]) -> JittedOnMesh:
    """(params by player, batch) -> metrics of evaluation: the loss and what goes with it; jitted.

    Args:
        evaluate: see `Objective.evaluate`.
        layouts: shapes and shardings of the parameters, see `parameter_layouts`.
    """

    def metrics(params: dict[str, Params], batch: Batch) -> dict[str, Logged]:
        loss, logged = evaluate(params, batch)
        return {"loss": loss, **logged}

    params_sharding = jax.tree.map(lambda leaf: leaf.sharding, layouts)
    return JittedOnMesh(
        metrics, mesh, in_shardings=(params_sharding, batch_sharding(mesh)), out_shardings=replicated(mesh)
    )
