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
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.modules.segments import lengths_of_pairs
from seq2seq_jax.objectives.objective import Objective, Params, WeightedSum
from seq2seq_jax.parallel.mesh import RULES, JittedOnMesh, batch_sharding, replicated, shardings
from seq2seq_jax.values import check_seed

DROPOUT_STREAM, INITIALIZATION_STREAM, PREPARATION_STREAM = 0, 1, 2
"""What a run's key is folded with, so that each use draws its own random numbers."""


@flax.struct.dataclass
class Player:
    """One set of parameters that is trained.

    Attributes:
        params: float32 parameters.
        optimizer_state: of the player's optimizer.
        average: exponential moving average of params, or None.
    """

    params: Params
    optimizer_state: Any
    average: Params | None

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
    players: dict[str, Player]
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

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """The state after it, and its metrics."""


def run_key(seed: int) -> jax.Array:
    """The key from which a run draws everything random but its batches.

    Raises:
        ValueError: the seed does not lie in [0, 2**32), and another one has its key.
    """
    check_seed("seed", seed)
    return jax.random.key(seed)


def initial_state(
    objective: Objective,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    averaged: bool,
    seed: int,
    mesh: Mesh,
) -> tuple[Callable[..., TrainState], TrainState]:
    """The state before the first step, and its layout.

    Args:
        averaged: whether each player keeps a moving average.

    Returns:
        A function that makes the state, laid out on the mesh, from new parameters or (`given`) with those of some
        players; and the state's shapes, dtypes and shardings (ShapeDtypeStruct leaves), which cost nothing.
    """

    def boxed(given: dict[str, Params]) -> TrainState:
        key = jax.random.fold_in(run_key(seed), INITIALIZATION_STREAM)
        params = {
            name: objective.initialize(name, jax.random.fold_in(key, index))
            for index, name in enumerate(objective.players)
        }
        for name, values in given.items():
            params[name] = meta.replace_boxed(params[name], jax.tree.map(jnp.copy, values))
        players = {
            name: Player(
                params=own,
                optimizer_state=_with_own_axes(optimizers[name].init(own), own),
                average=jax.tree.map(jnp.copy, own) if averaged else None,
            )
            for name, own in params.items()
        }
        return TrainState(step=jnp.zeros((), jnp.int32), players=players, objective=objective.initial_state(params))

    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shapes = jax.eval_shape(boxed, {})
        layout = shardings(mesh, shapes)
    make = JittedOnMesh(lambda given: _unboxed(boxed(given)), mesh, out_shardings=layout)

    def build(given: dict[str, Params] | None = None) -> TrainState:
        return make(given or {})

    return build, _described(shapes, layout)


def parameter_layout(objective: Objective, *, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings (ShapeDtypeStruct leaves) of the first player's parameters, which cost nothing."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        shapes = jax.eval_shape(lambda: objective.initialize(objective.players[0], run_key(0)))
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
    player: Player,
    gradient: Params,
    optimizer: optax.GradientTransformation,
    *,
    average_decay: float | None,
    step: Int[Array, ""],
) -> Player:
    """A player after one update of its parameters and of their moving average.

    Args:
        average_decay: of the moving average; None = there is none.
        step: steps done before this one.
    """
    updates, optimizer_state = optimizer.update(gradient, player.optimizer_state, player.params)
    params, average = optax.apply_updates(player.params, updates), player.average
    if average_decay is not None:
        # Early in training the average is that of all parameters so far, not of the initial ones.
        decay = jnp.minimum(average_decay, (1.0 + step) / (10.0 + step))
        average = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, average, params)
    return Player(params=params, optimizer_state=optimizer_state, average=average)


def build_update(
    objective: Objective,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    accumulation: int,
    average_decay: float | None,
    seed: int,
    mesh: Mesh,
    layout: TrainState,
) -> JittedOnMesh:
    """One jitted step of an objective; the state that goes in is donated.

    The objective prepares the batch, and its players take turns in the order of `players`, `updates` times: each
    computes its loss against what those before it have become.

    Losses and gradients are those of the whole global batch: sums over micro-batches and shards, divided once by the
    summed weights, so neither accumulation nor the mesh changes them.

    Args:
        accumulation: micro-batches that the rows of a batch are divided into, one after the other.
        average_decay: of the parameters' moving average; None = there is none.
        layout: shapes and shardings of the state.

    Returns:
        (state, batch) -> (state, metrics); metrics are scalars on the device: a player's `loss`, what the objective
        logs, and `gradient_norm` before clipping, of the last update, names of all players but the first leading with
        the player's; `model_flops` of the step; and integers, which are counts of the global batch.
    """

    def gradients(name: str, params: dict[str, Params], prepared: Any, *, step: Int[Array, ""], key: jax.Array):
        def loss_sum(own, part, part_key):
            loss, logged = objective.loss(name, {**params, name: own}, part, step=step, rng=part_key)
            return loss.sum, {"loss": loss, **logged}

        differentiate = jax.grad(loss_sum, has_aux=True)
        if accumulation == 1:
            return differentiate(params[name], prepared, key)

        def micro_batches(rows):
            # Row r goes to part r % accumulation: every shard keeps its own rows.
            return jnp.swapaxes(rows.reshape(-1, accumulation, *rows.shape[1:]), 0, 1)

        def add(total, part):
            index, rows = part
            return jax.tree.map(jnp.add, total, differentiate(params[name], rows, jax.random.fold_in(key, index))), None

        parts = jnp.arange(accumulation), jax.tree.map(micro_batches, prepared)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(differentiate, params[name], jax.tree.map(lambda rows: rows[0], parts[1]), key),
        )
        return jax.lax.scan(add, zeros, parts)[0]

    def update_player(name: str, players: dict[str, Player], prepared: Any, *, step: Int[Array, ""], key: jax.Array):
        player = players[name]
        params = {other: players[other].params for other in players}
        gradient, totals = gradients(name, params, prepared, step=step, key=key)
        gradient = jax.tree.map(lambda leaf: leaf / totals["loss"].weight, gradient)
        metrics = {key: total.mean for key, total in totals.items()}
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return apply_gradient(player, gradient, optimizers[name], average_decay=average_decay, step=step), metrics

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        def step_key(stream):
            return jax.random.fold_in(jax.random.fold_in(run_key(seed), stream), state.step)

        players, metrics = dict(state.players), {}
        params = {name: player.params for name, player in players.items()}
        prepared, objective_state = objective.prepare(
            params, state.objective, batch, step=state.step, rng=step_key(PREPARATION_STREAM)
        )
        turns = objective.players * objective.updates
        for turn, name in enumerate(turns):
            key = jax.random.fold_in(step_key(DROPOUT_STREAM), turn)
            players[name], figures = update_player(name, players, prepared, step=state.step, key=key)
            prefix = "" if name == objective.players[0] else f"{name}_"
            metrics |= {prefix + figure: value for figure, value in figures.items()}
        metrics |= objective.counts(prepared)
        metrics["model_flops"] = objective.model_flops(prepared)
        metrics["pairs"] = jnp.sum(lengths_of_pairs(batch)[0] > 0)
        metrics["target_tokens"] = jnp.sum(batch.target.mask)
        metrics["source_tokens"] = jnp.sum(batch.source.mask)
        return TrainState(step=state.step + 1, players=players, objective=objective_state), metrics

    state_sharding = jax.tree.map(lambda leaf: leaf.sharding, layout)
    return JittedOnMesh(
        update,
        mesh,
        donate_argnums=0,
        in_shardings=(state_sharding, batch_sharding(mesh)),
        out_shardings=(state_sharding, replicated(mesh)),
    )


def build_loss(objective: Objective, *, mesh: Mesh, layout: Params) -> JittedOnMesh:
    """(params of the first player, batch) -> totals of `Objective.evaluate`: the loss and what goes with it; jitted.

    Args:
        layout: shapes and shardings of the parameters, see `parameter_layout`.
    """

    def totals(params: Params, batch: Batch) -> dict[str, WeightedSum]:
        loss, logged = objective.evaluate(params, batch)
        return {"loss": loss, **logged}

    params_sharding = jax.tree.map(lambda leaf: leaf.sharding, layout)
    return JittedOnMesh(
        totals, mesh, in_shardings=(params_sharding, batch_sharding(mesh)), out_shardings=replicated(mesh)
    )
