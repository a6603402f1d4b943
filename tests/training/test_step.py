"""One update against NumPy, for objectives small enough to follow by hand, and for a model."""

import ast
import dataclasses
import functools
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from architectures import VOCABULARY, parameters, transformer
from batches import batch, random_pairs

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Count, Objective, Player, Prepared, WeightedSum, Work, per_step, values_of
from seq2seq_jax.optimizers import AdamWConfig
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.training import step as step_module
from seq2seq_jax.training.step import (
    build_loss,
    build_update,
    initial_state,
    learning_rates,
    player_optimizers,
)

pytestmark = pytest.mark.filterwarnings("error")


def one_device():
    return MeshConfig(data=1).build(jax.devices()[:1])


def numbers(rows):
    """A batch whose target tokens are the numbers that an objective reads; 0 is padding."""
    tokens = np.array(rows, np.int32)
    sequence = TokenRows(tokens=tokens, segment_ids=(tokens > 0).astype(np.int32), positions=np.zeros_like(tokens))
    return Batch(source=sequence, target=sequence)


class Weights(Objective):
    """Players of one number each, 0 unless another is given to the state."""

    names = ("model",)

    @property
    def players(self):
        return tuple(Player(name=name, initialize=self.initialize) for name in self.names)

    def initialize(self, key):
        return {"weight": jnp.float32(0.0)}

    def turn_flops(self, turn, prepared):
        return jnp.float32(123.0)

    def work(self, rows, source, target):
        return Work(flops=123.0 * len(self.turns), description="numbers")


def training(objective, initial, optimizers, *, accumulation=1, average_decay=None, seed=0):
    """The first state and the update of players whose initial parameters are given; one average decay for all of them,
    or one of each.
    """
    mesh = one_device()
    average_decays = average_decay if isinstance(average_decay, dict) else dict.fromkeys(optimizers, average_decay)
    build, layout = initial_state(objective, optimizers, average_decays=average_decays, seed=seed, mesh=mesh)
    update = build_update(
        objective,
        optimizers,
        accumulation=accumulation,
        average_decays=average_decays,
        seed=seed,
        mesh=mesh,
        layout=layout,
    )
    return build({name: {"weight": jnp.float32(value)} for name, value in initial.items()}), update


class Mean(Weights):
    """One player that learns the mean of all numbers: (weight - x)^2 / 2 for each."""

    def __init__(self):
        self.traced = 0

    def loss(self, turn, params, prepared, *, step, rng):
        self.traced += 1
        mask, x = prepared.rows.target.mask, prepared.rows.target.tokens
        weight = jnp.sum(mask).astype(jnp.float32)
        error = params[turn.player]["weight"] - x
        return WeightedSum(jnp.sum(jnp.where(mask, error**2 / 2, 0.0)), weight), {
            "largest": WeightedSum(jnp.max(x) * weight, weight),
        }


ROWS = [[1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 0, 0], [8, 0, 0, 0]]
"""Eight numbers, of mean 4.5 and mean square 25.5."""


def test_an_update_by_hand():
    """Loss (100 - 2 * 10 * 4.5 + 25.5) / 2 = 17.75 and gradient 10 - 4.5 at a weight of 10; then 10 - 0.1 * 5.5."""
    state, update = training(Mean(), {"model": 10.0}, {"model": optax.sgd(0.1)})
    state, metrics = update(state, numbers(ROWS))
    assert values_of(metrics) == pytest.approx(
        {
            "loss": 17.75,
            "largest": 8,
            "gradient_norm": 5.5,
            "target_tokens": 8,
            "source_tokens": 8,
            "pairs": 4,
            "model_flops": 123,
        }
    )
    assert float(state.players["model"].params["weight"]) == pytest.approx(9.45)
    assert int(state.step) == 1
    assert state.players["model"].average is None
    assert state.players["model"].evaluated is state.players["model"].params


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_are_weighted_by_their_tokens(accumulation):
    """Rows 0 and 2 hold six numbers, rows 1 and 3 two: the mean of two means would be another number."""
    state, update = training(Mean(), {"model": 10.0}, {"model": optax.sgd(0.1)}, accumulation=accumulation)
    state, metrics = update(state, numbers(ROWS))
    assert float(metrics["loss"].mean) == pytest.approx(17.75)
    assert float(metrics["gradient_norm"].mean) == pytest.approx(5.5)
    assert float(state.players["model"].params["weight"]) == pytest.approx(9.45)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_row_r_goes_to_micro_batch_r_modulo_their_number(accumulation):
    """So that shards of consecutive rows each have their share of every micro-batch."""
    state, update = training(Mean(), {"model": 10.0}, {"model": optax.sgd(0.1)}, accumulation=accumulation)
    _, metrics = update(state, numbers(ROWS))
    parts = [[number for row in ROWS[part::accumulation] for number in row if number] for part in range(accumulation)]
    # The largest number of each part, weighted by how many numbers it has.
    assert float(metrics["largest"].mean) == pytest.approx(sum(max(part) * len(part) for part in parts) / 8)


def test_the_gradient_norm_is_that_before_clipping():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    state, update = training(Mean(), {"model": 10.0}, {"model": optimizer})
    state, metrics = update(state, numbers(ROWS))
    assert float(metrics["gradient_norm"].mean) == pytest.approx(5.5)
    assert float(state.players["model"].params["weight"]) == pytest.approx(10.0 - 0.1 * 1.0)


def test_the_average_by_hand():
    """Decays 1 / 10, 2 / 11, then 0.2 instead of 3 / 12 and 4 / 13."""
    state, update = training(Mean(), {"model": 10.0}, {"model": optax.sgd(0.1)}, average_decay=0.2)
    assert float(state.players["model"].average["weight"]) == 10.0
    weight = average = 10.0
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        state, _ = update(state, numbers(ROWS))
        weight -= 0.1 * (weight - 4.5)
        average = decay * average + (1 - decay) * weight
        player = state.players["model"]
        assert float(player.params["weight"]) == pytest.approx(weight)
        assert float(player.average["weight"]) == pytest.approx(average)
        assert player.evaluated is player.average


class Chase(Weights):
    """Two players with losses of opposite interest, neither the negative of the other: w (v - x), and (v - w)^2 / 2."""

    names = ("runner", "chaser")

    def loss(self, turn, params, prepared, *, step, rng):
        runner, chaser = params["runner"]["weight"], params["chaser"]["weight"]
        mask, x = prepared.rows.target.mask, prepared.rows.target.tokens
        each = runner * (chaser - x) if turn.player == "runner" else jnp.full(x.shape, (chaser - runner) ** 2 / 2)
        weight = jnp.sum(mask).astype(jnp.float32)
        logged = {"own": WeightedSum(params[turn.player]["weight"], jnp.ones(()))}
        return WeightedSum(jnp.sum(jnp.where(mask, each, 0.0)), weight), logged


def test_each_of_two_players_has_its_own_loss_optimizer_and_update():
    optimizers = {"runner": optax.sgd(0.1), "chaser": optax.sgd(0.5)}
    state, update = training(Chase(), {"runner": 2.0, "chaser": -1.0}, optimizers)
    runner, chaser = 2.0, -1.0
    for _ in range(3):
        state, metrics = update(state, numbers(ROWS))
        expected = {
            "loss": runner * (chaser - 4.5),
            "own": runner,
            "gradient_norm": abs(chaser - 4.5),
        }
        runner -= 0.1 * (chaser - 4.5)
        # In the order of `players`, each against what those before it have become.
        expected |= {
            "chaser_loss": (chaser - runner) ** 2 / 2,
            "chaser_own": chaser,
            "chaser_gradient_norm": abs(chaser - runner),
        }
        chaser -= 0.5 * (chaser - runner)
        assert values_of(metrics) == pytest.approx(
            expected | {"target_tokens": 8, "source_tokens": 8, "pairs": 4, "model_flops": 246}, rel=1e-5
        )
        assert float(state.players["runner"].params["weight"]) == pytest.approx(runner, rel=1e-5)
        assert float(state.players["chaser"].params["weight"]) == pytest.approx(chaser, rel=1e-5)


class Tutored(Weights):
    """A runner that follows the numbers, with three turns a step, the second of which it skips in odd steps, and a
    walker that starts after two steps.
    """

    names, turns = ("runner", "walker"), ("runner", "runner", "walker", "runner")

    def active(self, turn, prepared, *, step):
        if turn.player == "walker":
            return step >= 2
        return True if turn.index != 1 else step % 2 == 0

    def loss(self, turn, params, prepared, *, step, rng):
        mask, x = prepared.rows.target.mask, prepared.rows.target.tokens
        weight = jnp.sum(mask).astype(jnp.float32)
        each = jnp.where(mask, (params[turn.player]["weight"] - x) ** 2 / 2, 0.0)
        return WeightedSum(jnp.sum(each), weight), {
            "turn": per_step(jnp.float32(turn.index)),
            "turns": Count(jnp.int32(1)),
        }

    def turn_flops(self, turn, prepared):
        return jnp.float32(10.0 ** (turn.player == "walker"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_players_take_turns_in_their_order_and_ratio_and_skip_some(accumulation):
    """Each goes the way to 4.5 by a tenth of what is left with every update of its own; schedules and averages follow
    the player's own updates.
    """
    rates = {
        "runner": optax.sgd(optax.piecewise_constant_schedule(0.1, {7: 0.0})),
        "walker": optax.sgd(optax.piecewise_constant_schedule(0.1, {1: 5.0})),
    }
    decays = {"runner": None, "walker": 0.15}
    state, update = training(
        Tutored(), dict.fromkeys(rates, 10.0), rates, average_decay=decays, accumulation=accumulation
    )
    logged = []
    for step in range(4):
        before = state.players["walker"].params["weight"].copy()
        state, metrics = update(state, numbers(ROWS))
        logged.append(values_of(metrics))
        if step < 2:
            assert state.players["walker"].params["weight"] == before
    runner, walker = state.players["runner"], state.players["walker"]
    assert (int(runner.updates), int(walker.updates)) == (3 + 2 + 3 + 2, 2)
    # The runner's rate is 0 from its eighth update on; the walker's is half a unit in its second.
    assert float(runner.params["weight"]) == pytest.approx(4.5 + 5.5 * 0.9**7, rel=1e-5)
    first, second = 4.5 + 5.5 * 0.9, 4.5 + 5.5 * 0.9 * 0.5
    assert float(walker.params["weight"]) == pytest.approx(second, rel=1e-5)
    average = 0.1 * 10.0 + 0.9 * first
    assert float(walker.average["weight"]) == pytest.approx(0.15 * average + 0.85 * second, rel=1e-5)
    assert runner.average is None

    # What is logged is that of the last turn that was taken, counts are those of all.
    assert [each["turn"] for each in logged] == [3.0] * 4
    assert [each["turns"] for each in logged] == [count * accumulation for count in (3, 2, 3, 2)]
    assert [each.get("walker_turn") for each in logged] == [None, None, 2.0, 2.0]
    assert [each["walker_turns"] for each in logged] == [0, 0, accumulation, accumulation]
    assert [each["model_flops"] for each in logged] == [3, 2, 13, 12]
    assert logged[2]["walker_loss"] == pytest.approx(17.75) and "walker_gradient_norm" not in logged[1]
    assert update.compilations == 1


def test_the_metrics_of_a_player_are_those_of_its_last_turn_that_was_taken():
    """Both turns of the only player: the second is skipped, so that the loss is that at 10 and the norm 5.5."""

    class Once(Tutored):
        names, turns = ("runner",), ("runner", "runner")

    state, update = training(Once(), {"runner": 10.0}, {"runner": optax.sgd(0.1)})
    state = state.replace(step=jnp.int32(1))
    state, metrics = update(state, numbers(ROWS))
    values = values_of(metrics)
    assert (values["loss"], values["gradient_norm"], values["turn"]) == pytest.approx((17.75, 5.5, 0.0))
    assert int(state.players["runner"].updates) == 1


def test_learning_rates_follow_the_updates_of_each_player():
    """The schedule of a player ends with its own last update: 4 steps of 3 turns, and of one turn."""
    default = AdamWConfig(learning_rate=1.0, schedule="linear", warmup_steps=0, clip_norm=None, ema_decay=0.5)
    own = AdamWConfig(learning_rate=2.0, schedule="constant", warmup_steps=0)

    class Own(Tutored):
        @property
        def players(self):
            runner, walker = super().players
            return runner, dataclasses.replace(walker, optimizer=own)

    optimizers, decays = player_optimizers(Own(), default, steps=4)
    assert decays == {"runner": 0.5, "walker": None}
    state, update = training(Own(), dict.fromkeys(optimizers, 10.0), optimizers, average_decay=decays)
    rates = learning_rates(Own(), default, steps=4)
    schedule = default.learning_rate_schedule(12)
    assert rates(state) == {"learning_rate": float(schedule(0)), "walker_learning_rate": 2.0}
    for _ in range(2):
        state, _ = update(state, numbers(ROWS))
    assert rates(state) == {"learning_rate": float(schedule(5 - 3)), "walker_learning_rate": 2.0}
    assert float(schedule(11)) > 0.0 == float(schedule(12))


class Draw(Weights):
    """Players that log a number drawn from the key they get."""

    def __init__(self, *names):
        self.names = names

    def loss(self, turn, params, prepared, *, step, rng):
        weight, draw = jnp.sum(prepared.rows.target.mask).astype(jnp.float32), jax.random.uniform(rng)
        logged = {"draw": WeightedSum(draw * weight, weight), "square": WeightedSum(draw**2 * weight, weight)}
        return WeightedSum(params[turn.player]["weight"] * weight, weight), logged


def draws(steps, *, seed=0, first_step=0):
    state, update = training(Draw("model"), {"model": 0.0}, {"model": optax.sgd(0.1)}, seed=seed)
    state = state.replace(step=jnp.int32(first_step))
    found = []
    for _ in range(steps):
        state, metrics = update(state, numbers([[1], [2]]))
        found.append(float(metrics["draw"].mean))
    return found


def test_every_step_draws_from_a_key_of_its_own_which_the_seed_and_the_step_alone_decide():
    found = draws(4)
    assert len(set(found)) == 4
    assert draws(4) == found
    assert draws(2, first_step=2) == found[2:]
    assert not set(draws(4, seed=1)) & set(found)


def test_micro_batches_and_players_draw_from_keys_of_their_own():
    optimizers = dict.fromkeys(("left", "right"), optax.sgd(0.1))
    state, update = training(Draw(*optimizers), dict.fromkeys(optimizers, 0.0), optimizers, accumulation=2)
    _, metrics = update(state, numbers([[1], [2]]))
    for prefix in ("", "right_"):
        # Two draws that differ: the mean of their squares is above the square of their mean.
        assert metrics[f"{prefix}square"].mean > metrics[f"{prefix}draw"].mean ** 2 + 1e-4
    assert metrics["draw"].mean != metrics["right_draw"].mean


class Shared(Weights):
    """Prepares draws that both updates and both players see alike, and counts the steps in a state of its own."""

    names, turns = ("left", "right"), ("left", "right") * 2

    def initial_state(self, params):
        return {"steps": jnp.int32(0), "first": jax.tree.map(jnp.copy, params["left"])}

    def prepare(self, params, state, batch, *, step, rng):
        draws = jax.random.uniform(rng, batch.target.tokens.shape[:1])
        return Prepared(rows=draws, shared=jnp.sum(draws)), state | {"steps": state["steps"] + 1}

    def loss(self, turn, params, prepared, *, step, rng):
        draws, weight = prepared.rows, params[turn.player]["weight"]
        total = WeightedSum(jnp.sum(weight * draws), jnp.float32(len(draws)))
        return total, {"weight": WeightedSum(weight, jnp.ones(())), "shared": WeightedSum(prepared.shared, 1.0)}


def test_what_is_prepared_is_shared_by_the_updates_of_a_step_and_the_objective_keeps_its_state():
    """Gradients are the mean of the draws: two updates of all players by it, each step with draws of its own."""
    optimizers = dict.fromkeys(("left", "right"), optax.sgd(0.5))
    for accumulation in (1, 2):
        state, update = training(Shared(), {"left": 3.0, "right": 1.0}, optimizers, accumulation=accumulation)
        steps = []
        for count in range(1, 3):
            before = float(state.players["left"].params["weight"]), float(state.players["right"].params["weight"])
            state, metrics = update(state, numbers(ROWS))
            moved = before[0] - float(state.players["left"].params["weight"])
            steps.append(moved)
            assert before[1] - float(state.players["right"].params["weight"]) == pytest.approx(moved, rel=1e-5)
            assert moved == pytest.approx(2 * 0.5 * float(metrics["gradient_norm"].mean), rel=1e-5)
            assert float(metrics["weight"].mean) == pytest.approx(before[0] - moved / 2, rel=1e-5)
            # Every micro-batch sees what is shared, whole: the sum of the four draws.
            assert float(metrics["shared"].mean) == pytest.approx(4 * float(metrics["gradient_norm"].mean), rel=1e-5)
            assert int(state.objective["steps"]) == count
            assert float(state.objective["first"]["weight"]) == 3.0
        assert steps[0] != steps[1]


def test_the_state_that_goes_in_is_consumed():
    state, update = training(Mean(), {"model": 10.0}, {"model": optax.adam(0.1)}, average_decay=0.9)
    after, _ = update(state, numbers(ROWS))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_one_program_serves_all_steps():
    objective = Mean()
    state, update = training(objective, {"model": 10.0}, {"model": optax.adam(0.1)})
    state, _ = update(state, numbers(ROWS))
    traced = objective.traced
    for _ in range(3):
        state, _ = update(state, numbers(ROWS))
    assert objective.traced == traced > 0


def test_the_step_knows_no_objective():
    tree = ast.parse(inspect.getsource(step_module))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if ".objectives" in name} == {"seq2seq_jax.objectives.objective"}


PAIRS = random_pairs(np.random.default_rng(0), (5, 2, 7, 3, 4), (4, 6, 1, 3, 8), VOCABULARY)
MODEL_ROWS = batch([[PAIRS[0], PAIRS[1]], [PAIRS[2]], [PAIRS[3]], [PAIRS[4]]], 12, 12, VOCABULARY)


def model_training(*, dropout=0.0, accumulation=1, optimizer=None, average_decay=None):
    rates = dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout"), dropout)
    model = transformer(num_layers=1, **rates).build(VOCABULARY)
    objective = MaximumLikelihoodConfig().build(model)
    optimizers = {"model": optax.sgd(0.5, momentum=0.9) if optimizer is None else optimizer}
    mesh = one_device()
    average_decays = {"model": average_decay}
    build, layout = initial_state(objective, optimizers, average_decays=average_decays, seed=0, mesh=mesh)
    update = build_update(
        objective,
        optimizers,
        accumulation=accumulation,
        average_decays=average_decays,
        seed=0,
        mesh=mesh,
        layout=layout,
    )
    return build, update, layout, objective


@functools.cache
def losses_and_params(**settings):
    """Of three updates, twice."""
    build, update, _, _ = model_training(**settings)
    runs = []
    for _ in range(2):
        state, losses = build(), []
        for _ in range(3):
            state, metrics = update(state, MODEL_ROWS)
            losses.append(float(metrics["loss"].mean))
        runs.append((losses, state.players["model"].params))
    return runs


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_changes_no_number_of_a_model(accumulation):
    (losses, params), _ = losses_and_params()
    assert losses[2] < losses[0] - 0.1
    (found_losses, found), _ = losses_and_params(accumulation=accumulation)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-6)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6), found, params)


def test_a_run_with_dropout_repeats_itself_bit_by_bit():
    (losses, params), (again, same) = losses_and_params(dropout=0.3)
    assert again == losses
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert abs(losses[0] - losses_and_params()[0][0][0]) > 1e-3


def test_the_layout_is_that_of_the_state():
    build, _, layout, _ = model_training(optimizer=optax.adafactor(0.1, min_dim_size_to_factor=8), average_decay=0.9)
    state = build()
    described, real = jax.tree.leaves(layout), jax.tree.leaves(state)
    assert len(described) == len(real) > 20
    for shape, leaf in zip(described, real, strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)
    player = state.players["model"]
    jax.tree.map(np.testing.assert_array_equal, player.average, player.params)


def test_donation_is_used_throughout_a_model():
    """Adafactor's factored moments and the average too: a buffer that was not usable would only be warned of."""
    build, update, _, _ = model_training(
        accumulation=2, optimizer=optax.adafactor(0.1, min_dim_size_to_factor=8), average_decay=0.9
    )
    state = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update(state, MODEL_ROWS)
    # One number stands in for the moments that a parameter does not have; it is not read, so not consumed.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state) if leaf.shape != (1,))


def test_initial_parameters_follow_from_the_seed_and_differ_between_players():
    mesh = one_device()

    class Drawn(Draw):
        def initialize(self, key):
            return {"weight": jax.random.normal(key, (3,))}

    def weights(seed):
        optimizers = dict.fromkeys(("left", "right"), optax.sgd(0.1))
        build, _ = initial_state(
            Drawn(*optimizers), optimizers, average_decays=dict.fromkeys(optimizers), seed=seed, mesh=mesh
        )
        return [tuple(player.params["weight"].tolist()) for player in build().players.values()]

    left, right = weights(0)
    assert left != right
    assert weights(0) == [left, right]
    assert not set(weights(1)) & {left, right}


def test_the_loss_without_training_has_no_dropout():
    _, _, layout, objective = model_training(dropout=0.5)
    compute_loss = build_loss(objective.evaluate, mesh=one_device(), layouts={"model": layout.players["model"].params})
    params = parameters(objective.model)
    totals, again = (compute_loss({"model": params}, MODEL_ROWS) for _ in range(2))
    assert float(totals["loss"].sum) == float(again["loss"].sum)
    assert float(totals["loss"].weight) == 22
    logits = jax.jit(objective.model.apply)({"params": params}, MODEL_ROWS)
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), MODEL_ROWS.target.tokens[..., None], axis=-1)
    expected = -np.sum(picked[..., 0] * MODEL_ROWS.target.mask)
    np.testing.assert_allclose(totals["nll"].sum, expected, rtol=1e-5)
