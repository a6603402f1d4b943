"""General attention."""

import dataclasses

from jaxtyping import Array, Float

from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.global_attention.base import GlobalAttention, GlobalAttentionConfig
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneralAttentionConfig(GlobalAttentionConfig):
    """General attention: a bilinear score."""

    def build(self, *, query_dim: int, memory_dim: int, precision: Precision) -> "GeneralAttention":
        return GeneralAttention(query_dim, memory_dim, precision)

    def score_flops(
        self, source: Amount, target: Amount, *, query_dim: int, memory_dim: int, hypotheses: int
    ) -> Amount:
        keys = product_flops(source, memory_dim, query_dim)
        return keys + hypotheses * product_flops(source * target, query_dim, 1)


class GeneralAttention(GlobalAttention):
    """score = query^T W state.

    Source: Luong et al. 2015, equation 8.
    """

    def setup(self):
        self.memory = Linear(
            input_dims=(self.memory_dim,),
            output_dims=(self.query_dim,),
            axes=("model", "hidden"),
            bias=False,
            precision=self.precision,
        )

    def keys(self, states: Float[Array, "batch source memory"]) -> Float[Array, "batch source key"]:
        return self.memory(states)
