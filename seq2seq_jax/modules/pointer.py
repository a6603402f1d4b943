"""Copying: a distribution over source tokens beside that over the vocabulary, and the probability of either."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Memory
from seq2seq_jax.modules.attention import MASKED_SCORE
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision, product
from seq2seq_jax.modules.segments import segment_mask

LEAST_PROBABILITY = 1e-30
"""Added to probabilities of copying, so that their logarithm and its gradient are finite."""


@flax.struct.dataclass
class PointerSource:
    """What a pointer reads of a source, the same for all target positions and hypotheses.

    Attributes:
        keys: compared with hidden states.
        gates: what each source token adds to the score of the vocabulary, in proportion to its weight.
        tokens: ids of the source tokens, in the vocabulary of the target.
        segment_ids: segment ids of the source tokens.
    """

    keys: Float[Array, "batch source key"]
    gates: Float[Array, "batch source"]
    tokens: Int[Array, "batch source"]
    segment_ids: Int[Array, "batch source"]


@flax.struct.dataclass
class Pointed:
    """Where a pointer points at each target position, and how far it is followed.

    Attributes:
        log_weights: logarithm of the attention weight of each source token; their weights sum to 1.
        score: log p_gen - log (1 - p_gen), where p_gen is the probability that the token comes from the vocabulary.
    """

    log_weights: Float[Array, "*dims source"]
    score: Float[Array, "*dims"]

    @property
    def log_generated(self) -> Float[Array, "*dims"]:
        """log p_gen."""
        return jax.nn.log_sigmoid(self.score)

    def log_copied(self, labels: Int[Array, "*dims"], tokens: Int[Array, "*#dims source"]) -> Float[Array, "*dims"]:
        """log (1 - p_gen) Σ weight, over the source tokens that are the label; about `MASKED_SCORE` if none is.

        Args:
            tokens: ids of the source tokens.
        """
        is_label = labels[..., None] == tokens
        log_weight = jax.nn.logsumexp(jnp.where(is_label, self.log_weights, MASKED_SCORE), axis=-1)
        return jax.nn.log_sigmoid(-self.score) + log_weight


class Pointer(nn.Module):
    """p(token) = p_gen p_vocabulary(token) + (1 - p_gen) Σ_i a_i [source token i is the token].

    The weights a are those of one head of attention between the decoder's hidden state h and the encoder's states, with
    Σ_i a_i value_i as context, and p_gen = sigmoid(w context + v h + b). It works with any decoder, whatever computes
    the decoder's own attention; the paper's decoder has one attention, which is used for both.

    In order, the key of a source token is the sum of a projection of its state and one of the embedding of the token
    before it. As h knows which token was written last, a pointer learns in few updates to point behind it, and so to
    copy names of several pieces.

    Source: See et al. 2017, equations 8 and 9; Gu et al. 2016 (scores of its own for copying; in order is to the same
    end as its selective read).

    Attributes:
        preceding_dim: of the embeddings of preceding tokens; None = not in order.
    """

    model_dim: int
    memory_dim: int
    preceding_dim: int | None
    precision: Precision

    def setup(self):
        def linear(input_dim, output_dims, *, bias):
            axes = ("model", "head_dim")[: 1 + len(output_dims)]
            return Linear(
                input_dims=(input_dim,), output_dims=output_dims, axes=axes, bias=bias, precision=self.precision
            )

        self.query = linear(self.model_dim, (self.model_dim,), bias=True)
        self.key = linear(self.memory_dim, (self.model_dim,), bias=False)
        if self.preceding_dim is not None:
            self.preceding_key = linear(self.preceding_dim, (self.model_dim,), bias=False)
        self.state_gate = linear(self.model_dim, (1,), bias=True)
        self.context_gate = linear(self.memory_dim, (1,), bias=False)

    def source(self, memory: Memory) -> PointerSource:
        """What it reads of the encoded sources."""
        keys = self.key(memory.states)
        return PointerSource(
            keys=keys if self.preceding_dim is None else keys + self.preceding_key(memory.preceding),
            gates=self.context_gate(memory.values)[..., 0].astype(jnp.float32),
            tokens=memory.tokens,
            segment_ids=memory.segment_ids,
        )

    def __call__(
        self,
        hidden: Float[Array, "batch target model"],
        segment_ids: Int[Array, "batch target"],
        source: PointerSource,
    ) -> Pointed:
        """Where each target position points.

        Args:
            segment_ids: of the target positions, which point at source tokens of the same segment.
        """
        queries = self.query(hidden) * self.model_dim**-0.5
        scores = product("btk,bsk->bts", queries, source.keys, precision=self.precision).astype(jnp.float32)
        mask = segment_mask(segment_ids, source.segment_ids)
        log_weights = jax.nn.log_softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
        context = jnp.einsum("bts,bs->bt", jnp.exp(log_weights), source.gates)
        return Pointed(log_weights=log_weights, score=context + self.state_gate(hidden)[..., 0].astype(jnp.float32))

    @staticmethod
    def flops(
        source: Amount,
        target: Amount,
        *,
        model_dim: int,
        memory_dim: int,
        preceding_dim: int | None,
        hypotheses: int,
    ) -> Amount:
        """Model FLOPs of `hypotheses` targets of one length for one source, whose keys they share."""
        # Keys and queries, and with each the gate's part of it.
        each = product_flops(target, model_dim, model_dim + 1) + product_flops(source * target, model_dim + 1, 1)
        keys = product_flops(source, memory_dim + (preceding_dim or 0), model_dim) + product_flops(
            source, memory_dim, 1
        )
        return keys + hypotheses * each


def mixed(
    logits: Float[Array, "batch target vocab"], pointed: Pointed, tokens: Int[Array, "batch source"]
) -> Float[Array, "batch target vocab"]:
    """Log-probabilities of all tokens of the vocabulary, from the scores of the vocabulary and what is pointed at.

    Args:
        tokens: ids of the source tokens.
    """
    batch, target = logits.shape[:2]
    rows = jnp.arange(batch)[:, None, None], jnp.arange(target)[:, None], tokens[:, None]
    copied = jnp.zeros_like(logits).at[rows].add(jnp.exp(pointed.log_weights))
    return jnp.logaddexp(
        pointed.log_generated[..., None] + jax.nn.log_softmax(logits, axis=-1),
        jax.nn.log_sigmoid(-pointed.score)[..., None] + jnp.log(copied + LEAST_PROBABILITY),
    )


def coverage_losses(pointed: Pointed) -> Float[Array, "batch target"]:
    """Σ_i min(a_i, c_i) of each target position, where c_i is the sum of the weights of source token i at earlier
    positions; from 0 to 1.

    Segments need no care: no two of them point at the same source token.

    Source: See et al. 2017, equations 10 and 12.
    """
    weights = jnp.exp(pointed.log_weights)
    return jnp.sum(jnp.minimum(weights, jnp.cumsum(weights, axis=-2) - weights), axis=-1)
