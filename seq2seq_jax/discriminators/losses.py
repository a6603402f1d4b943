"""What a discriminator minimises.

Throughout, p is the distribution of references, q that of samples, both given the source, and d the logit of a text.
Each docstring says which d is best: that is what a reward made of it follows, see
`seq2seq_jax.objectives.adversarial`.
"""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorLoss(abc.ABC):
    """Config of a loss of the logits of references and samples."""

    compares_texts: ClassVar[bool] = False
    """Whether a reference is compared with the samples of its source, so that no text has a loss of its own."""
    gradient_penalty: ClassVar[float] = 0.0
    """Weight of the penalty of gradients between references and samples; see Wasserstein."""
    finds_ratio: ClassVar[bool] = True
    """Whether the best logit is log p/q, up to a number that depends on the source alone."""

    def __post_init__(self):
        check_values(self, "objective.discriminator_loss")

    @abc.abstractmethod
    def losses(
        self, real: Float[Array, "batch *positions"], fake: Float[Array, "batch samples *positions"]
    ) -> Float[Array, "batch *positions"]:
        """The loss of each source.

        Args:
            real: logits of the reference.
            fake: logits of the samples.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointwiseLoss(DiscriminatorLoss):
    """Half the loss of the reference, and half the mean loss of the samples."""

    @abc.abstractmethod
    def of_real(self, logits: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
        """The loss of each reference."""

    @abc.abstractmethod
    def of_fake(self, logits: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
        """The loss of each sample."""

    def losses(self, real, fake):
        """See DiscriminatorLoss.losses."""
        return 0.5 * self.of_real(real) + 0.5 * jnp.mean(self.of_fake(fake), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logistic(PointwiseLoss):
    """-(1 - s) log σ(d) - s log(1 - σ(d)) of a reference, -log(1 - σ(d)) of a sample. Best: d = log p/q (for s = 0).

    With smoothing the best σ(d) is (1 - s) p / (p + q): what is certainly a reference does not drive d to infinity.

    Source: Goodfellow et al. 2014, equation 1; Salimans et al. 2016, section 3.4 (one-sided smoothing).
    """

    smoothing: float = 0.0
    """s, how much less than 1 the target probability of references is."""

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= self.smoothing < 0.5:
            raise ValueError(
                f"objective.discriminator_loss.smoothing must lie in [0, 0.5), and is {self.smoothing}: references "
                "would be labelled as samples."
            )

    def of_real(self, logits):
        """See PointwiseLoss.of_real."""
        return jax.nn.softplus(-logits) + self.smoothing * logits

    def of_fake(self, logits):
        """See PointwiseLoss.of_fake."""
        return jax.nn.softplus(logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hinge(PointwiseLoss):
    """max(0, 1 - d) of a reference, max(0, 1 + d) of a sample. Best: d = sign(p - q), which says nothing of how much
    more probable a text is.

    Source: Lim and Ye 2017, section 3.
    """

    finds_ratio: ClassVar[bool] = False

    def of_real(self, logits):
        """See PointwiseLoss.of_real."""
        return jax.nn.relu(1.0 - logits)

    def of_fake(self, logits):
        """See PointwiseLoss.of_fake."""
        return jax.nn.relu(1.0 + logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wasserstein(PointwiseLoss):
    """-d of a reference, d of a sample, plus `penalty` (‖∇d‖ - 1)² where embedded reference and sample are mixed at
    random. Best: the potential of the earth mover's distance between embedded texts.

    Source: Gulrajani et al. 2017, algorithm 1.
    """

    finds_ratio: ClassVar[bool] = False

    penalty: float = 10.0
    """Weight of the gradient penalty."""

    def __post_init__(self):
        super().__post_init__()
        if self.penalty <= 0.0:
            raise ValueError(
                f"objective.discriminator_loss.penalty must be positive, and is {self.penalty}: without it the loss "
                "has no minimum."
            )

    @property
    def gradient_penalty(self) -> float:
        """See DiscriminatorLoss.gradient_penalty."""
        return self.penalty

    def of_real(self, logits):
        """See PointwiseLoss.of_real."""
        return -logits

    def of_fake(self, logits):
        """See PointwiseLoss.of_fake."""
        return logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relativistic(DiscriminatorLoss):
    """-log σ(d(reference) - d(sample)), the mean over the samples of the source. Best: d = log p/q + c(source).

    Source: Jolicoeur-Martineau 2019, equation 8 (RSGAN).
    """

    compares_texts: ClassVar[bool] = True

    def losses(self, real, fake):
        """See DiscriminatorLoss.losses."""
        return jnp.mean(jax.nn.softplus(fake - real[:, None]), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(DiscriminatorLoss):
    """-log of the softmax of the reference's logit among those of all samples of its source. Best: d = log p/q +
    c(source).

    Source: van den Oord et al. 2018, equation 4 (InfoNCE), with samples of the generator as negatives.
    """

    compares_texts: ClassVar[bool] = True

    def losses(self, real, fake):
        """See DiscriminatorLoss.losses."""
        return jax.nn.logsumexp(jnp.concatenate([real[:, None], fake], axis=1), axis=1) - real
