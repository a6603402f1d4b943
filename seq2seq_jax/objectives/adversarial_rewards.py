"""What a discriminator's logits are as rewards of texts and of their tokens.

Which divergence a reward follows. With p the distribution of references, q that of the generator, m = (p + q) / 2, and
the best logit of the logistic loss, d = log p/q, the expected gradient of the reward is minus the gradient of

- "logit", d: KL(q, p), the reverse divergence: what p does not have is avoided, and modes of p may be left out.
- "odds", D/(1-D) = e^d: KL(p, q), the forward divergence, that of maximum likelihood; rewards have no upper bound.
- "minus_log_complement", -log(1-D): KL(p, m) + KL(q, m), twice the Jensen–Shannon divergence.
- "probability", D = σ(d): KL(p, m); bounded, as in SeqGAN.
- "log_probability", log D: KL(q, p) - KL(p, m) - KL(q, m): seeks modes even more than the reverse divergence.

Source: Goodfellow et al. 2014; Nowozin et al. 2016 (f-GAN); Arjovsky and Bottou 2017, theorem 2.5 (log D); Yu et al.
2017 (SeqGAN).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.discriminators.discriminator import logits_of_texts
from seq2seq_jax.generation.context import GenerationContext
from seq2seq_jax.generation.sampling import Policy, Samples, draws_by_batch, sample

RewardKind = Literal["logit", "probability", "log_probability", "minus_log_complement", "odds"]
RewardForm = Literal["sequence", "dense", "potential", "rollouts"]

LARGEST_LOGIT = 10.0
"""Logits beyond this count as this in the reward "odds", so that no reward is larger than e^10."""


def reward_of_logits(logits: Float[Array, "*dims"], kind: RewardKind) -> Float[Array, "*dims"]:
    """The reward that a logit is made to."""
    return {
        "logit": lambda: logits,
        "probability": lambda: jax.nn.sigmoid(logits),
        "log_probability": lambda: jax.nn.log_sigmoid(logits),
        "minus_log_complement": lambda: jax.nn.softplus(logits),
        "odds": lambda: jnp.exp(jnp.minimum(logits, LARGEST_LOGIT)),
    }[kind]()


def dense_returns(
    of_prefixes: Float[Array, "batch texts length"],
    rewards: Float[Array, "batch texts"],
    mask: Bool[Array, "batch texts length"],
    *,
    discount: float,
) -> Float[Array, "batch texts length"]:
    """At each token the discounted sum of the rewards of all prefixes that end there or later, and what else the whole
    text is rewarded for.

    Args:
        of_prefixes: reward of the prefix that ends at each token.
        rewards: of whole texts, that of the whole text as a prefix among it.
    """
    others = rewards - logits_of_texts(of_prefixes, mask)
    return others[..., None] + discounted(jnp.where(mask, of_prefixes, 0.0), discount)


def potential_returns(
    of_prefixes: Float[Array, "batch texts length"],
    rewards: Float[Array, "batch texts"],
    *,
    of_nothing: Float[Array, ""],
) -> Float[Array, "batch texts length"]:
    """At each token by how much the reward of the whole text is above that of the prefix before it.

    Args:
        of_nothing: reward of the prefix without a token.

    Source: Ng, Harada and Russell 1999 (potential-based shaping).
    """
    start = jnp.full_like(of_prefixes[..., :1], of_nothing)
    before = jnp.concatenate([start, of_prefixes[..., :-1]], axis=-1)
    return rewards[..., None] - before


def rollout_returns(
    context: GenerationContext,
    drawn: Samples,
    rewards: Float[Array, "batch texts"],
    judge: Callable[[Int[Array, "batch rolled length"], Bool[Array, "batch rolled length"]], Float[Array, "..."]],
    *,
    policy: Policy,
    number: int,
    rng: jax.Array,
) -> Float[Array, "batch texts length"]:
    """At each token the mean reward of `number` texts that go on after it as the policy does; at the last token of a
    text the reward of the text.

    Args:
        context: of the sources, which the rollouts are drawn from.
        rewards: of the texts.
        judge: tokens and mask of texts -> their rewards.

    Source: Yu et al. 2017, equation 4.
    """
    rows, texts, room = drawn.tokens.shape
    repeated = jnp.repeat(drawn.tokens, number, axis=1)

    def after(length: Int[Array, ""]) -> Float[Array, "batch texts"]:
        draws = draws_by_batch(jax.random.fold_in(rng, length), rows, texts * number)
        rolled = sample(context, policy=policy, draws=draws, num_samples=texts * number, given=(repeated, length))
        found = judge(rolled.tokens, rolled.mask)
        return jnp.mean(found.reshape(rows, texts, number), axis=2)

    values = jnp.moveaxis(jax.lax.map(after, jnp.arange(1, room + 1)), 0, -1)
    return jnp.where(jnp.arange(1, room + 1) < drawn.lengths[..., None], values, rewards[..., None])


def discounted(rewards: Float[Array, "*dims length"], discount: float) -> Float[Array, "*dims length"]:
    """At each position the sum of the rewards from there on, discounted per token."""

    def add(following, reward):
        total = reward + discount * following
        return total, total

    _, sums = jax.lax.scan(add, jnp.zeros(rewards.shape[:-1]), jnp.moveaxis(rewards, -1, 0), reverse=True)
    return jnp.moveaxis(sums, 0, -1)
