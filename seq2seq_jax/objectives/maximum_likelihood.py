"""Maximum likelihood: cross-entropy of the target tokens, with label smoothing and z-loss."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.objectives.objective import Params, Total


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaximumLikelihoodConfig:
    """Settings of maximum likelihood."""

    label_smoothing: float = 0.1
    """Probability mass that the label gives to all tokens of the vocabulary alike."""
    z_loss: float = 0.0
    """Weight of the squared log of the softmax normaliser (T5 and PaLM: 1e-4)."""
    loss_chunk: int | None = None
    """Target positions of a row that go through the vocabulary at a time, so that the logits of all tokens never
    exist at once; None = all. Divides data.max_target_length."""

    def __post_init__(self):
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"objective.label_smoothing must lie in [0, 1), not {self.label_smoothing}.")
        if self.z_loss < 0.0:
            raise ValueError(f"objective.z_loss must not be negative, and is {self.z_loss}.")
        if self.loss_chunk is not None and self.loss_chunk < 1:
            raise ValueError(f"objective.loss_chunk must be at least 1 position, not {self.loss_chunk}.")

    def build(self, model: EncoderDecoder) -> "MaximumLikelihood":
        """The objective for a model."""
        return MaximumLikelihood(self, model)


def cross_entropy(
    logits: Float[Array, "*dims vocab"],
    labels: Int[Array, "*dims"],
    *,
    label_smoothing: float,
    z_loss: float,
) -> tuple[Float[Array, "*dims"], Float[Array, "*dims"]]:
    """Loss and negative log-likelihood (nats) of each token.

    With q = (1 - ε) onehot(label) + ε / vocab, the loss is -Σ q log p + z (log Z)².

    Source: Szegedy et al. 2016, section 7 (label smoothing); Chowdhery et al. 2022, section 5 (z-loss).
    """
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A comparison instead of a gather: its gradient is no scatter, and a vocabulary may be sharded.
    is_label = jnp.arange(logits.shape[-1]) == labels[..., None]
    negative_log_likelihood = log_normalizer - jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
    uniform = log_normalizer - jnp.mean(logits, axis=-1)
    loss = (1.0 - label_smoothing) * negative_log_likelihood + label_smoothing * uniform
    return loss + z_loss * jnp.square(log_normalizer), negative_log_likelihood


class MaximumLikelihood:
    """The objective. Its loss is normalised per target token (end marks counted) of the global batch."""

    players = ("model",)

    def __init__(self, config: MaximumLikelihoodConfig, model: EncoderDecoder):
        self.config = config
        self.model = model

    def loss(
        self, player: str, params: dict[str, Params], batch: Batch, rng: jax.Array | None
    ) -> tuple[Total, dict[str, Total]]:
        """See Objective.loss; without an rng, dropout is off.

        Logged: `nll`, nats a target token without smoothing.
        """
        variables = {"params": params[player]}
        hidden = self.model.apply(
            variables,
            batch,
            deterministic=rng is None,
            rngs=None if rng is None else {"dropout": rng},
            method=lambda model, batch, deterministic: model.decode(
                batch.target, model.encode(batch.source, deterministic=deterministic), deterministic=deterministic
            ),
        )

        def sums(hidden, labels, mask):
            logits = self.model.apply(variables, hidden, method="logits")
            losses = cross_entropy(
                logits, labels, label_smoothing=self.config.label_smoothing, z_loss=self.config.z_loss
            )
            return jnp.stack([jnp.sum(jnp.where(mask, loss, 0.0)) for loss in losses])

        target = batch.target
        if self.config.loss_chunk is None:
            loss, nll = sums(hidden, target.tokens, target.mask)
        else:
            loss, nll = _sum_of_chunks(sums, (hidden, target.tokens, target.mask), self.config.loss_chunk)
        weight = jnp.sum(target.mask).astype(jnp.float32)
        return Total(loss, weight), {"nll": Total(nll, weight)}


def _sum_of_chunks(function, arrays, chunk):
    """The sum of function over chunks of dim 1; the backward pass computes each chunk again."""

    def chunks(array):
        batch, length = array.shape[:2]
        if length % chunk:
            raise ValueError(
                f"objective.loss_chunk must divide the target row of {length} tokens, and {chunk} does not."
            )
        return jnp.moveaxis(array.reshape(batch, length // chunk, chunk, *array.shape[2:]), 1, 0)

    def add(total, arrays):
        return total + jax.checkpoint(function)(*arrays), None

    total, _ = jax.lax.scan(add, jnp.zeros(2), jax.tree.map(chunks, arrays))
    return total
