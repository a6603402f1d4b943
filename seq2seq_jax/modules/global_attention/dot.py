"""Dot-product attention."""

import dataclasses

from jaxtyping import Array, Float

from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.global_attention.base import GlobalAttention, GlobalAttentionConfig
from seq2seq_jax.modules.precision import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotAttentionConfig(GlobalAttentionConfig):
    """Dot-product attention, between states of equal width."""

    scaled: bool = False
    """Whether the product is divided by the square root of the width."""

    def build(self, *, query_dim: int, memory_dim: int, precision: Precision) -> "DotAttention":
        if memory_dim != query_dim:
            raise ValueError(
                f"model.decoder.attention of a dot product needs states of equal width, and the encoder's have "
                f"{memory_dim}, the decoder's hidden_dim {query_dim}. Change either, or use general_attention."
            )
        return DotAttention(query_dim, memory_dim, precision, scaled=self.scaled)

    def score_flops(
        self, source: Amount, target: Amount, *, query_dim: int, memory_dim: int, hypotheses: int
    ) -> Amount:
        return hypotheses * product_flops(source * target, query_dim, 1)


class DotAttention(GlobalAttention):
    """score = query^T state, or that over the square root of the width.

    Source: Luong et al. 2015, equation 8.
    """

    scaled: bool = False

    def keys(self, states: Float[Array, "batch source memory"]) -> Float[Array, "batch source key"]:
        return states * self.memory_dim**-0.5 if self.scaled else states
