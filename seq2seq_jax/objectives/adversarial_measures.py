"""What is measured of a generator and its discriminator, and what records say of them in words."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.objectives.objective import WeightedSum, per_step

BINS = 10
"""Of probabilities, for the calibration error."""

PATIENCE = 6
"""Records in a row that a warning about the discriminator looks at."""

BLIND, PERFECT = 0.52, 0.99
"""Accuracies below and above which a discriminator teaches nothing."""

LOST_DIVERSITY = 0.5
"""Fraction of the first record's distinct-2 of samples below which a warning reports a collapse."""

WATCHED = ("discriminator_accuracy", "reward_discriminator", "reward_metric", "distinct_2")
"""Metrics of a record that warnings look at."""


def adversarial_warnings(history: list[dict[str, float]], *, accuracy_ceiling: float | None = None) -> dict[str, str]:
    """What the records so far say of the two players, in words, by a short name.

    Args:
        history: metrics of each record.
        accuracy_ceiling: see AdversarialConfig.
    """
    found = {}
    last = history[-PATIENCE:]

    def values(name):
        return [record[name] for record in last if name in record]

    accuracies = values("discriminator_accuracy")
    if len(accuracies) == PATIENCE and max(accuracies) < BLIND:
        found["discriminator"] = (
            f"the discriminator cannot tell references from samples: for {PATIENCE} records its accuracy was below "
            f"{BLIND}, now {accuracies[-1]:.3f}, so its reward is noise. Raise "
            "objective.discriminator_optimizer.learning_rate or objective.discriminator_updates, or choose a larger "
            "discriminator; if the generator is as good as that, stop."
        )
    if len(accuracies) == PATIENCE and min(accuracies) > PERFECT:
        ceiling = "set objective.accuracy_ceiling" if accuracy_ceiling is None else "lower objective.accuracy_ceiling"
        found["discriminator"] = (
            f"the discriminator tells all references from samples: for {PATIENCE} records its accuracy was above "
            f"{PERFECT}, now {accuracies[-1]:.3f}, so its reward hardly tells samples apart. Lower "
            f"objective.discriminator_optimizer.learning_rate, {ceiling}, or set a dropout or r1_weight."
        )
    judged, metrics = values("reward_discriminator"), values("reward_metric")
    if len(judged) == len(metrics) == PATIENCE and _moves(judged, 1) and _moves(metrics, -1):
        found["reward"] = (
            f"the discriminator's reward rises ({judged[0]:.4f} to {judged[-1]:.4f} in {PATIENCE} records) while the "
            f"metric falls ({metrics[0]:.4f} to {metrics[-1]:.4f}): the generator learns what pleases the "
            "discriminator and not what is better. Set objective.metric_weight or raise likelihood_weight, or lower "
            "optimizer.learning_rate."
        )
    distinct = [record["distinct_2"] for record in history if "distinct_2" in record]
    if distinct and distinct[-1] < LOST_DIVERSITY * distinct[0]:
        found["diversity"] = (
            f"the samples have lost their diversity: {distinct[-1]:.1%} of their pairs of tokens are distinct, and "
            f"were {distinct[0]:.1%} in the first record. The generator has collapsed onto few texts: lower "
            "optimizer.learning_rate, or raise objective.likelihood_weight, entropy_weight or kl_weight."
        )
    return found


def _moves(values: list[float], sign: int) -> bool:
    """Whether the second half lies on one side of the first half, every value of it."""
    half = len(values) // 2
    signed = [sign * value for value in values]
    return min(signed[half:]) > max(signed[:half])


def distinct_pairs(
    tokens: Int[Array, "batch samples length"], mask: Bool[Array, "batch samples length"]
) -> WeightedSum:
    """The fraction of distinct ones among all pairs of adjacent tokens of all samples of a step."""
    there = (mask[..., :-1] & mask[..., 1:]).reshape(-1)
    pairs = [jnp.where(there, side.reshape(-1), -1) for side in (tokens[..., :-1], tokens[..., 1:])]
    first, second = jax.lax.sort(pairs, num_keys=2)
    is_new = jnp.concatenate([jnp.ones(1, bool), (first[1:] != first[:-1]) | (second[1:] != second[:-1])])
    total = jnp.sum(there).astype(jnp.float32)
    return per_step(jnp.sum(is_new & (first >= 0)) / jnp.maximum(total, 1.0))


def calibration_error(
    real: Float[Array, "batch"], fake: Float[Array, "batch samples"], there: Bool[Array, "batch"]
) -> Float[Array, ""]:
    """Expected calibration error of σ(logit) as the probability of a reference, where half of all texts are references:
    the mean over 10 equal bins, by their weight, of the distance between mean probability and fraction of references.
    """
    logits = jnp.concatenate([real[:, None], fake], axis=1)
    is_real = jnp.arange(logits.shape[1]) == 0
    weights = jnp.where(there[:, None], jnp.where(is_real, 0.5, 0.5 / fake.shape[1]), 0.0) / jnp.sum(there)
    probabilities = jax.nn.sigmoid(logits)
    bins = jnp.minimum((probabilities * BINS).astype(jnp.int32), BINS - 1)
    gaps = weights * (probabilities - is_real)
    of_bins = jnp.sum(jnp.where(bins[..., None] == jnp.arange(BINS), gaps[..., None], 0.0), axis=(0, 1))
    return jnp.sum(jnp.abs(of_bins))


def heaviside(values: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """1 above 0, 0 below, 0.5 at 0."""
    return 0.5 * (1.0 + jnp.sign(values))


def mean_of(values: Float[Array, "batch"], there: Bool[Array, "batch"]) -> Float[Array, ""]:
    """The mean over the rows that are there; 0 if none is."""
    return jnp.sum(values, where=there) / jnp.maximum(jnp.sum(there), 1)
