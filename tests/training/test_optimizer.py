"""Learning rates and first updates by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seq2seq_jax.training.optimizer import AdafactorConfig, AdamWConfig

PEAK = 8.0


def learning_rates(counts, *, steps=20, **settings):
    schedule = AdamWConfig(learning_rate=PEAK, **{"warmup_steps": 4} | settings).learning_rate_schedule(steps)
    return [float(schedule(count)) for count in counts]


@pytest.mark.parametrize("schedule", ["inverse_square_root", "cosine", "linear", "constant"])
def test_the_learning_rate_rises_from_a_share_of_the_peak_to_the_peak(schedule):
    np.testing.assert_allclose(learning_rates(range(5), schedule=schedule), [2, 4, 6, 8, 8], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["inverse_square_root", "cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_warmup_the_first_update_has_the_peak(schedule, warmup_steps):
    found = learning_rates([0, 1], schedule=schedule, warmup_steps=warmup_steps, steps=10_000)
    assert found[0] == PEAK
    # It counts as one step of warm-up, after which the schedule stands at its peak.
    assert found[1] == PEAK


def test_inverse_square_root():
    """The peak times sqrt(4 / 16), sqrt(4 / 36), sqrt(4 / 400): whatever the number of steps."""
    for steps in (20, 1_000):
        found = learning_rates([16, 36, 400], steps=steps, schedule="inverse_square_root")
        np.testing.assert_allclose(found, [4, 8 / 3, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("final_fraction", "expected"),
    # Quarters of the 16 steps after warm-up: (1 + cos(pi / 4)) / 2 = 0.85355339.
    [
        (None, [8, 8 * 0.85355339, 4, 8 * 0.14644661, 0, 0]),
        (0.25, [8, 2 + 6 * 0.85355339, 5, 2 + 6 * 0.14644661, 2, 2]),
    ],
)
def test_cosine(final_fraction, expected):
    found = learning_rates([4, 8, 12, 16, 20, 99], schedule="cosine", final_fraction=final_fraction)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("final_fraction", "expected"), [(None, [8, 6, 4, 0.5, 0, 0]), (0.25, [8, 6.5, 5, 2.375, 2, 2])]
)
def test_linear(final_fraction, expected):
    found = learning_rates([4, 8, 12, 19, 20, 99], schedule="linear", final_fraction=final_fraction)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_constant():
    assert learning_rates([4, 100, 10_000], schedule="constant") == [PEAK] * 3


@pytest.mark.parametrize(
    ("schedule", "depends"),
    [("inverse_square_root", False), ("constant", False), ("cosine", True), ("linear", True)],
)
def test_whether_the_schedule_depends_on_the_last_step(schedule, depends):
    assert AdamWConfig(schedule=schedule).depends_on_last_step == depends
    counts = (3, 5, 9)
    changes = learning_rates(counts, schedule=schedule, steps=20) != learning_rates(counts, schedule=schedule, steps=40)
    assert changes == depends


def first_update(config, gradient, params):
    optimizer = config.build(steps=100)
    gradient, params = (jnp.asarray(values, jnp.float32) for values in (gradient, params))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return np.asarray(optax.apply_updates(params, updates) - params)


SGD_LIKE = {"learning_rate": 0.5, "warmup_steps": 0, "schedule": "constant"}


@pytest.mark.parametrize(
    ("clip_norm", "clipped"), [(None, [3, -4]), (10.0, [3, -4]), (5.0, [3, -4]), (1.0, [0.6, -0.8])]
)
def test_adam_of_the_clipped_gradient(clip_norm, clipped):
    """The first moments, corrected, are g and g^2: the update is g / (|g| + epsilon), which 1 makes visible."""
    found = first_update(AdamWConfig(clip_norm=clip_norm, epsilon=1.0, **SGD_LIKE), [3.0, -4.0], [1.0, 2.0])
    expected = [-0.5 * value / (abs(value) + 1.0) for value in clipped]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weight_decay_of_adam_is_decoupled_and_follows_the_learning_rate():
    found = first_update(AdamWConfig(weight_decay=0.1, **SGD_LIKE), [3.0, -4.0], [1.0, 20.0])
    np.testing.assert_allclose(found, [-0.5 * (1 + 0.1), -0.5 * (-1 + 2.0)], rtol=1e-5)


def test_moments_of_adam_decay_as_set():
    """Second update by hand: m = (0.5 * 0.5 + 0.5 * 2) / 0.75, v = (0.75 * 0.25 + 0.25 * 4) / 0.4375, g = 1, then 2."""
    optimizer = AdamWConfig(beta1=0.5, beta2=0.75, epsilon=0.125, clip_norm=None, **SGD_LIKE).build(steps=9)
    params = jnp.zeros(1)
    state = optimizer.init(params)
    for gradient in (1.0, 2.0):
        updates, state = optimizer.update(jnp.array([gradient]), state, params)
    m, v = (0.25 + 1.0) / 0.75, (0.1875 + 1.0) / 0.4375
    np.testing.assert_allclose(updates, [-0.5 * m / (v**0.5 + 0.125)], rtol=1e-5)


def test_adafactor_of_a_small_parameter():
    """Not factored: the first second moment is g^2, so the update is the sign of g, times the parameter's RMS of 5."""
    settings = SGD_LIKE | {"clip_norm": None}
    gradient, params = [3.0, -4.0], [1.0, -7.0]
    plain = first_update(AdafactorConfig(scale_by_parameter=False, **settings), gradient, params)
    np.testing.assert_allclose(plain, [-0.5, 0.5], rtol=1e-5)
    scaled = first_update(AdafactorConfig(**settings), gradient, params)
    np.testing.assert_allclose(scaled, [-2.5, 2.5], rtol=1e-5)
    decayed = first_update(AdafactorConfig(scale_by_parameter=False, weight_decay=0.1, **settings), gradient, params)
    np.testing.assert_allclose(decayed, [-0.5 - 0.1, 0.5 + 0.7], rtol=1e-5)


@pytest.mark.parametrize("config", [AdamWConfig, AdafactorConfig])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, and is 0.0"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, and is -1"),
        ({"final_fraction": 0.1}, "final_fraction has no effect with schedule = inverse_square_root"),
        ({"final_fraction": 0.1, "schedule": "constant"}, "final_fraction has no effect with schedule = constant"),
        ({"clip_norm": 0.0}, "clip_norm must be positive or None, and is 0.0"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \(0, 1\) or be None, and is 1.0"),
        ({"ema_decay": 0.0}, r"ema_decay must lie in \(0, 1\) or be None, and is 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(config, wrong, message):
    with pytest.raises(ValueError, match=rf"^optimizer\.{message}[^\n]*$"):
        config(**wrong)
