"""Adversarial training: gradients by enumeration of all texts of a tiny policy on two sources, turns, the replay
buffer, resuming, and what records say of the players.
"""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters, recurrent
from batches import batch
from tiny_policy import LIMIT, TEXTS, TINY, assert_close, given_samples

from seq2seq_jax.batch import one_token_batch
from seq2seq_jax.discriminators.causal import CausalDiscriminatorConfig
from seq2seq_jax.discriminators.discriminator import logits_of_texts
from seq2seq_jax.discriminators.losses import Contrastive, Hinge, Logistic, Relativistic, Wasserstein
from seq2seq_jax.discriminators.two_towers import PooledConvolutionConfig, TwoTowersConfig
from seq2seq_jax.objectives.adversarial import Adversarial, AdversarialConfig, AdversarialRows
from seq2seq_jax.objectives.adversarial_measures import adversarial_warnings, calibration_error, distinct_pairs
from seq2seq_jax.objectives.adversarial_rewards import reward_of_logits
from seq2seq_jax.objectives.estimators import (
    GroupNormalized,
    ImportanceWeighted,
    LeaveOneOut,
    MinimumRisk,
    Reinforce,
    SelfCritical,
)
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Turn, values_of
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.objectives.replay import Replay
from seq2seq_jax.optimizers import AdamWConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import build_update, initial_state, player_optimizers

SOURCES = [[3, 4, 3, 2], [4, 2]]
REFERENCES = [[4, 4, 2], [3, 2]]
PLAIN = Reinforce(baseline="none", baseline_decay=None)
MODEL = recurrent(model_dim=8, decoder={"hidden_dim": 8, "attention": None}, encoder={"hidden_dim": 4})
CAUSAL = CausalDiscriminatorConfig()
SMALL = PooledConvolutionConfig(model_dim=4, widths=(1, 2), filters=(4, 4), dropout=0.1)
SETTINGS = {
    "reward": None,
    "minimum_length": 0,
    "maximum_length_ratio": 0.0,
    "maximum_length_extra": LIMIT,
    "discriminator": CAUSAL,
}


def tiny(estimator=PLAIN, *, samples_per_source=1, reward=None, **settings) -> Adversarial:
    """The objective for a policy over TEXTS."""
    config = AdversarialConfig(estimator=estimator, samples_per_source=samples_per_source, **SETTINGS | settings)
    return Adversarial(config, MODEL.build(TINY), reward)


@functools.cache
def tiny_params():
    objective = tiny()
    model = random_parameters(objective.model, one_token_batch(), seed=3)
    judge = random_parameters(objective.discriminator.module, one_token_batch(), seed=4)
    # Noise of this size makes a policy that is neither flat nor certain, and logits of about 1.
    return {
        "model": jax.tree.map(lambda leaf: 1.5 * leaf, model),
        "discriminator": jax.tree.map(lambda x: 3 * x, judge),
    }


def rows_of(texts_by_source):
    """Rows of each source with texts as targets: [(source, text), ...]."""
    rows = [[(SOURCES[source], list(text))] for source, text in texts_by_source]
    return jax.tree.map(jnp.asarray, batch(rows, 4, LIMIT, TINY))


ALL = rows_of([(source, text) for source in range(2) for text in TEXTS])
"""All texts of the first source, then of the second."""


def log_probabilities(params):
    """log π of ALL, from the logits of the model alone."""
    logits = MODEL.build(TINY).apply({"params": params}, ALL)
    logits = jnp.where(jnp.isin(jnp.arange(5), jnp.array([TINY.pad_id, TINY.bos_id])), -jnp.inf, logits)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), ALL.target.tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(ALL.target.mask, picked, 0.0), axis=1)


@functools.cache
def exact_parts():
    """Of ALL: π, and the discriminator's logit at each position."""
    params, judge = tiny_params(), tiny().discriminator

    @jax.jit
    def find(params):
        own = params["discriminator"]
        return jnp.exp(log_probabilities(params["model"])), judge.logits(own, ALL.target, judge.encode(own, ALL.source))

    probabilities, logits = find(params)
    np.testing.assert_allclose(np.asarray(probabilities).reshape(2, -1).sum(axis=1), 1.0, atol=1e-5)
    return np.asarray(probabilities, np.float64), np.asarray(logits)


def exact_gradient(rewards):
    """∇ Σ_x Σ_y π(y | x) R(x, y)."""

    @jax.jit
    def gradient(params):
        return jax.grad(lambda own: jnp.sum(jnp.exp(log_probabilities(own)) * jnp.asarray(rewards, jnp.float32)))(
            params
        )

    return gradient(tiny_params()["model"])


def mean_estimate(objective, *, rng=None, tuples=None):
    """Minus the estimator's gradient, averaged over all tuples of samples of each source by their probability."""
    number = objective.config.samples_per_source
    probabilities, _ = exact_parts()
    indices = list(itertools.product(range(len(TEXTS)), repeat=number))
    weights = np.array(
        [np.prod([probabilities[len(TEXTS) * s + index] for index in each]) for s in range(2) for each in indices]
    )
    rows = rows_of([(source, REFERENCES[source]) for source in range(2) for _ in indices])
    samples = given_samples([[TEXTS[index] for index in each] for each in indices] * 2)

    @jax.jit
    def gradient(params):
        memory = objective.model.apply({"params": params["model"]}, rows.source, deterministic=True, method="encode")
        drawn = samples
        if objective.config.estimator.compares_with_greedy:
            greedy = objective.draw(params["model"], memory, rows.source, rng=jax.random.key(0))
            drawn = jax.tree.map(lambda left, right: jnp.concatenate([left[:, :1], right], 1), greedy, samples)
        state = objective.initial_state(params)
        experience = objective.experience(params, state, rows, memory, drawn, rng=rng)[0].rows

        def loss(own):
            return jnp.sum(jnp.asarray(weights, jnp.float32) * objective.losses(own, experience, None)[0])

        return jax.grad(loss)(params["model"])

    return jax.tree.map(jnp.negative, gradient(tiny_params()))


def reward_of(kind, logits):
    """By hand."""
    probability = 1.0 / (1.0 + np.exp(-logits))
    return {
        "logit": logits,
        "probability": probability,
        "log_probability": np.log(probability),
        "minus_log_complement": -np.log(1.0 - probability),
        "odds": probability / (1.0 - probability),
    }[kind]


LAST = np.asarray(ALL.target.mask).sum(axis=1) - 1
PREFIXES = {"train_prefixes": True}
FORMS = {
    "sequence, leave one out": (LeaveOneOut(), 2, "odds", {}),
    "sequence, self-critical": (SelfCritical(), 1, "probability", {}),
    "potential": (PLAIN, 1, "log_probability", PREFIXES | {"reward_form": "potential"}),
    "potential, learned": (
        Reinforce(baseline="learned", baseline_decay=None),
        1,
        "minus_log_complement",
        PREFIXES | {"reward_form": "potential"},
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", FORMS)
def test_the_mean_gradient_is_that_of_the_expected_reward(name):
    estimator, number, kind, settings = FORMS[name]
    objective = tiny(estimator, samples_per_source=number, discriminator_reward=kind, **settings)
    if estimator.baseline == "learned":
        tiny_params()["baseline"] = {"kernel": jnp.linspace(-1.0, 1.0, 8), "bias": jnp.float32(0.4)}
    _, logits = exact_parts()
    rewards = reward_of(kind, logits[np.arange(len(LAST)), LAST])
    assert_close(mean_estimate(objective), exact_gradient(rewards), tolerance=3e-5)


def test_dense_rewards_are_those_of_all_prefixes():
    """Undiscounted, the expected sum over the prefixes of a text, in the gradient; discounted, by hand."""
    objective = tiny(reward_form="dense", **PREFIXES)
    _, logits = exact_parts()
    assert_close(mean_estimate(objective), exact_gradient(logits.sum(axis=1)), tolerance=3e-5)
    discounted = tiny(reward_form="dense", discount=0.5, **PREFIXES)
    rows = rows_of([(0, REFERENCES[0])])
    memory = discounted.model.apply(
        {"params": tiny_params()["model"]}, rows.source, deterministic=True, method="encode"
    )
    drawn = given_samples([[TEXTS[5]]])
    found = discounted.experience(tiny_params(), discounted.initial_state({}), rows, memory, drawn)[0].rows.returns
    d = logits[5]
    np.testing.assert_allclose(found[0, 0], [d[0] + d[1] / 2 + d[2] / 4, d[1] + d[2] / 2, d[2]], rtol=1e-5)


def test_potentials_telescope():
    """The rewards of single tokens, differences of returns, sum to the whole reward minus that of a logit of 0."""
    objective = tiny(reward_form="potential", discriminator_reward="probability", **PREFIXES)
    rows = rows_of([(source, REFERENCES[source]) for source in range(2) for _ in TEXTS])
    memory = objective.model.apply({"params": tiny_params()["model"]}, rows.source, deterministic=True, method="encode")
    drawn = given_samples([[text] for text in TEXTS] * 2)
    found = objective.experience(tiny_params(), objective.initial_state({}), rows, memory, drawn)[0].rows
    returns = np.asarray(found.returns)[:, 0]
    following = np.concatenate([returns[:, 1:], np.zeros((len(returns), 1))], axis=1)
    following[np.arange(len(LAST)), LAST] = 0.0
    whole = reward_of("probability", exact_parts()[1][np.arange(len(LAST)), LAST])
    each = np.where(ALL.target.mask, returns - following, 0.0)
    np.testing.assert_allclose(each.sum(axis=1), whole - 0.5, atol=1e-5)


def prefixes_match(prefix):
    """Of each text of one source, whether it begins with a prefix."""
    return np.array([text[: len(prefix)] == tuple(prefix) for text in TEXTS])


@pytest.mark.long
def test_rollouts_value_prefixes_as_all_continuations_do():
    """One rollout has the reward of a text that begins so, many have the expected one, within 4 standard errors."""
    probabilities, logits = exact_parts()
    rewards = logits[np.arange(len(LAST)), LAST].reshape(2, -1)
    probabilities = probabilities.reshape(2, -1)
    repetitions = 500
    one = tiny(reward_form="rollouts", rollouts=1)
    rows = rows_of([(source, REFERENCES[source]) for source in range(2) for _ in range(repetitions)])
    text = next(text for text in TEXTS if len(text) == LIMIT and TINY.eos_id not in text)
    drawn = given_samples([[text]] * len(rows.source.tokens))

    @jax.jit
    def values(params):
        memory = one.model.apply({"params": params["model"]}, rows.source, deterministic=True, method="encode")
        prepared, _ = one.experience(params, one.initial_state(params), rows, memory, drawn, rng=jax.random.key(1))
        return prepared.rows.returns[:, 0]

    found = np.asarray(values(tiny_params()), np.float64).reshape(2, repetitions, LIMIT)
    for source in range(2):
        for length in range(1, LIMIT + 1):
            match = prefixes_match(text[:length])
            own = found[source, :, length - 1]
            assert np.max(np.min(np.abs(own[:, None] - rewards[source][match]), axis=1)) < 1e-5
            weights = probabilities[source] * match / np.sum(probabilities[source] * match)
            mean = np.sum(weights * rewards[source])
            error = np.sqrt(np.sum(weights * (rewards[source] - mean) ** 2) / repetitions)
            assert abs(own.mean() - mean) < 4 * error + 1e-5
            assert length == LIMIT or error > 1e-4


@pytest.mark.long
def test_the_mean_gradient_with_rollouts_is_the_exact_one():
    """In every coordinate within 4.5 standard errors of 24 independent sets of rollouts for all texts."""
    objective = tiny(reward_form="rollouts", rollouts=8)
    _, logits = exact_parts()
    expected = exact_gradient(logits[np.arange(len(LAST)), LAST])
    probabilities, _ = exact_parts()
    rows = rows_of([(source, REFERENCES[source]) for source in range(2) for _ in TEXTS])
    samples = given_samples([[text] for text in TEXTS] * 2)

    @jax.jit
    def gradients(params, keys):
        memory = objective.model.apply({"params": params["model"]}, rows.source, deterministic=True, method="encode")

        def of_key(key):
            state = objective.initial_state(params)
            experience = objective.experience(params, state, rows, memory, samples, rng=key)[0].rows
            weights = jnp.asarray(probabilities, jnp.float32)
            return jax.grad(lambda own: -jnp.sum(weights * objective.losses(own, experience, None)[0]))(params["model"])

        return jax.lax.map(of_key, keys)

    found = gradients(tiny_params(), jax.random.split(jax.random.key(3), 24))
    for own, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        own = np.asarray(own, np.float64)
        errors = own.std(axis=0, ddof=1) / np.sqrt(len(own))
        assert np.all(np.abs(own.mean(axis=0) - exact) < 4.5 * errors + 1e-4)


def test_importance_weights_by_hand():
    found = ImportanceWeighted().advantages(jnp.log(jnp.array([[[1.0], [2.0], [5.0]]])), greedy=None, baseline=None)
    np.testing.assert_allclose(found[0, :, 0], [3 / 8 - 1, 6 / 8 - 1, 15 / 8 - 1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["logit", "odds", "minus_log_complement", "probability", "log_probability"])
def test_a_reward_follows_the_divergence_that_is_documented(kind):
    p = jnp.array([0.5, 0.2, 0.2, 0.1])
    of_logit = functools.partial(reward_of_logits, kind=kind)

    def divergence(logits):
        q = jax.nn.softmax(logits)
        kl = lambda a, b: jnp.sum(a * jnp.log(a / b))  # noqa: E731
        m = (p + q) / 2
        return {
            "logit": kl(q, p),
            "odds": kl(p, q),
            "minus_log_complement": kl(p, m) + kl(q, m),
            "probability": kl(p, m),
            "log_probability": kl(q, p) - kl(p, m) - kl(q, m),
        }[kind]

    def reward(logits):
        q = jax.nn.softmax(logits)
        return jnp.sum(q * of_logit(jnp.log(p / jax.lax.stop_gradient(q))))

    logits = jnp.array([0.3, -0.8, 1.0, 0.1])
    expected = -jax.grad(divergence)(logits)
    np.testing.assert_allclose(jax.grad(reward)(logits), expected, atol=1e-6)
    assert float(jnp.max(jnp.abs(expected))) > 1e-2


def test_the_rewards_are_mixed_and_logged_apart():
    metric = lambda tokens, example: (jnp.sum(tokens, axis=-1) / 10.0, {"sum": jnp.sum(tokens, axis=-1) / 10.0})  # noqa: E731
    objective = tiny(reward=metric, metric_weight=0.0, discriminator_weight=0.5)
    object.__setattr__(objective.config, "metric_weight", 2.0)
    rows = rows_of([(0, REFERENCES[0])])
    memory = objective.model.apply({"params": tiny_params()["model"]}, rows.source, deterministic=True, method="encode")
    drawn = given_samples([[TEXTS[5]]])
    found = objective.experience(tiny_params(), objective.initial_state({}), rows, memory, drawn)[0].rows
    logit = exact_parts()[1][5, LAST[5]]
    assert float(found.rewards[0, 0]) == pytest.approx(2.0 * sum(TEXTS[5]) / 10.0 + 0.5 * logit, rel=1e-5)
    assert set(found.metrics) == {"sum", "metric", "discriminator", "logit"}


CONTROLS = {"constant": lambda r: np.ones_like(r), "shuffled": lambda r: np.roll(r, -1, axis=0)}


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_replace_the_reward_and_keep_what_is_logged(control):
    objectives = tiny(), tiny(reward_control=control)
    rows = rows_of([(source, REFERENCES[source]) for source in (0, 1, 0)])
    memory = objectives[0].model.apply(
        {"params": tiny_params()["model"]}, rows.source, deterministic=True, method="encode"
    )
    drawn = given_samples([[TEXTS[5]], [TEXTS[9]], [TEXTS[2]]])
    plain, found = (
        each.experience(tiny_params(), each.initial_state({}), rows, memory, drawn)[0].rows for each in objectives
    )
    np.testing.assert_allclose(found.rewards, CONTROLS[control](np.asarray(plain.rewards)), rtol=1e-6)
    np.testing.assert_array_equal(found.metrics["discriminator"], plain.metrics["discriminator"])


LOSSES = {
    "logistic": {
        "discriminator_loss": Logistic(smoothing=0.1),
        "r1_weight": 0.5,
        "replay_size": 4,
        "replay_length": 4,
        "replay_fraction": 0.5,
    },
    "prefixes": {"train_prefixes": True, "discriminator_loss": Hinge()},
    "wasserstein": {"discriminator_loss": Wasserstein()},
    "contrastive": {"discriminator_loss": Contrastive(), "discriminator_samples": 2},
}


@pytest.mark.long
@pytest.mark.parametrize("name", LOSSES)
def test_no_player_learns_from_the_gradient_of_the_other(name):
    objective = tiny(LeaveOneOut(), samples_per_source=2, entropy_weight=0.1, likelihood_weight=0.1, **LOSSES[name])
    rows = rows_of([(source, REFERENCES[source]) for source in (0, 1, 0)])

    @jax.jit
    def gradients(params):
        prepared, _ = objective.prepare(
            params, objective.initial_state(params), rows, step=jnp.int32(0), rng=jax.random.key(0)
        )

        def loss(everyone, player):
            turn = Turn(0, player)
            return objective.loss(turn, everyone, prepared, step=jnp.int32(0), rng=jax.random.key(1))[0].sum

        return {player: jax.grad(loss)(params, player) for player in ("model", "discriminator")}

    params = {name: tiny_params()[name] for name in ("model", "discriminator")}
    for player, found in gradients(params).items():
        for other, part in found.items():
            largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(part))
            assert largest > 1e-4 if other == player else largest == 0.0


def test_the_discriminators_loss_by_hand():
    """Of whole texts, and the mean over prefixes; half of it the reference's."""
    rows = rows_of([(0, TEXTS[5])])
    _, logits = exact_parts()
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    drawn = given_samples([[TEXTS[9], TEXTS[2]]])
    for settings, of_text in (
        ({}, lambda values, index: values[LAST[index]]),
        (PREFIXES, lambda values, index: values[: LAST[index] + 1].mean()),
    ):
        objective = tiny(LeaveOneOut(), samples_per_source=2, discriminator_samples=2, **settings)
        memory = objective.model.apply(
            {"params": tiny_params()["model"]}, rows.source, deterministic=True, method="encode"
        )
        experience = objective.experience(tiny_params(), objective.initial_state({}), rows, memory, drawn)[0].rows
        found, _ = objective._discriminator_loss(
            tiny_params()["discriminator"], AdversarialRows(experience=experience, replayed=None), None
        )
        fakes = [of_text(softplus(logits[index]), index) for index in (9, 2)]
        expected = 0.5 * of_text(softplus(-logits[5]), 5) + 0.5 * np.mean(fakes)
        assert float(found.mean) == pytest.approx(expected, rel=1e-4)


def test_the_replay_buffer_keeps_pairs_of_earlier_steps():
    replay = Replay(size=3, length=3, pad_id=0)
    buffer = replay.empty()
    seen = []
    for step, text in enumerate((5, 9, 2)):
        # The first source is longer than what is kept.
        rows = rows_of([(0, REFERENCES[0]), (1, REFERENCES[1])])
        samples = given_samples([[TEXTS[text]], [TEXTS[text]]])
        replayed = replay.draw(buffer, 2, rng=jax.random.key(step))
        buffer = replay.write(buffer, rows, samples.tokens[:, 0], samples.mask[:, 0])
        for source, target in zip(replayed.source.tokens, replayed.target.tokens, strict=True):
            target = tuple(token for token in np.asarray(target).tolist() if token)
            source = [token for token in np.asarray(source).tolist() if token]
            assert (source == SOURCES[1] and target in [TEXTS[each] for each in seen]) or (source, target) == ([], ())
        seen.append(text)
    kept = [tuple(token for token in row if token) for row in np.asarray(buffer["target"]).tolist()]
    assert sorted(kept) == sorted([TEXTS[9], (), TEXTS[2]]) and int(buffer["count"]) == 6


def test_distinct_pairs_by_hand():
    tokens = jnp.array([[[5, 6, 5, 6], [5, 6, 7, 0]]])
    mask = tokens > 0
    assert float(distinct_pairs(tokens, mask).mean) == pytest.approx(3 / 5)


def test_the_calibration_error_by_hand():
    """References at 0.85 and 0.15, samples at 0.85 and 0.25: bins of weight 1/2, 1/4, 1/4."""
    logit = lambda x: np.log(x / (1 - x))  # noqa: E731
    real, fake = jnp.array([logit(0.85), logit(0.15)]), jnp.array([[logit(0.85)], [logit(0.25)]])
    found = calibration_error(real, fake, jnp.array([True, True]))
    assert float(found) == pytest.approx(abs(0.5 * 0.85 - 0.25) + 0.25 * 0.85 + 0.25 * 0.25, rel=1e-5)


def record(**figures):
    return {
        "discriminator_accuracy": 0.7,
        "reward_discriminator": 0.0,
        "reward_metric": 0.3,
        "distinct_2": 0.8,
    } | figures


WARNED = {
    "discriminator": [record(discriminator_accuracy=0.505)] * 6,
    "reward": [record(reward_discriminator=0.1 * step, reward_metric=0.3 - 0.01 * step) for step in range(6)],
    "diversity": [record(), record(distinct_2=0.39)],
}


@pytest.mark.parametrize("name", WARNED)
def test_warnings_say_what_goes_wrong(name):
    assert set(adversarial_warnings(WARNED[name])) == {name}
    assert not adversarial_warnings(WARNED[name][:-1])
    assert not adversarial_warnings([record()] * 9)


def test_a_perfect_discriminator_is_warned_of():
    found = adversarial_warnings([record(discriminator_accuracy=0.999)] * 6, accuracy_ceiling=0.995)
    assert "lower objective.accuracy_ceiling" in found["discriminator"]


MISTAKES = {
    "rollouts must be set": {"reward_form": "rollouts"},
    "at least 1 text for each prefix": {"reward_form": "rollouts", "rollouts": 0},
    "never trained": {"policy_weight": 0.0},
    "at least 1, not 0": {"generator_every": 0},
    "no sample has a reward": {"discriminator_weight": 0.0},
    "knows nothing of": {"reward_form": "potential"},
    "needs a causal": {"train_prefixes": True, "discriminator": TwoTowersConfig()},
    "lies above accuracy_ceiling": {"target_accuracy": 0.9, "accuracy_ceiling": 0.8},
    "between 0.5 and 1": {"target_accuracy": 1.0},
    "needs logits": {
        "estimator": ImportanceWeighted(),
        "samples_per_source": 2,
        "discriminator_reward": "odds",
    },
    "has none": {"discriminator_reward": "probability", "discriminator_loss": Hinge()},
    "whole texts of one source": {"discriminator_loss": Relativistic(), "train_prefixes": True},
    "must be set with a replay_size": {"replay_size": 3},
    "weights whole texts": {
        "estimator": MinimumRisk(),
        "samples_per_source": 2,
        "reward_form": "rollouts",
        "rollouts": 1,
    },
    "leaves no gradient": {"estimator": LeaveOneOut(), "samples_per_source": 2, "reward_control": "constant"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_of_a_config_are_one_line(message):
    with pytest.raises(ValueError) as raised:
        AdversarialConfig(**SETTINGS | {"estimator": PLAIN, "samples_per_source": 1} | MISTAKES[message])
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_constant_reward_needs_an_estimator_without_baseline():
    with pytest.raises(ValueError, match="leaves no gradient"):
        PolicyGradientConfig(estimator=GroupNormalized(), reward_control="constant")
    PolicyGradientConfig(estimator=PLAIN, reward_control="constant")


STEPS = 10


class Trainer:
    """Both players, with a start, a ratio, a ceiling and a replay buffer."""

    def __init__(self, config, *, learning_rate=0.02):
        optimizer = AdamWConfig(learning_rate=learning_rate, warmup_steps=1)
        self.objective = config.build(MODEL.build(TINY))
        self.mesh = MeshConfig().build(jax.devices()[:1])
        optimizers, decays = player_optimizers(self.objective, optimizer, steps=STEPS)
        self.initial_state, self.layout = initial_state(
            self.objective, optimizers, average_decays=decays, seed=0, mesh=self.mesh
        )
        self.update = build_update(
            self.objective,
            optimizers,
            accumulation=1,
            average_decays=decays,
            seed=0,
            mesh=self.mesh,
            layout=self.layout,
        )

    def train(self, state, steps):
        """The state after the steps, and the metrics of each."""
        found = []
        for step in steps:
            rng = np.random.default_rng(step)
            pairs = [(int(rng.integers(0, 2)), TEXTS[rng.integers(7, 9)]) for _ in range(8)]
            rows = jax.device_put(rows_of(pairs), batch_sharding(self.mesh))
            state, metrics = self.update(state, rows)
            found.append(values_of(metrics))
        return state, found


TURNS = AdversarialConfig(
    **SETTINGS
    | {
        "estimator": LeaveOneOut(),
        "samples_per_source": 3,
        "target_accuracy": 0.6,
        "accuracy_ceiling": 0.75,
        "accuracy_decay": 0.8,
        "generator_every": 2,
        "discriminator_updates": 2,
        "discriminator_optimizer": AdamWConfig(learning_rate=0.02, schedule="constant", warmup_steps=0, ema_decay=0.9),
        "replay_size": 16,
        "replay_length": 4,
        "replay_fraction": 0.25,
    }
)


@pytest.fixture(scope="module")
def turns():
    return Trainer(TURNS)


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(jax.device_get(state))]


@pytest.mark.long
def test_players_take_their_turns_and_resume_bit_by_bit(turns, tmp_path):
    """The discriminator alone until its running accuracy is reached, then the generator in every second step; at the
    ceiling the discriminator waits. Continued from the checkpoint at the switch, nothing differs.
    """
    start = turns.initial_state()
    table = start.players["model"].params["target_embedding"]["table"]
    np.testing.assert_array_equal(start.players["discriminator"].params["model"]["target_embedding"]["table"], table)
    state, found = turns.train(start, range(1))
    steps = 20
    with Checkpoints(tmp_path, keep_latest=steps) as checkpoints:
        for step in range(1, steps):
            if 4 <= step < 12:
                checkpoints.save(state, Progress(step=step))
                checkpoints.wait()
            state, more = turns.train(state, [step])
            found += more
        generator = [bool(each["generator_trained"]) for each in found]
        judge = [bool(each["discriminator_trained"]) for each in found]
        running = [each["discriminator_running_accuracy"] for each in found]
        # The average has half of its weight after four steps.
        reached = next(step for step in range(3, steps) if running[step] >= 0.6)
        assert generator == [step > reached and step % 2 == 0 for step in range(steps)]
        assert judge == [step < reached or running[step] < 0.75 for step in range(steps)]
        switch = generator.index(True)
        assert 4 <= switch < 12 and not all(judge)
        assert int(state.players["model"].updates) == sum(generator)
        assert int(state.players["discriminator"].updates) == 2 * sum(judge)
        assert [("loss" in each) for each in found] == generator
        assert [("discriminator_loss" in each) for each in found] == judge
        restored = checkpoints.restore(switch, turns.layout)
    again, metrics = turns.train(restored, range(switch, steps))
    assert metrics == found[switch:]
    assert bits(again) == bits(state)


def test_it_is_one_program_without_a_callback(turns):
    state = turns.initial_state()
    text = turns.update.lower(state, jax.device_put(rows_of([(0, TEXTS[5])] * 8), batch_sharding(turns.mesh))).as_text()
    assert "callback" not in text


def test_a_target_that_is_not_reached_stops_training(turns):
    reached = {"discriminator_waited": 1000.0, "discriminator_running_accuracy": 0.5812}
    assert "0.581 in objective.target_steps = 1000" in turns.objective.stops(reached)
    assert turns.objective.stops(reached | {"discriminator_waited": 999.0}) is None
    assert tiny().stops(reached) is None


@pytest.mark.long
def test_without_a_policy_it_is_maximum_likelihood_bit_by_bit():
    config = AdversarialConfig(
        **SETTINGS
        | {
            "estimator": LeaveOneOut(),
            "samples_per_source": 2,
            "policy_weight": 0.0,
            "likelihood_weight": 1.0,
            "label_smoothing": 0.1,
            "discriminator": TwoTowersConfig(source=SMALL, target=SMALL, hidden_dim=4),
        }
    )
    one, other = Trainer(config), Trainer(MaximumLikelihoodConfig(label_smoothing=0.1))
    states = [trainer.train(trainer.initial_state(), range(4)) for trainer in (one, other)]
    assert bits(states[0][0].players["model"]) == bits(states[1][0].players["model"])
    assert [each["loss"] for each in states[0][1]] == [each["loss"] for each in states[1][1]]


@pytest.mark.long
def test_a_config_that_must_collapse_is_warned_of():
    """One that trains the generator alone, much too fast, for what a discriminator thinks that never learns."""
    config = AdversarialConfig(
        **SETTINGS
        | {
            "estimator": LeaveOneOut(),
            "samples_per_source": 3,
            "discriminator_optimizer": AdamWConfig(learning_rate=1e-9, schedule="constant", warmup_steps=0),
            "discriminator": TwoTowersConfig(source=SMALL, target=SMALL, hidden_dim=4),
        }
    )
    trainer = Trainer(config, learning_rate=0.1)
    state, names = trainer.initial_state(), set()
    for start in range(0, 200, 20):
        state, found = trainer.train(state, range(start, start + 20))
        names |= set(trainer.objective.warnings(found[-1]))
        if names & {"entropy", "diversity"}:
            return
    pytest.fail(f"no warning of a collapse in 200 steps, but {names}")


def test_evaluation_imports_no_reward_and_has_the_discriminators_accuracy():
    config = dataclasses.replace(TURNS, reward=RewardConfig(function="nowhere:reward", function_weight=1.0))
    assert config.foreign_code == "nowhere:reward"
    objective = config.build_evaluation(MODEL.build(TINY))
    assert [player.name for player in objective.players] == ["model", "discriminator"]
    params = {name: tiny_params()[name] for name in ("model", "discriminator")}
    rows = rows_of([(0, REFERENCES[0]), (1, REFERENCES[1])])
    loss, logged = jax.jit(objective.evaluate)(params, rows)
    assert float(logged["nll"].mean) == pytest.approx(float(loss.mean), rel=1e-6)
    assert 0.0 <= float(logged["discriminator_accuracy"].mean) <= 1.0
    assert float(logged["discriminator_accuracy"].weight) == 2.0


def test_the_logit_of_a_text_is_that_of_its_last_position():
    found = logits_of_texts(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), jnp.array([[1, 1, 0], [0, 0, 0]], bool))
    assert found.tolist() == [2.0, 0.0]


def test_parameters_of_the_discriminator_are_boxed():
    """So that a mesh shards them."""
    params = tiny().discriminator.initialize(jax.random.key(0))
    boxes = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    assert sum(isinstance(leaf, nn.LogicallyPartitioned) for leaf in boxes) > 5
