"""Estimators of the gradient of the expected reward, each from samples and their rewards.

Throughout, x is a source, y_1 .. y_K are texts drawn from the policy π(· | x), R_k is the reward of y_k, and
log π(y) = Σ_t log π(y_t | y_<t, x). Every estimator gives one loss a source; the objective takes their mean over the
sources of the global batch, so the normaliser is the number of sources, whatever the lengths of texts are. Constants
such as advantages carry no gradient.

With reward-to-go, R_k in an advantage becomes R(y_k) - R(y_k,<t) for the token at t: what was earned before the token
was drawn does not depend on it, so that nothing is added to the bias. A text that is cut off at its limit is a sample
like any other, of the probability of its tokens.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from seq2seq_jax.batch import Batch
from seq2seq_jax.values import check_values

DEVIATION_FLOOR = 1e-4
"""Added to the standard deviation of a group's rewards, which may all be the same (as in DeepSeekMath)."""


@flax.struct.dataclass
class Experience:
    """Samples of a batch, and what is known of them before an update. All leaves lead with the batch.

    Attributes:
        batch: sources and references, one a row.
        tokens: of the samples.
        mask: True where a sample has a token.
        log_probabilities: of the tokens by the policy that drew them.
        drawn_lengths: tokens of each text that was drawn, a greedy one among them.
        ended: whether a sample has its end mark.
        rewards: of whole samples.
        metrics: the parts of the reward, by name.
        advantages: what a token's log-probability is weighted with; one a sample, or one a token.
        returns: reward still to come when a token is drawn; one a sample, or one a token.
        reference_log_probabilities: of the tokens by the frozen reference model; None = there is none.
        hidden: the decoder's states before each token, without its dropout; None = no baseline is learned.
        encoder_key: of the encoder's dropout when the samples were drawn, the same in every row; None = it had none.
    """

    batch: Batch
    tokens: Int[Array, "batch samples length"]
    mask: Bool[Array, "batch samples length"]
    log_probabilities: Float[Array, "batch samples length"]
    drawn_lengths: Int[Array, "batch drawn"]
    ended: Bool[Array, "batch samples"]
    rewards: Float[Array, "batch samples"]
    metrics: dict[str, Float[Array, "batch samples"]]
    advantages: Float[Array, "batch samples length_or_one"]
    returns: Float[Array, "batch samples length_or_one"]
    reference_log_probabilities: Float[Array, "batch samples length"] | None
    hidden: Float[Array, "batch samples length model"] | None
    encoder_key: UInt32[Array, "batch words"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimator:
    """What all estimators share: a loss -1/K Σ_k Σ_t A_k,t log π(y_k,t | y_k,<t, x), from some advantages A."""

    minimum_samples: ClassVar[int] = 1
    """Samples a source that the estimator is defined for."""
    compares_with_greedy: ClassVar[bool] = False
    """Whether a greedy text is decoded beside the samples."""
    baseline: ClassVar[str] = "none"
    """What the objective is to know of the reward beforehand; see Reinforce."""
    clip: ClassVar[float | None] = None
    """Largest difference of the ratio to the sampled policy from 1; see GroupNormalized."""
    updates: ClassVar[int] = 1
    """Updates on the same samples."""

    def advantages(
        self,
        returns: Float[Array, "batch samples tokens"],
        *,
        greedy: Float[Array, "batch one"] | None,
        baseline: Float[Array, "*values"] | None,
    ) -> Float[Array, "batch samples tokens"]:
        """What each sample, or each of its tokens, was better by than was to be expected.

        Args:
            returns: rewards to come; one a sample or one a token.
            greedy: reward of the greedy text, where the estimator compares with it.
            baseline: expected return, where the estimator has a baseline: one number, or one a token.
        """
        raise NotImplementedError

    def losses(
        self, log_probabilities: Float[Array, "batch samples length"], experience: Experience
    ) -> Float[Array, "batch"]:
        """The loss of each source, to be differentiated by the log-probabilities."""
        weighted = experience.advantages * log_probabilities
        return -jnp.mean(_sum_of_tokens(weighted, experience.mask), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reinforce(Estimator):
    """∇E[R] ≈ 1/K Σ_k (R_k - b) ∇log π(y_k), REINFORCE with a baseline b.

    Bias: none, as no baseline here depends on the token whose gradient it weighs. "moving_average": b is the mean of
    the rewards of earlier batches, an exponential moving average without the weight of its start. "learned": b is a
    linear function of the decoder's state before the token, a second player, fitted to the returns by least squares;
    no gradient goes from it into the model.

    Source: Williams 1992; Ranzato et al. 2016, section 3.2.2 (learned baseline).
    """

    baseline: Literal["none", "moving_average", "learned"] = "moving_average"
    """What is subtracted from the reward."""
    baseline_decay: float | None = 0.95
    """Decay a batch of the moving average; for moving_average alone."""

    def __post_init__(self):
        check_values(self, "objective.estimator")
        if (self.baseline == "moving_average") != (self.baseline_decay is not None):
            raise ValueError(
                "objective.estimator.baseline_decay must be set with baseline = moving_average, and only then; they "
                f"are {self.baseline_decay} and {self.baseline}."
            )
        if self.baseline_decay is not None and not 0.0 <= self.baseline_decay < 1.0:
            raise ValueError(f"objective.estimator.baseline_decay must lie in [0, 1), not {self.baseline_decay}.")

    def advantages(self, returns, *, greedy, baseline):
        """See Estimator.advantages."""
        return returns if baseline is None else returns - baseline


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfCritical(Estimator):
    """∇E[R] ≈ 1/K Σ_k (R_k - R(ŷ)) ∇log π(y_k), where ŷ is the greedy text of the same model.

    Bias: none, as the greedy text does not depend on the samples. What is pushed up is what beats the way in which the
    model is used.

    Source: Rennie et al. 2017, equation 8.
    """

    compares_with_greedy: ClassVar[bool] = True

    def advantages(self, returns, *, greedy, baseline):
        """See Estimator.advantages."""
        return returns - greedy[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOneOut(Estimator):
    """∇E[R] ≈ 1/K Σ_k (R_k - 1/(K-1) Σ_j≠k R_j) ∇log π(y_k): each sample against the mean of the others.

    Bias: none, as the samples of a source are independent.

    Source: Kool et al. 2019; Ahmadian et al. 2024 (RLOO).
    """

    minimum_samples: ClassVar[int] = 2

    def advantages(self, returns, *, greedy, baseline):
        """See Estimator.advantages."""
        others = jnp.sum(returns, axis=1, keepdims=True) - returns
        return returns - others / (returns.shape[1] - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupNormalized(Estimator):
    """1/K Σ_k Σ_t min(ρ A_k, clip(ρ, 1-ε, 1+ε) A_k), A_k = (R_k - mean R) / (std R + 1e-4), ρ = π / π_sampled a token.

    Bias: of the expected reward's gradient, yes. The mean counts the sample itself, which scales by (K-1)/K; the
    deviation gives sources whose samples are alike more weight; clipping cuts off, and more than one update is made on
    the samples of an older policy. The ratio is to the probabilities when sampled, without dropout: with dropout it is
    not 1 even in the first update. Without clip the ratio is left out.

    Source: Shao et al. 2024 (DeepSeekMath), equation 3, without division by the length of a text (Liu et al. 2025).
    """

    minimum_samples: ClassVar[int] = 2

    divide_by_deviation: bool = True
    """Whether advantages are divided by the standard deviation of the group's rewards."""
    clip: float | None = None
    """Largest difference ε of the ratio from 1 that is followed; None = no ratio, and one update a batch."""
    updates: int = 1
    """Updates on the same samples."""

    def __post_init__(self):
        check_values(self, "objective.estimator")
        if self.clip is not None and not 0.0 < self.clip < 1.0:
            raise ValueError(f"objective.estimator.clip must lie in (0, 1) or be None, and is {self.clip}.")
        if self.updates < 1:
            raise ValueError(f"objective.estimator.updates must be at least 1, not {self.updates}.")
        if self.updates > 1 and self.clip is None:
            raise ValueError(
                f"objective.estimator.updates = {self.updates} on the same samples needs the ratio to the policy that "
                "drew them: set objective.estimator.clip, such as 0.2."
            )

    def advantages(self, returns, *, greedy, baseline):
        """See Estimator.advantages."""
        centered = returns - jnp.mean(returns, axis=1, keepdims=True)
        if not self.divide_by_deviation:
            return centered
        return centered / (jnp.std(returns, axis=1, keepdims=True) + DEVIATION_FLOOR)

    def losses(self, log_probabilities, experience):
        """See Estimator.losses."""
        if self.clip is None:
            return super().losses(log_probabilities, experience)
        ratio = jnp.exp(jnp.where(experience.mask, log_probabilities - experience.log_probabilities, 0.0))
        clipped = jnp.clip(ratio, 1.0 - self.clip, 1.0 + self.clip)
        least = jnp.minimum(ratio * experience.advantages, clipped * experience.advantages)
        return -jnp.mean(_sum_of_tokens(least, experience.mask), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimumRisk(Estimator):
    """Loss -Σ_y∈S Q(y) R(y), Q(y) = π(y)^α / Σ_y'∈S π(y')^α, over the set S of distinct samples of a source.

    Bias: of the expected reward's gradient, yes: it is the exact gradient of the expected reward of Q, a distribution
    over the texts that were sampled alone, sharpened (α > 1) or flattened (α < 1).

    Source: Shen et al. 2016, equations 11 to 13.
    """

    minimum_samples: ClassVar[int] = 2

    sharpness: float = 0.005
    """α, the exponent of the texts' probabilities."""

    def __post_init__(self):
        check_values(self, "objective.estimator")
        if self.sharpness <= 0.0:
            raise ValueError(f"objective.estimator.sharpness must be positive, and is {self.sharpness}.")

    def advantages(self, returns, *, greedy, baseline):
        """How much each reward is above the mean of the set: for the curves alone."""
        return returns - jnp.mean(returns, axis=1, keepdims=True)

    def losses(self, log_probabilities, experience):
        """See Estimator.losses."""
        of_texts = self.sharpness * _sum_of_tokens(log_probabilities, experience.mask)
        in_set = is_first_of_its_kind(experience.tokens)
        shares = jax.nn.softmax(jnp.where(in_set, of_texts, -jnp.inf), axis=1)
        return -jnp.sum(shares * experience.rewards, axis=1)


def is_first_of_its_kind(tokens: Int[Array, "batch samples length"]) -> Bool[Array, "batch samples"]:
    """False for a sample that equals an earlier one of the same source."""
    same = jnp.all(tokens[:, :, None] == tokens[:, None, :], axis=-1)
    earlier = jnp.tri(tokens.shape[1], k=-1, dtype=bool)
    return ~jnp.any(same & earlier, axis=2)


def _sum_of_tokens(
    values: Float[Array, "batch samples length"], mask: Bool[Array, "batch samples length"]
) -> Float[Array, "batch samples"]:
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)
