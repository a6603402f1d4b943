"""Estimators of the gradient of the expected reward, each from samples and their rewards.

Throughout, x is a source, y_1 .. y_K are samples of the policy π(· | x), R_k is the reward of y_k, and
log π(y) = Σ_t log π(y_t | y_<t, x). Every estimator defines one loss per source; the objective takes their mean over
the sources of the global batch, so the normaliser is the number of sources, independent of the lengths of texts.
Advantages are constants, without a gradient.

With reward-to-go, R_k in an advantage becomes R(y_k) - R(y_k,<t) for the token at t. The reward earned before a token
does not depend on it, so that this adds no bias. A text that is truncated at the length limit is a regular sample, with
the probability of its tokens.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.values import check_values

DEVIATION_FLOOR = 1e-4
"""Added to the standard deviation of a group's rewards, which is 0 if they are equal (as in DeepSeekMath)."""


@flax.struct.dataclass
class Experience:
    """Samples of a batch, with rewards and advantages. The first dim of all leaves is the batch.

    Attributes:
        batch: sources and references, one per row.
        tokens: token ids of the samples.
        mask: True at tokens of a sample, False at padding.
        log_probabilities: of the tokens under the policy that sampled them.
        drawn_lengths: lengths (tokens) of all decoded texts, a greedy one included.
        ended: whether a sample ends in the EOS token.
        rewards: of the samples.
        metrics: the terms of the reward, by name.
        advantages: weights of the tokens' log-probabilities; one per sample, or one per token.
        returns: future reward when a token is sampled; one per sample, or one per token.
        reference_log_probabilities: of the tokens under the frozen reference model; None = no reference model.
        hidden: the decoder's states before each token, without its dropout; None = no learned baseline.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimator:
    """Base class of the estimators, with the loss -1/K Σ_k Σ_t A_k,t log π(y_k,t | y_k,<t, x) for advantages A."""

    minimum_samples: ClassVar[int] = 1
    """Minimum number of samples per source."""
    compares_with_greedy: ClassVar[bool] = False
    """Whether a greedy text is decoded in addition to the samples."""
    baseline: ClassVar[str] = "none"
    """The baseline that the objective keeps; see Reinforce."""
    clip: ClassVar[float | None] = None
    """Maximum difference from 1 of the ratio to the sampling policy; see GroupNormalized."""
    updates: ClassVar[int] = 1
    """Updates on the same samples."""

    def advantages(
        self,
        returns: Float[Array, "batch samples tokens"],
        *,
        greedy: Float[Array, "batch one"] | None,
        baseline: Float[Array, "*values"] | None,
    ) -> Float[Array, "batch samples tokens"]:
        """The advantage of each sample, or of each of its tokens, over the expected return.

        Args:
            returns: future rewards; one per sample or one per token.
            greedy: reward of the greedy text, if the estimator compares with it.
            baseline: expected return, if the estimator has a baseline: one number, or one per token.
        """
        raise NotImplementedError

    def losses(
        self, log_probabilities: Float[Array, "batch samples length"], experience: Experience
    ) -> Float[Array, "batch"]:
        """The loss of each source, to be differentiated with respect to the log-probabilities."""
        weighted = experience.advantages * log_probabilities
        return -jnp.mean(_sum_of_tokens(weighted, experience.mask), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reinforce(Estimator):
    """∇E[R] ≈ 1/K Σ_k (R_k - b) ∇log π(y_k), REINFORCE with a baseline b.

    Bias: none, as no baseline depends on the token whose gradient it weights. "moving_average": b is a bias-corrected
    exponential moving average of the mean rewards of earlier batches. "learned": b is a linear function of the
    decoder's state before the token, a second player, fitted to the returns by least squares; its gradient does not
    reach the model.

    Source: Williams 1992; Ranzato et al. 2016, section 3.2.2 (learned baseline).
    """

    baseline: Literal["none", "moving_average", "learned"] = "moving_average"
    """Baseline, which is subtracted from the reward."""
    baseline_decay: float | None = 0.95
    """Decay of the moving average per batch; only for moving_average."""

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

    Bias: none, as the greedy text does not depend on the samples. Samples that are better than greedy decoding, which
    is how the model is used, become more probable.

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
    """1/K Σ_k Σ_t min(ρ A_k, clip(ρ, 1-ε, 1+ε) A_k), A_k = (R_k - mean R) / (std R + 1e-4), ρ = π / π_sampled per
    token.

    Bias: a biased estimate of the gradient of the expected reward. The mean includes the sample itself, which scales by
    (K-1)/K; the division by the standard deviation gives more weight to sources whose samples have similar rewards;
    clipping, and updates on samples of an older policy, add bias. The denominator of the ratio is the probability
    during sampling, without dropout: with dropout the ratio is not 1 even in the first update. Without clip there is no
    ratio.

    Source: Shao et al. 2024 (DeepSeekMath), equation 3, without division by the length of a text (Liu et al. 2025).
    """

    minimum_samples: ClassVar[int] = 2

    divide_by_deviation: bool = True
    """Whether advantages are divided by the standard deviation of the group's rewards."""
    clip: float | None = None
    """Maximum difference ε of the ratio from 1; None = no ratio, and one update per batch."""
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

    Bias: a biased estimate of the gradient of the expected reward. It is the exact gradient of the expected reward of
    Q, a distribution over the sampled texts only, sharpened (α > 1) or flattened (α < 1).

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
        """Each reward minus the mean of the set; used for logging only."""
        return returns - jnp.mean(returns, axis=1, keepdims=True)

    def losses(self, log_probabilities, experience):
        """See Estimator.losses."""
        scores = self.sharpness * _sum_of_tokens(log_probabilities, experience.mask)
        probabilities = jax.nn.softmax(jnp.where(is_duplicate(experience.tokens), -jnp.inf, scores), axis=1)
        return -jnp.sum(probabilities * experience.rewards, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceWeighted(Estimator):
    """1/K Σ_k (K w_k - 1) ∇log π(y_k), with w = softmax(R_1 .. R_K): MaliGAN's weights, for rewards that are logits.

    If R = log p/π, w are self-normalised importance weights, and the gradient follows that of the log-likelihood of p,
    E_p[∇log π], whatever the normaliser of p is. Bias: of order 1/K, as the normaliser is estimated from the same
    samples; one sample whose ratio is large takes all the weight.

    Source: Che et al. 2017 (MaliGAN), section 3.2, with a baseline of 1/K.
    """

    minimum_samples: ClassVar[int] = 2

    def advantages(self, returns, *, greedy, baseline):
        """See Estimator.advantages."""
        return returns.shape[1] * jax.nn.softmax(returns, axis=1) - 1.0


def is_duplicate(tokens: Int[Array, "batch samples length"]) -> Bool[Array, "batch samples"]:
    """True for a sample that equals an earlier one of the same source."""
    same = jnp.all(tokens[:, :, None] == tokens[:, None, :], axis=-1)
    earlier = jnp.tri(tokens.shape[1], k=-1, dtype=bool)
    return jnp.any(same & earlier, axis=2)


def _sum_of_tokens(
    values: Float[Array, "batch samples length"], mask: Bool[Array, "batch samples length"]
) -> Float[Array, "batch samples"]:
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)
