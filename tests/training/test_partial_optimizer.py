"""Parameters that are frozen, for ever or at first, and learning rates of their own: by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.modules.patterns import merged, paths_of
from seq2seq_jax.objectives.objective import Objective, Player, WeightedSum
from seq2seq_jax.optimizers import AdafactorConfig, AdamWConfig, split
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.training.step import build_update, initial_state, player_optimizers

CONSTANT = {"learning_rate": 0.5, "warmup_steps": 0, "schedule": "constant", "clip_norm": None}
PARAMS = {
    "encoder": {
        "layer": {"kernel": jnp.ones((3, 2))},
        "frame": {"norm": {"scale": jnp.ones(2)}, "types": jnp.ones((2, 2))},
    },
    "decoder": {"layer": {"cross": {"kernel": jnp.ones((2, 2))}, "lora_in": jnp.ones((2, 1))}},
    "source_embedding": {"table": jnp.ones((4, 2))},
    "output": {"table": jnp.ones((4, 2))},
}


def without_lora():
    layer = {"cross": PARAMS["decoder"]["layer"]["cross"]}
    return PARAMS | {"decoder": {"layer": layer}}


def updates(config, params, gradients=(1.0,)):
    """The update of each step for gradients that are the same everywhere, and the last state."""
    optimizer = config.build(steps=100)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        trained, frozen = split(optimizer, params)
        step, state = optimizer.update(jax.tree.map(lambda leaf, g=gradient: leaf * 0 + g, trained), state, trained)
        params = merged(frozen, optax.apply_updates(trained, step))
        found.append(step)
    return found, state


def test_what_is_frozen_has_neither_updates_nor_state():
    config = AdamWConfig(frozen=("encoder/*", "!*/norm/*", "*_embedding/table"), **CONSTANT)
    [found], state = updates(config, without_lora())
    assert sorted(paths_of(found)) == ["decoder/layer/cross/kernel", "encoder/frame/norm/scale", "output/table"]
    # Both moments of what is trained: 4 + 2 + 8 numbers; and counts.
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * (4 + 2 + 8)


def test_the_last_pattern_decides():
    config = AdamWConfig(frozen=("!output/table", "*", "!encoder/layer/*"), **CONSTANT)
    [found], _ = updates(config, without_lora())
    assert paths_of(found) == ["encoder/layer/kernel"]


def test_with_lora_nothing_else_is_trained_unless_the_config_says_so():
    assert paths_of(updates(AdamWConfig(**CONSTANT), PARAMS)[0][0]) == ["decoder/layer/lora_in"]
    assert paths_of(updates(AdamWConfig(frozen=(), **CONSTANT), PARAMS)[0][0]) == sorted(paths_of(PARAMS))
    assert paths_of(updates(AdamWConfig(**CONSTANT), without_lora())[0][0]) == sorted(paths_of(without_lora()))


@pytest.mark.parametrize("config", [AdamWConfig, AdafactorConfig])
def test_what_is_frozen_at_first_starts_afterwards_as_in_its_first_step(config):
    """Adam's corrected moments, and Adafactor's decay, are those of a first update."""
    settings = CONSTANT | ({"weight_decay": 0.1} if config is AdamWConfig else {})
    found, _ = updates(config(frozen=("encoder/*=2",), **settings), without_lora(), [1.0, 3.0, 2.0, 5.0])
    alone, _ = updates(config(**settings), without_lora(), [2.0, 5.0])
    for step in (0, 1):
        assert not np.any(found[step]["encoder"]["layer"]["kernel"])
        assert np.all(found[step]["output"]["table"] != 0)
    for step in (0, 1):
        np.testing.assert_array_equal(
            found[2 + step]["encoder"]["layer"]["kernel"], alone[step]["encoder"]["layer"]["kernel"]
        )


def test_what_is_frozen_at_first_follows_the_schedule_of_the_others():
    """Warm-up of 4 updates to 0.5: the third has three quarters of it. Adam's first update is the sign."""
    settings = CONSTANT | {"warmup_steps": 4}
    found, _ = updates(AdamWConfig(frozen=("encoder/*=2",), **settings), without_lora(), [1.0] * 3)
    np.testing.assert_allclose(found[2]["encoder"]["layer"]["kernel"], -0.5 * 3 / 4, rtol=1e-5)


def test_clipping_does_not_count_gradients_of_what_is_frozen_at_first():
    """Gradients of 1: 4 + 8 of them at first, later 4 + 8 + 6 + 2 + 4 + 8, of a norm clipped to 1; epsilon shows."""
    settings = CONSTANT | {"clip_norm": 1.0, "epsilon": 1.0, "beta1": 0.0, "beta2": 0.0}
    found, _ = updates(
        AdamWConfig(frozen=("encoder/*=1", "source_embedding/*=1"), **settings), without_lora(), [1.0, 1.0]
    )
    for step, numbers in enumerate((12, 32)):
        gradient = numbers**-0.5
        expected = -0.5 * gradient / (gradient + 1.0)
        np.testing.assert_allclose(found[step]["output"]["table"], expected, rtol=1e-5)


def test_learning_rates_by_pattern_and_by_layer():
    config = AdamWConfig(learning_rates=("decoder/*=4", "*/cross/*=10"), layer_decay=0.5, **CONSTANT)
    [found], _ = updates(config, without_lora())
    factors = jax.tree.map(lambda leaf: np.asarray(leaf) / -0.5, found)
    np.testing.assert_allclose(factors["encoder"]["layer"]["kernel"], [[0.25] * 2, [0.5] * 2, [1.0] * 2], rtol=1e-5)
    np.testing.assert_allclose(factors["encoder"]["frame"]["norm"]["scale"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(factors["encoder"]["frame"]["types"], 0.125, rtol=1e-5)
    np.testing.assert_allclose(factors["source_embedding"]["table"], 0.125, rtol=1e-5)
    np.testing.assert_allclose(factors["decoder"]["layer"]["cross"]["kernel"], [[5.0] * 2, [10.0] * 2], rtol=1e-5)
    np.testing.assert_allclose(factors["output"]["table"], 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("coder/*",)}, "optimizer.frozen has 'coder/*', which no parameter matches; there are 6, such as"),
        ({"frozen": ("*",)}, "optimizer.frozen = * leaves no parameter to train"),
        ({"learning_rates": ("crossing=2",)}, "optimizer.learning_rates has 'crossing', which no parameter matches"),
    ],
)
def test_patterns_that_say_nothing_are_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        AdamWConfig(**settings).build(steps=1).init(without_lora())
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("encoder/*=0",)}, "encoder/*=0: expected a whole number of updates"),
        ({"frozen": ("encoder/*=nan",)}, "expected a whole number of updates"),
        ({"frozen": ("!encoder/*=5",)}, "none behind a pattern with !"),
        ({"frozen": ("encoder/*=many",)}, "'many' is no number"),
        ({"frozen": ("",)}, "optimizer.frozen[0] is empty"),
        ({"frozen": ("!",)}, "expected a pattern of parameters"),
        ({"learning_rates": ("encoder/*",)}, "expected PATTERN=FACTOR"),
        ({"learning_rates": ("encoder/*=0",)}, "expected PATTERN=FACTOR"),
        ({"layer_decay": 0.0}, "optimizer.layer_decay must lie in (0, 1]"),
        ({"layer_decay": 1.5}, "optimizer.layer_decay must lie in (0, 1]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        AdamWConfig(**settings)
    assert message in str(caught.value)


class Two(Objective):
    """One player with two numbers, whose loss is their product with the mean of the tokens; and another player."""

    @property
    def players(self):
        return Player(name="model", initialize=self.initialize), Player(name="critic", initialize=self.of_critic)

    def initialize(self, key):
        return {"a": {"kernel": jnp.float32(2.0)}, "b": {"kernel": jnp.float32(3.0)}}

    def of_critic(self, key):
        return {"weight": jnp.float32(1.0)}

    def loss(self, turn, params, prepared, *, step, rng):
        mask = prepared.rows.target.mask
        own = params[turn.player]
        value = own["a"]["kernel"] * own["b"]["kernel"] if turn.player == "model" else own["weight"]
        return WeightedSum(value * jnp.sum(mask), jnp.sum(mask).astype(jnp.float32)), {}

    def turn_flops(self, turn, prepared):
        return jnp.float32(1.0)

    def work(self, rows, source, target):
        raise NotImplementedError


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_step_leaves_what_is_frozen_bit_for_bit_and_averages_the_rest(accumulation):
    """Patterns are those of the first player; the other one is trained whole."""
    objective, mesh = Two(), MeshConfig().build(jax.devices()[:1])
    config = AdamWConfig(frozen=("b/*",), ema_decay=0.5, weight_decay=0.5, **CONSTANT)
    optimizers, decays = player_optimizers(objective, config, steps=9)
    build, layout = initial_state(objective, optimizers, average_decays=decays, seed=0, mesh=mesh)
    update = build_update(
        objective, optimizers, accumulation=accumulation, average_decays=decays, seed=0, mesh=mesh, layout=layout
    )
    tokens = np.ones((2, 3), np.int32)
    rows = TokenRows(tokens=tokens, segment_ids=tokens, positions=np.zeros_like(tokens))
    state = build()
    for _ in range(3):
        state, metrics = update(state, Batch(source=rows, target=rows))
    model = state.players["model"]
    assert model.params["b"]["kernel"] == 3.0 and model.average["b"]["kernel"] == 3.0
    # 2 -> 1 -> 0.25 -> -0.3125, each less 0.5 (1 + 0.5 value); averaged with decays of 1/10, 2/11 and 1/4.
    assert float(model.params["a"]["kernel"]) == pytest.approx(-0.3125, rel=1e-5)
    averages = 0.1 * 2 + 0.9 * 1
    averages = 2 / 11 * averages + 9 / 11 * 0.25
    assert float(model.average["a"]["kernel"]) == pytest.approx(0.25 * averages - 0.75 * 0.3125, rel=1e-4)
    assert state.players["critic"].params["weight"] < 0.5
    # The gradient of `a` alone: b.
    assert float(metrics["gradient_norm"].mean) == pytest.approx(3.0)
