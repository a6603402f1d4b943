"""Multi-head attention over segments, with grouped queries and a cache for stepwise decoding."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.fused_attention import AttentionKernel, Segments, fused_attention, obstacle
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.position import rotate
from seq2seq_jax.modules.precision import Precision, product
from seq2seq_jax.parallel.mesh import divided_along_length, whole_along_length

WEIGHTS = "attention_weights"
"""Collection that attention weights are recorded in, as [layers, batch, heads, target, source], when it is mutable."""

MASKED_SCORE = -1e9
"""Score of a pair that may not attend: finite, so that a query with no key at all stays finite too."""


@flax.struct.dataclass
class KeysValues:
    """Projected keys and values."""

    keys: Float[Array, "batch source kv_heads head_dim"]
    values: Float[Array, "batch source kv_heads head_dim"]


def record(module: nn.Module, weights: Float[Array, "... target source"]) -> None:
    """Keep the weights where `WEIGHTS` is mutable; elsewhere this costs nothing."""
    module.sow(WEIGHTS, "weights", weights, reduce_fn=lambda _, new: new, init_fn=lambda: None)


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(head_dim) + bias) V, for num_heads queries sharing num_kv_heads keys and values.

    Source: Vaswani et al. 2017, equation 1; Ainslie et al. 2023 (grouped queries).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    model_dim: int
    memory_dim: int
    rotary: bool
    bias: bool
    dropout: float
    precision: Precision
    kernel: AttentionKernel = "auto"

    def setup(self):
        def projection(input_dim, heads, axis):
            return Linear(
                input_dims=(input_dim,),
                output_dims=(heads, self.head_dim),
                axes=("model", axis, "head_dim"),
                bias=self.bias,
                precision=self.precision,
            )

        self.query = projection(self.model_dim, self.num_heads, "heads")
        self.key = projection(self.memory_dim, self.num_kv_heads, "kv_heads")
        self.value = projection(self.memory_dim, self.num_kv_heads, "kv_heads")
        self.output = Linear(
            input_dims=(self.num_heads, self.head_dim),
            output_dims=(self.model_dim,),
            axes=("heads", "head_dim", "model"),
            bias=self.bias,
            precision=self.precision,
        )
        self.weights_dropout = Dropout(self.dropout)

    def keys_values(
        self,
        states: Float[Array, "batch source memory"],
        values: Float[Array, "batch source memory"],
        positions: Int[Array, "batch source"],
    ) -> KeysValues:
        """Project what is attended to."""
        keys, values = self.key(states), self.value(values)
        if self.rotary:
            keys = rotate(keys, positions)
        return KeysValues(keys=whole_along_length(keys, 1), values=whole_along_length(values, 1))

    def __call__(
        self,
        x: Float[Array, "batch target model"],
        memory: KeysValues,
        *,
        positions: Int[Array, "batch target"],
        mask: Bool[Array, "batch target source"],
        bias: Float[Array, "#batch heads target source"] | None,
        deterministic: bool,
        segments: Segments | None = None,
    ) -> Float[Array, "batch target model"]:
        """Attend from each position of x.

        Args:
            mask: which keys each query may read.
            bias: added to the scores.
            segments: what the mask is made of, where it is made of segments; attention may then be fused.

        Raises:
            ValueError: kernel = fused, and it cannot be; the message says why.
        """
        batch, target, _ = x.shape
        queries = self.query(x)
        if self.rotary:
            queries = rotate(queries, positions)
        if target > 1:
            queries = divided_along_length(queries, 1)
        if segments is not None and self._fuses(segments, bias, deterministic):
            return self.output(fused_attention(queries, memory.keys, memory.values, segments, bias=bias))
        group = self.num_heads // self.num_kv_heads
        queries = queries.reshape(batch, target, self.num_kv_heads, group, self.head_dim) * self.head_dim**-0.5
        scores = product("btkgd,bskd->bkgts", queries, memory.keys, precision=self.precision).astype(jnp.float32)
        if bias is not None:
            scores = scores + bias.reshape(-1, self.num_kv_heads, group, target, bias.shape[-1])
        scores = jnp.where(mask[:, None, None], scores, MASKED_SCORE)
        weights = jax.nn.softmax(scores, axis=-1)
        record(self, weights.reshape(batch, self.num_heads, target, -1))
        weights = self.weights_dropout(weights, deterministic=deterministic)
        context = product("bkgts,bskd->btkgd", weights.astype(x.dtype), memory.values, precision=self.precision)
        return self.output(context.reshape(batch, target, self.num_heads, self.head_dim))

    def _fuses(self, segments: Segments, bias: Array | None, deterministic: bool) -> bool:
        if self.kernel == "plain" or self.is_initializing():
            return False
        reason = obstacle(
            segments,
            head_dim=self.head_dim,
            precision=self.precision,
            relative=bias is not None,
            dropout=self.dropout > 0.0 and not deterministic,
            recorded=self.is_mutable_collection(WEIGHTS),
        )
        if reason is not None and self.kernel == "fused":
            raise ValueError(f"attention_kernel = fused cannot be: {reason}, or set attention_kernel to auto.")
        return reason is None
