"""Policy gradients against the exact gradient of the expected reward, enumerated over all texts of a tiny policy."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import pytest
from architectures import (
    ARCHITECTURES,
    VOCABULARY,
    convolutional,
    parameters,
    random_parameters,
    recurrent,
    transformer,
)
from batches import batch, random_pairs, sequence
from speech import MODELS as SPEECH_MODELS
from speech import rows_of_frames
from tiny_policy import LIMIT, TEXTS, TINY, assert_close, given_samples

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.objectives.adversarial import Adversarial, AdversarialConfig
from seq2seq_jax.objectives.cooperative import Cooperative, CooperativeConfig
from seq2seq_jax.objectives.estimators import (
    GroupNormalized,
    LeaveOneOut,
    MinimumRisk,
    Reinforce,
    SelfCritical,
    is_duplicate,
)
from seq2seq_jax.objectives.maximum_likelihood import cross_entropy
from seq2seq_jax.objectives.objective import Prepared, Turn
from seq2seq_jax.objectives.policy_gradient import PolicyGradient, PolicyGradientConfig
from seq2seq_jax.objectives.preference import Preference, PreferenceConfig
from seq2seq_jax.objectives.professor_forcing import ProfessorForcing, ProfessorForcingConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.training.optimizer import AdamWConfig
from seq2seq_jax.training.step import build_update, initial_state

SOURCE = [3, 4, 3, 2]
REFERENCE = [4, 4, 2]


class TableReward:
    """A reward of its own for every text, whether or not it has its EOS token."""

    def __init__(self):
        self.table = jnp.asarray(np.random.default_rng(0).normal(size=5**LIMIT), jnp.float32)

    def __call__(self, hypotheses, references):
        before_end = jnp.cumprod((hypotheses != TINY.eos_id) & (hypotheses != TINY.pad_id), axis=-1)
        weights = 5 ** jnp.arange(hypotheses.shape[-1])
        return self.table[jnp.sum(hypotheses * before_end * weights, axis=-1)], {}


def tiny(estimator, *, samples_per_source, **settings) -> PolicyGradient:
    """The objective for a policy over TEXTS."""
    config = PolicyGradientConfig(
        estimator=estimator,
        samples_per_source=samples_per_source,
        minimum_length=0,
        maximum_length_ratio=0.0,
        maximum_length_extra=LIMIT,
        **settings,
    )
    model = recurrent(model_dim=8, decoder={"hidden_dim": 8, "attention": None}, encoder={"hidden_dim": 4})
    return PolicyGradient(config, model.build(TINY), TableReward())


@functools.cache
def tiny_params():
    objective = tiny(LeaveOneOut(), samples_per_source=2)
    params = {"model": parameters(objective.model, seed=3)}
    # Noise of this size makes a policy that is neither flat nor certain.
    return {"model": jax.tree.map(lambda leaf: 1.5 * leaf, params["model"])}


def rows_of(texts) -> Batch:
    """The same source in every row, each with a text as its target."""
    return batch([[(SOURCE, list(text))] for text in texts], len(SOURCE), LIMIT, TINY)


def log_probabilities(params, objective, texts):
    """log π of each text, from the logits of the model alone."""
    rows = jax.tree.map(jnp.asarray, rows_of(texts))
    logits = objective.model.apply({"params": params}, rows) / objective.config.temperature
    logits = jnp.where(jnp.isin(jnp.arange(5), jnp.array([TINY.pad_id, TINY.bos_id])), -jnp.inf, logits)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), rows.target.tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(rows.target.mask, picked, 0.0), axis=1)


def rewards_of(objective, texts):
    padded = jnp.array([[*text, *[TINY.pad_id] * (LIMIT - len(text))] for text in texts])
    return objective.reward(padded[None], None)[0][0]


@functools.cache
def exact(temperature):
    """π of all texts, and ∇ Σ_y π(y) R(y)."""
    objective = tiny(LeaveOneOut(), samples_per_source=2, temperature=temperature)
    rewards = rewards_of(objective, TEXTS)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        probabilities = jnp.exp(log_probabilities(params, objective, TEXTS))
        return jnp.sum(probabilities * rewards), probabilities

    found, probabilities = gradient(tiny_params()["model"])
    probabilities = np.asarray(probabilities, np.float64)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    return probabilities, found


def exact_gradient(objective):
    return exact(objective.config.temperature)[1]


def mean_estimate(objective, state=None):
    """Minus the estimator's gradient, averaged over all tuples of samples by their probability."""
    params = tiny_params() | {
        player.name: {"kernel": jnp.linspace(-1.0, 1.0, 8), "bias": jnp.float32(0.4)}
        for player in objective.players[1:]
    }
    tuples = list(itertools.product(TEXTS, repeat=objective.config.samples_per_source))
    shares, _ = exact(objective.config.temperature)
    weights = np.array([np.prod([shares[TEXTS.index(text)] for text in each]) for each in tuples])
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    rows = jax.tree.map(jnp.asarray, rows_of([REFERENCE] * len(tuples)))
    samples = given_samples(tuples)

    @jax.jit
    def gradient(params):
        memory = objective.model.apply({"params": params["model"]}, rows.source, deterministic=True, method="encode")
        drawn = samples
        if objective.config.estimator.compares_with_greedy:
            with_greedy = objective.draw(params["model"], memory, rows.source, rng=jax.random.key(0))
            drawn = jax.tree.map(lambda left, right: jnp.concatenate([left[:, :1], right], 1), with_greedy, samples)
        first = state or objective.initial_state(params)
        experience = objective.experience(params, first, rows, memory, drawn)[0].rows

        def loss(own):
            return jnp.sum(jnp.asarray(weights, jnp.float32) * objective.losses(own, experience, None)[0])

        return jax.grad(loss)(params["model"])

    return jax.tree.map(jnp.negative, gradient(params))


def experience_of(objective, params, rows, samples):
    """What is learned from, of samples as if they had been drawn."""

    @jax.jit
    def find(params):
        memory = objective.model.apply({"params": params["model"]}, rows.source, deterministic=True, method="encode")
        return objective.experience(params, {}, rows, memory, samples)[0].rows

    return find(params)


def losses_of(objective, params, prepared, key=None):
    """The loss of each source, and what is logged with it."""
    return jax.jit(objective.losses)(params, prepared, key)


UNBIASED = {
    "reinforce": (Reinforce(baseline="none", baseline_decay=None), 1, {}),
    "reinforce of two": (Reinforce(baseline="none", baseline_decay=None), 2, {}),
    "reinforce, moving average": (Reinforce(), 1, {}),
    "reinforce, learned": (Reinforce(baseline="learned", baseline_decay=None), 1, {}),
    "self-critical": (SelfCritical(), 1, {}),
    "self-critical of two": (SelfCritical(), 2, {}),
    "leave one out of two": (LeaveOneOut(), 2, {}),
    "leave one out of three": (LeaveOneOut(), 3, {}),
    "reward to go": (Reinforce(baseline="none", baseline_decay=None), 1, {"reward_to_go": True}),
    "reward to go, learned": (Reinforce(baseline="learned", baseline_decay=None), 1, {"reward_to_go": True}),
    "reward to go, leave one out": (LeaveOneOut(), 2, {"reward_to_go": True}),
    "a policy of low temperature": (LeaveOneOut(), 2, {"temperature": 0.5}),
}


@pytest.mark.long
@pytest.mark.parametrize("name", UNBIASED)
def test_an_unbiased_estimator_has_the_exact_gradient_as_its_mean(name):
    estimator, samples, settings = UNBIASED[name]
    objective = tiny(estimator, samples_per_source=samples, **settings)
    state = {"moving_average": {"sum": jnp.float32(0.3), "weight": jnp.float32(0.5)}}
    assert_close(mean_estimate(objective, state if "moving" in name else None), exact_gradient(objective))


def test_a_group_counts_itself_in_its_mean():
    """So that without division by the deviation the gradient is (K - 1) / K of the exact one."""
    objective = tiny(GroupNormalized(divide_by_deviation=False), samples_per_source=2)
    expected = jax.tree.map(lambda leaf: leaf / 2, exact_gradient(objective))
    assert_close(mean_estimate(objective), expected)


def test_a_group_divides_by_the_deviation_of_its_rewards():
    returns = jnp.array([[[1.0], [2.0], [6.0]]])
    found = GroupNormalized().advantages(returns, greedy=None, baseline=None)
    np.testing.assert_allclose(found[0, :, 0], np.array([-2.0, -1.0, 3.0]) / (np.std([1, 2, 6]) + 1e-4), rtol=1e-6)


def test_minimum_risk_is_its_closed_form():
    """Of a set with a text that came twice, which counts once: -Σ Q R with Q from probabilities to the power of 0.7."""
    objective = tiny(MinimumRisk(sharpness=0.7), samples_per_source=4)
    texts = (TEXTS[2], TEXTS[9], TEXTS[2], TEXTS[5])
    distinct = list(dict.fromkeys(texts))
    rewards, params = rewards_of(objective, distinct), tiny_params()
    rows = jax.tree.map(jnp.asarray, rows_of([REFERENCE]))
    samples = given_samples([texts])
    experience = experience_of(objective, params, rows, samples)

    def closed_form(params):
        powers = jnp.exp(log_probabilities(params, objective, distinct)) ** 0.7
        return -jnp.sum(powers / jnp.sum(powers) * rewards)

    differentiate = jax.jit(jax.value_and_grad(lambda params: objective.losses(params, experience, None)[0][0]))
    loss, gradient = differentiate(params["model"])
    expected, expected_gradient = jax.jit(jax.value_and_grad(closed_form))(params["model"])
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    assert_close(gradient, expected_gradient)


def test_the_first_of_equal_samples_counts():
    tokens = jnp.array([[[1, 2], [3, 2], [1, 2], [1, 2]], [[4, 2], [5, 2], [5, 0], [4, 2]]])
    assert is_duplicate(tokens).tolist() == [[False, False, True, True], [False, False, False, True]]


def test_the_clipped_ratio_by_hand():
    """Ratios 1.5 and 0.5 with advantages of both signs: what is already far enough off carries no gradient."""
    estimator = GroupNormalized(clip=0.2)
    objective = tiny(estimator, samples_per_source=4)
    params = tiny_params()
    rows = jax.tree.map(jnp.asarray, rows_of([REFERENCE]))
    experience = experience_of(objective, params, rows, given_samples([TEXTS[:4]]))
    mask = jnp.zeros((1, 4, LIMIT), bool).at[:, :, 0].set(True)
    experience = experience.replace(mask=mask, advantages=jnp.array([[[2.0], [-2.0], [2.0], [-2.0]]]))
    ratios = jnp.array([1.5, 1.5, 0.5, 0.5])
    now = experience.log_probabilities.at[:, :, 0].add(jnp.log(ratios))
    losses, gradient = jax.value_and_grad(lambda now: jnp.sum(estimator.losses(now, experience)))(now)
    assert float(losses) == pytest.approx(-np.mean([2 * 1.2, -2 * 1.5, 2 * 0.5, -2 * 0.8]), rel=1e-5)
    np.testing.assert_allclose(gradient[0, :, 0], -np.array([0.0, -2 * 1.5, 2 * 0.5, 0.0]) / 4, rtol=1e-5, atol=1e-7)


@pytest.mark.long
def test_the_first_update_of_a_clipped_group_is_that_without_ratio():
    """At a ratio of 1 the gradient of ρ A is A ∇log π."""
    gradients = []
    for clip in (None, 0.2):
        objective = tiny(GroupNormalized(clip=clip), samples_per_source=3)
        params = tiny_params()
        rows = jax.tree.map(jnp.asarray, rows_of([REFERENCE] * 5))
        prepared, _ = jax.jit(objective.prepare)(params, {}, rows, step=jnp.int32(0), rng=jax.random.key(1))
        loss = jax.jit(jax.grad(lambda own, o=objective, p=prepared: jnp.sum(o.losses(own, p.rows, None)[0])))
        gradients.append(loss(params["model"]))
    assert_close(gradients[1], gradients[0])


MODELS = {
    "transformer": transformer(),
    "rotary": ARCHITECTURES["rotary"].config,
    "lstm_coverage": ARCHITECTURES["lstm_coverage"].config,
    "gru_additive_feeding": ARCHITECTURES["gru_additive_feeding"].config,
    "convolutional": convolutional(),
    "copying": ARCHITECTURES["copying_transformer"].config,
}


class NoReward:
    """A reward of nothing, for what does not depend on it."""

    def __call__(self, hypotheses, references):
        return jnp.sum(hypotheses, axis=-1) / 100.0, {}


def four_sources():
    """Four pairs, one a row, and a row without any."""
    pairs = random_pairs(np.random.default_rng(0), (5, 2, 7, 3), (4, 6, 1, 3), VOCABULARY)
    return jax.tree.map(jnp.asarray, batch([*([pair] for pair in pairs), []], 8, 8, VOCABULARY))


def prepared_of(config, **settings):
    """The objective of a model, its parameters, and the experience of four sources and a row without, with the state
    after it.
    """
    settings = {"estimator": LeaveOneOut(), "samples_per_source": 3, "maximum_length_extra": 4} | settings
    objective = PolicyGradient(PolicyGradientConfig(**settings), config.build(VOCABULARY), NoReward())
    params = {"model": parameters(objective.model, seed=1)}
    prepared, state = prepare(objective, params, objective.initial_state(params))
    return objective, params, (prepared.rows, state)


def prepare(objective, params, state, *, step=0):
    return jax.jit(objective.prepare)(params, state, four_sources(), step=jnp.int32(step), rng=jax.random.key(5 + step))


@functools.partial(jax.jit, static_argnums=0)
def scores_of(objective, params, prepared):
    """Log-probability of each sampled token, and entropy there, from the logits of the model: a row for each sample."""
    shape = prepared.tokens.shape
    tokens, mask = (array.reshape(-1, shape[-1]) for array in (prepared.tokens, prepared.mask))
    places = jnp.broadcast_to(jnp.arange(shape[-1]), tokens.shape)
    target = TokenRows(tokens=tokens, segment_ids=mask.astype(jnp.int32), positions=jnp.where(mask, places, 0))
    source = jax.tree.map(lambda leaf: jnp.repeat(leaf, shape[1], axis=0), prepared.batch.source)
    logits = objective.model.apply({"params": params}, Batch(source=source, target=target))
    log_p = objective.policy.log_probabilities(logits, places)
    picked = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    return picked.reshape(shape), -jnp.sum(jnp.exp(log_p) * log_p, axis=-1).reshape(shape)


@pytest.mark.parametrize("name", MODELS)
def test_teacher_forcing_gives_the_log_probabilities_of_sampling(name):
    objective, params, (prepared, _) = prepared_of(MODELS[name], temperature=0.8, minimum_length=2)
    assert prepared.mask[:4].any(axis=-1).all() and not prepared.mask[4].any()
    assert (jnp.sum(prepared.mask, axis=-1)[:4] >= 2).all()

    found, entropies = scores_of(objective, params["model"], prepared)
    np.testing.assert_allclose(jnp.where(prepared.mask, found, 0.0), prepared.log_probabilities, rtol=1e-4, atol=1e-5)
    assert (entropies[prepared.mask] > 0).all() and (entropies <= np.log(27) + 1e-5).all()


@pytest.mark.long
def test_dropout_differs_between_the_samples_of_a_source_and_is_off_without_a_key():
    objective, params, (prepared, _) = prepared_of(transformer())
    alike = prepared.replace(
        tokens=jnp.broadcast_to(prepared.tokens[:, :1], prepared.tokens.shape),
        mask=jnp.broadcast_to(prepared.mask[:, :1], prepared.mask.shape),
        advantages=jnp.eye(3)[None, :, :1] + jnp.zeros((5, 1, 1)),
    )
    compute = jax.jit(objective.losses)
    losses = [
        compute(params["model"], alike.replace(advantages=jnp.roll(alike.advantages, shift, axis=1)), key)[0][0]
        for key in (jax.random.key(0), None)
        for shift in range(3)
    ]
    assert len({float(loss) for loss in losses[:3]}) == 3
    np.testing.assert_allclose(losses[3:], losses[3], rtol=1e-5)


@pytest.mark.long
def test_samples_drawn_with_the_encoders_dropout_are_learned_from_with_the_same_masks():
    """The loss of leave-one-out is -1/K Σ A log π, so that with one A alone it is the log-probability of one sample."""
    model = transformer(encoder={"dropout": 0.4})
    objective, params, (prepared, _) = prepared_of(model, sample_with_encoder_dropout=True)
    _, _, (without, _) = prepared_of(model)
    assert (prepared.log_probabilities != without.log_probabilities).any()
    drawn = jnp.sum(prepared.log_probabilities, axis=-1)
    key = prepare(objective, params, {})[0].shared
    for sample in range(3):
        alone = prepared.replace(advantages=jnp.zeros((5, 3, 1)).at[:, sample].set(1.0))
        losses, _ = jax.jit(objective.losses)(params["model"], alone, None, encoder_key=key)
        np.testing.assert_allclose(losses[:4], -drawn[:4, sample] / 3, rtol=1e-4)
        other_masks, _ = jax.jit(objective.losses)(params["model"], alone, None, encoder_key=jax.random.fold_in(key, 1))
        assert (jnp.abs(other_masks - losses)[:4] > 1e-3).any()


@pytest.mark.long
def test_what_is_added_to_the_estimator_is_added_to_its_loss():
    """Entropy, divergence from the frozen model, and the likelihood of the reference: sums over tokens, a source."""
    settings = {"entropy_weight": 0.3, "kl_weight": 0.5, "likelihood_weight": 0.7, "label_smoothing": 0.1}
    objective, params, (prepared, state) = prepared_of(transformer(), **settings)
    plain, _, _ = prepared_of(transformer())
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, params["model"])
    losses, logged = losses_of(objective, moved, prepared)
    base, base_logged = losses_of(plain, moved, prepared)
    mask = np.asarray(prepared.mask)
    (now, entropy), (before, _) = (scores_of(objective, each, prepared) for each in (moved, params["model"]))
    log_ratio = np.where(mask, before - now, 0.0)
    divergence = np.exp(log_ratio) - 1 - log_ratio
    target = prepared.batch.target
    likelihood, nll = cross_entropy(
        jax.jit(objective.model.apply)({"params": moved}, prepared.batch),
        target.tokens,
        label_smoothing=0.1,
        z_loss=0.0,
    )
    expected = (
        -0.3 * np.where(mask, entropy, 0.0).sum(-1).mean(1)
        + 0.5 * divergence.sum(-1).mean(1)
        + 0.7 * np.where(target.mask, likelihood, 0.0).sum(-1)
    )
    np.testing.assert_allclose(losses - base, expected, rtol=1e-4, atol=1e-4)
    assert float(logged["entropy"].mean) == pytest.approx(np.asarray(entropy)[mask].mean(), rel=1e-4)
    assert float(logged["kl"].mean) == pytest.approx(divergence[mask].mean(), rel=1e-3)
    assert float(logged["nll"].mean) == pytest.approx(np.asarray(nll)[np.asarray(target.mask)].mean(), rel=1e-4)
    assert set(base_logged) == {"entropy"}
    jax.tree.map(np.testing.assert_array_equal, state["reference"], params["model"])


def test_the_reference_can_join_the_samples():
    _, _, (prepared, _) = prepared_of(transformer(), include_reference=True)
    target = prepared.batch.target
    assert prepared.tokens.shape[1] == 4
    for row in range(4):
        length = int(target.mask[row].sum())
        assert prepared.tokens[row, 3, :length].tolist() == target.tokens[row, :length].tolist()
        assert prepared.mask[row, 3].sum() == length and prepared.ended[row, 3]


def mean_of(state):
    average = state["moving_average"]
    return float(average["sum"] / average["weight"])


@pytest.mark.long
def test_the_moving_average_is_that_of_earlier_batches():
    objective, params, (first, state) = prepared_of(transformer(), estimator=Reinforce(baseline_decay=0.75))
    np.testing.assert_array_equal(first.advantages, first.returns)
    mean = float(first.rewards[:4].mean())
    assert mean_of(state) == pytest.approx(mean, rel=1e-5)
    prepared, state = prepare(objective, params, state, step=1)
    second = prepared.rows
    np.testing.assert_allclose(second.returns - second.advantages, mean, rtol=1e-5)
    expected = (0.75 * mean + float(second.rewards[:4].mean())) / 1.75
    assert mean_of(state) == pytest.approx(expected, rel=1e-5)


def test_the_learned_baseline_is_a_player_that_is_fitted_to_the_returns():
    config = PolicyGradientConfig(
        estimator=Reinforce(baseline="learned", baseline_decay=None), samples_per_source=3, maximum_length_extra=4
    )
    objective = PolicyGradient(config, transformer().build(VOCABULARY), NoReward())
    baseline = {"kernel": jnp.zeros(16), "bias": jnp.float32(0.25)}
    params = {"model": parameters(objective.model, seed=1), "baseline": baseline}
    whole, _ = prepare(objective, params, {})
    assert objective.turns == ("model", "baseline")
    loss, _ = objective.loss(Turn(1, "baseline"), params, whole, step=jnp.int32(0), rng=None)
    prepared = whole.rows
    mask = np.asarray(prepared.mask)
    returns = np.broadcast_to(np.asarray(prepared.returns), mask.shape)[mask]
    assert float(loss.mean) == pytest.approx(np.mean((returns - 0.25) ** 2), rel=1e-4)
    np.testing.assert_allclose((prepared.returns - prepared.advantages)[prepared.mask], 0.25, rtol=1e-5)


def test_rows_without_a_source_count_for_nothing():
    objective, params, (prepared, _) = prepared_of(transformer())

    @jax.jit
    def loss_of(rows):
        return objective.loss(Turn(0, "model"), params, Prepared(rows=rows), step=jnp.int32(0), rng=None)

    loss, logged = loss_of(prepared)
    expected, expected_logged = loss_of(jax.tree.map(lambda leaf: leaf[:4], prepared))
    assert float(loss.weight) == float(expected.weight) == 4
    for name, total in {"loss": expected, **expected_logged}.items():
        assert float(({"loss": loss} | logged)[name].mean) == pytest.approx(float(total.mean), rel=1e-4), name
    assert {name: int(value) for name, value in objective.counts(Prepared(rows=prepared)).items()} == {
        "rewards": 12, "sampled_tokens": int(prepared.mask.sum()),
    }  # fmt: skip


@functools.cache
def letters() -> Tokenizer:
    config = TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False)
    return Tokenizer.train([("abcdefgh", "hgfedcba")], config)


def compiled_text(**reward) -> str:
    """The whole step of a policy gradient, compiled: sampling, reward, gradient, update."""
    tokenizer = letters()
    config = PolicyGradientConfig(reward=RewardConfig(**reward), estimator=SelfCritical(), samples_per_source=2)
    objective = config.build(transformer(num_layers=1).build(tokenizer.vocabulary), tokenizer)
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    optimizers = {"model": AdamWConfig().build(10)}
    build, layout = initial_state(objective, optimizers, average_decays={"model": 0.9}, seed=0, mesh=mesh)
    update = build_update(
        objective, optimizers, accumulation=1, average_decays={"model": 0.9}, seed=0, mesh=mesh, layout=layout
    )
    pairs = random_pairs(np.random.default_rng(0), (5, 2), (4, 6), tokenizer.vocabulary)
    rows = jax.device_put(batch([[pair] for pair in pairs], 8, 8, tokenizer.vocabulary), batch_sharding(mesh))
    return update.lower(build(), rows).compile().as_text()


@pytest.mark.long
def test_speech_is_rewarded_by_its_word_errors():
    """Samples of sounds: limits count positions, the reward is that of jiwer, and the front end has a gradient."""
    config = TokenizerConfig(kind="words", vocabulary_size=12, byte_fallback=False)
    tokenizer = Tokenizer.train([("one two three four five", "one two three four five")], config)
    vocabulary = tokenizer.vocabulary
    spoken = {"one two two": 19, "five": 5, "three four": 12}
    settings = {"estimator": LeaveOneOut(), "maximum_length_ratio": 0.5, "maximum_length_extra": 2}
    settings |= {"reward": RewardConfig(word_error_rate=1.0), "samples_per_source": 4}
    objective = PolicyGradientConfig(**settings).build(SPEECH_MODELS["conformer"].build(vocabulary), tokenizer)
    params = {"model": random_parameters(objective.model, objective.model.smallest_batch)}
    rng = np.random.default_rng(0)
    source = rows_of_frames(
        [[rng.normal(size=(size, 5)).astype(np.float32)] for size in spoken.values()], length=6, stride=4
    )
    targets = [[ids] for ids in tokenizer.encode_target(list(spoken))]
    rows = Batch(source=source, target=jax.tree.map(jnp.asarray, sequence(targets, 5, vocabulary.pad_id)))

    @jax.jit
    def prepared_and_gradient(params):
        prepared, _ = objective.prepare(params, {}, rows, step=jnp.int32(0), rng=jax.random.key(0))

        def loss(model):
            return objective.loss(Turn(0, "model"), {"model": model}, prepared, step=jnp.int32(0), rng=None)[0].sum

        return prepared.rows, jax.grad(loss)(params["model"])

    found, gradient = prepared_and_gradient(params)
    lengths = np.asarray(found.mask.sum(axis=-1))
    # 19, 5 and 12 frames are 5, 2 and 3 positions.
    assert (lengths <= np.array([[2 + 2], [1 + 2], [1 + 2]])).all() and lengths.max() == 4
    for row, reference in enumerate(spoken):
        for sampled, reward in zip(found.tokens[row], found.rewards[row], strict=True):
            ids = np.asarray(sampled).tolist()
            text = tokenizer.decode_target(ids[: ids.index(vocabulary.eos_id)] if vocabulary.eos_id in ids else ids)
            assert float(reward) == pytest.approx(-jiwer.wer(reference, text), abs=1e-5)
    assert len(np.unique(found.rewards)) > 2
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient["front_end"])) > 1e-3


CALLS_TO_THE_HOST = ("callback", "infeed", "outfeed", "host_")


@pytest.mark.long
def test_the_step_is_one_program_that_never_calls_the_host():
    """All metrics at once; a Python function as the reward is found by the same search."""
    text = compiled_text(bleu=1.0, chrf=1.0, rouge_l=1.0, character_error_rate=1.0)
    assert not [name for name in CALLS_TO_THE_HOST if name in text]
    assert "callback" in compiled_text(function="math:fsum", function_weight=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_source": 1}, "objective.samples_per_source is 1, and LeaveOneOut compares"),
        (
            {"samples_per_source": 1, "estimator": MinimumRisk()},
            "objective.samples_per_source is 1, and MinimumRisk compares",
        ),
        ({"samples_per_source": 0, "estimator": Reinforce()}, "objective.samples_per_source"),
        ({"temperature": 0.0}, "objective.temperature must be positive"),
        ({"kl_weight": -1.0}, "objective.kl_weight must be finite and not negative"),
        ({"maximum_length_extra": 0}, "objective.maximum_length_extra must be at least 1"),
        (
            {"reward_to_go": True, "estimator": MinimumRisk()},
            "objective.reward_to_go is not supported with MinimumRisk",
        ),
        (
            {"include_reference": True, "estimator": GroupNormalized(clip=0.2)},
            "objective.include_reference is not supported",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        PolicyGradientConfig(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reinforce(baseline="none"), "objective.estimator.baseline_decay must be set with baseline"),
        (lambda: Reinforce(baseline_decay=1.0), "objective.estimator.baseline_decay must lie in"),
        (lambda: GroupNormalized(updates=2), "objective.estimator.updates = 2 on the same samples needs the ratio"),
        (lambda: GroupNormalized(clip=1.5), "objective.estimator.clip must lie in"),
        (lambda: MinimumRisk(sharpness=0.0), "objective.estimator.sharpness must be positive"),
    ],
)
def test_an_estimator_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        make()


def test_a_collapse_is_told_in_words():
    objective, _, _ = prepared_of(transformer())
    assert objective.warnings({"entropy": 1.0, "ended_fraction": 0.9, "reward": 0.3}) == {}
    found = objective.warnings({"entropy": 0.01, "ended_fraction": 0.2, "reward": 0.3})
    assert "0.010 nats" in found["entropy"] and "reward of 0.3000 of at most 1:" in found["entropy"]
    assert "20% of the samples" in found["length"]


@pytest.mark.parametrize(
    ("reward", "earned", "is_told"),
    [
        ({"bleu": 1.0}, 0.95, False),
        ({"bleu": 1.0}, 0.85, True),
        # At best 1 + 0; the defaults of dates/transformer_policy_gradient, at 99% exact match.
        ({"exact_match": 1.0, "character_error_rate": 1.0}, 0.989, False),
        ({"exact_match": 1.0, "character_error_rate": 1.0}, -0.2, True),
        # At best 2 - 0: the negative weight earns most at the metric's worst.
        ({"chrf": 2.0, "length": -1.0}, 1.75, False),
        ({"chrf": 2.0, "length": -1.0}, 1.65, True),
        # Of a function nobody knows the best.
        ({"function": "math:fsum", "function_weight": 1.0}, 1e6, True),
        ({"exact_match": 1.0, "character_error_rate": -0.5}, 1e6, True),
    ],
)
def test_a_solved_task_is_no_collapse(reward, earned, is_told):
    """Samples hardly differ in both: the reward tells them apart."""
    objective, _, _ = prepared_of(transformer())
    objective.config = dataclasses.replace(objective.config, reward=RewardConfig(**reward))
    assert bool(objective.warnings({"entropy": 0.001, "ended_fraction": 1.0, "reward": earned})) == is_told


@pytest.mark.parametrize(
    ("objective", "config"),
    [
        (PolicyGradient, PolicyGradientConfig),
        (Adversarial, AdversarialConfig),
        (Preference, PreferenceConfig),
        (Cooperative, CooperativeConfig),
        (ProfessorForcing, ProfessorForcingConfig),
    ],
)
def test_what_a_warning_advises_is_a_field_of_the_objective(objective, config):
    fields = {field.name for field in dataclasses.fields(config)}
    for advice in (objective.against_collapse, objective.against_endless_texts):
        names = advice.replace("objective.", "").replace(" or ", " ").split()[1:]
        assert names and set(names) <= fields
