"""Multi-head attention over segments, with grouped queries and a cache for stepwise decoding."""

from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.modules.cap import capped
from seq2seq_jax.modules.dot_product_attention import MASKED_SCORE, blocked_attention, dot_product_attention
from seq2seq_jax.modules.fused_attention import fused_attention, obstacle
from seq2seq_jax.modules.linear import Linear, Lora
from seq2seq_jax.modules.normalization import EPSILON, Normalization, NormalizationKind
from seq2seq_jax.modules.position import RotaryConfig, rotate
from seq2seq_jax.modules.precision import Precision, product
from seq2seq_jax.modules.segments import Segments
from seq2seq_jax.parallel.mesh import gather_length, shard_length

WEIGHTS = "attention_weights"
"""Collection that attention weights are recorded in, as [layers, batch, heads, target, source], when it is mutable;
those of a step as [batch, heads, beam, source], once for each layer."""

Projection = Literal["query", "key", "value", "output"]
PROJECTIONS = ("query", "key", "value", "output")

AttentionKernel = Literal["auto", "fused", "blocked", "plain"]
"""How attention is computed: "plain" on all scores at once, "blocked" on those of a block of queries at a time, "fused"
by cuDNN's kernel, "auto" fused wherever it can be, else blocked for long rows without a relative bias, else plain."""

LONG = 512
"""Queries and keys of a row (their geometric mean) from which on "auto" is blocked."""


@flax.struct.dataclass
class KeysValues:
    """Projected keys and values."""

    keys: Float[Array, "batch source kv_heads head_dim"]
    values: Float[Array, "batch source kv_heads head_dim"]


@flax.struct.dataclass
class StepKeysValues:
    """Keys and values as one step after the other reads them: each head's a matrix that a product takes as it lies."""

    keys: Float[Array, "batch kv_heads head_dim source"]
    values: Float[Array, "batch kv_heads source head_dim"]


def record(module: nn.Module, weights: Float[Array, "... target source"]) -> None:
    """Keep the weights where `WEIGHTS` is mutable; elsewhere this costs nothing."""
    module.sow(WEIGHTS, "weights", weights, reduce_fn=lambda _, new: new, init_fn=lambda: None)


def record_step(module: nn.Module, weights: Float[Array, "batch heads beam source"]) -> None:
    """The same for a step of a module that several layers share, which all are kept of."""
    module.sow(WEIGHTS, "weights", weights)


class MultiHeadAttention(nn.Module):
    """softmax(scale Q K^T + bias) V, for num_heads queries sharing num_kv_heads keys and values.

    Attributes:
        rotary: frequencies of rotary positions; None = queries and keys are not rotated.
        biased: projections that have a bias.
        scale: of the scores; None = 1 / sqrt(head_dim).
        norm: normalisation of each head's queries and keys, before they are rotated; None = there is none.
        norm_epsilon: of that.
        lora: changes of low rank of projections, by name.
        cap: bound of the scores, see `capped`; None = there is none.

    Source: Vaswani et al. 2017, equation 1; Ainslie et al. 2023 (grouped queries); Dehghani et al. 2023, section 2
    (normalised queries and keys).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    model_dim: int
    memory_dim: int
    rotary: RotaryConfig | None
    biased: tuple[Projection, ...]
    dropout: float
    precision: Precision
    kernel: AttentionKernel = "auto"
    scale: float | None = None
    norm: NormalizationKind | None = None
    norm_epsilon: float = EPSILON
    lora: tuple[tuple[str, Lora], ...] = ()
    cap: float | None = None

    def setup(self):
        def projection(input_dim, heads, axis, name):
            return Linear(
                input_dims=(input_dim,),
                output_dims=(heads, self.head_dim),
                axes=("model", axis, "head_dim"),
                bias=name in self.biased,
                precision=self.precision,
                lora=dict(self.lora).get(name),
            )

        self.query = projection(self.model_dim, self.num_heads, "heads", "query")
        self.key = projection(self.memory_dim, self.num_kv_heads, "kv_heads", "key")
        self.value = projection(self.memory_dim, self.num_kv_heads, "kv_heads", "value")
        self.output = Linear(
            input_dims=(self.num_heads, self.head_dim),
            output_dims=(self.model_dim,),
            axes=("heads", "head_dim", "model"),
            bias="output" in self.biased,
            precision=self.precision,
            lora=dict(self.lora).get("output"),
        )
        if self.norm is not None:
            self.query_norm = Normalization(self.norm, self.norm_epsilon)
            self.key_norm = Normalization(self.norm, self.norm_epsilon)

    def _rotated(
        self,
        x: Float[Array, "batch length heads head_dim"],
        positions: Int[Array, "batch length"],
        frequencies: Float[Array, "pairs"] | None,
    ) -> Float[Array, "batch length heads head_dim"]:
        return rotate(x, positions, self.rotary.frequencies(self.head_dim // 2) if frequencies is None else frequencies)

    def _queries(
        self,
        x: Float[Array, "batch target model"],
        positions: Int[Array, "batch target"] | None,
        frequencies: Float[Array, "pairs"] | None = None,
    ) -> Float[Array, "batch target heads head_dim"]:
        """Queries, times what makes 1 / sqrt(head_dim), by which all kernels multiply, the scale.

        Args:
            positions: None = they are not rotated.
            frequencies: of rotary positions; None = those of `rotary`.
        """
        queries = self.query(x)
        if self.norm is not None:
            queries = self.query_norm(queries)
        if self.rotary is not None and positions is not None:
            queries = self._rotated(queries, positions, frequencies)
        return queries if self.scale is None else queries * (self.scale * self.head_dim**0.5)

    def keys_values(
        self,
        states: Float[Array, "batch source memory"],
        values: Float[Array, "batch source memory"],
        positions: Int[Array, "batch source"],
        frequencies: Float[Array, "pairs"] | None = None,
    ) -> KeysValues:
        """Project what is attended to.

        Args:
            frequencies: of rotary positions; None = those of `rotary`.
        """
        keys, values = self.key(states), self.value(values)
        if self.norm is not None:
            keys = self.key_norm(keys)
        if self.rotary is not None:
            keys = self._rotated(keys, positions, frequencies)
        return KeysValues(keys=gather_length(keys, 1), values=gather_length(values, 1))

    def __call__(
        self,
        x: Float[Array, "batch target model"],
        memory: KeysValues,
        *,
        positions: Int[Array, "batch target"],
        segments: Segments,
        bias: Float[Array, "#batch heads target source"] | None,
        deterministic: bool,
        frequencies: Float[Array, "pairs"] | None = None,
    ) -> Float[Array, "batch target model"]:
        """Attend from each position of x.

        Args:
            segments: which keys each query may read.
            bias: added to the scores.
            frequencies: of rotary positions; None = those of `rotary`.

        Raises:
            ValueError: kernel = fused, and it cannot be; the message says why.
        """
        queries = self._queries(x, positions, frequencies)
        if x.shape[1] > 1:
            queries = shard_length(queries, 1)
        drops = self.dropout > 0.0 and not deterministic
        kernel = self._chosen_kernel(segments, relative=bias is not None, drops=drops)
        if kernel == "fused":
            return self.output(fused_attention(queries, memory.keys, memory.values, segments, bias=bias))
        settings = {
            "bias": bias,
            "dropout": self.dropout,
            "dropout_key": self.make_rng("dropout") if drops else None,
            "precision": self.precision,
            "cap": self.cap,
        }
        if kernel == "blocked":
            return self.output(blocked_attention(queries, memory.keys, memory.values, segments, **settings))
        context, weights = dot_product_attention(queries, memory.keys, memory.values, segments.mask(), **settings)
        record(self, weights)
        return self.output(context)

    def _chosen_kernel(self, segments: Segments, *, relative: bool, drops: bool) -> AttentionKernel:
        """How this attention is computed; never "auto"."""
        # Nothing but plain attention has the weights to record.
        if self.kernel == "plain" or self.is_initializing() or self.is_mutable_collection(WEIGHTS):
            return "plain"
        if self.kernel == "blocked":
            return "blocked"
        reason = obstacle(
            segments,
            head_dim=self.head_dim,
            precision=self.precision,
            relative=relative,
            dropout=drops,
            cap=self.cap,
        )
        if reason is None:
            return "fused"
        if self.kernel == "fused":
            raise ValueError(f"attention_kernel = fused cannot be: {reason}, or set attention_kernel to auto.")
        # A relative bias is as large as the scores of a row, whichever way they are computed.
        long = segments.queries.shape[1] * segments.keys.shape[1] >= LONG**2
        return "blocked" if long and not relative else "plain"

    def step_keys_values(
        self, states: Float[Array, "batch source memory"], values: Float[Array, "batch source memory"]
    ) -> StepKeysValues:
        """Project what every step attends to."""
        projected = self.keys_values(states, values, jnp.zeros(states.shape[:2], jnp.int32))
        return StepKeysValues(keys=projected.keys.transpose(0, 2, 3, 1), values=projected.values.transpose(0, 2, 1, 3))

    def step(
        self,
        x: Float[Array, "batch beam model"],
        memory: StepKeysValues,
        *,
        mask: Bool[Array, "batch #beam source"],
    ) -> Float[Array, "batch beam model"]:
        """Attend from all hypotheses of a source at once to keys that they share, which are read once for all."""
        queries = self._step_queries(self._queries(x, None))
        scores = self._step_scores(queries, memory.keys, mask)
        weights = jax.nn.softmax(scores, axis=-1)
        record_step(self, weights.reshape(len(x), self.num_heads, x.shape[1], -1))
        return self._step_output(self._step_context(weights.astype(x.dtype), memory.values))

    def step_with_own(
        self,
        x: Float[Array, "batch beam model"],
        cache: StepKeysValues,
        *,
        positions: Int[Array, "batch beam"],
        mask: Bool[Array, "batch beam source"],
        bias: tuple[Float[Array, "heads source"], Float[Array, "heads"]] | None,
        frequencies: Float[Array, "pairs"] | None = None,
    ) -> tuple[Float[Array, "batch beam model"], KeysValues]:
        """Attend from each hypothesis to what stands in the cache, and to itself.

        The cache is only read, so that a loop over steps need not copy it.

        Args:
            cache: keys and values of earlier positions, of all hypotheses of a source.
            mask: which of them each hypothesis may read.
            bias: added to the scores of the cache, and to that of itself.
            frequencies: of rotary positions; None = those of `rotary`.

        Returns:
            What it attended to, and its own keys and values.
        """
        own = self.keys_values(x, x, positions, frequencies)
        queries = self._step_queries(self._queries(x, positions, frequencies))
        scores = self._step_scores(queries, cache.keys, mask, None if bias is None else bias[0])
        own_keys, own_values = own.keys.transpose(0, 2, 1, 3)[:, :, None], own.values.transpose(0, 2, 1, 3)[:, :, None]
        own_scores = capped(jnp.sum((queries * own_keys).astype(jnp.float32), axis=-1, keepdims=True), self.cap)
        if bias is not None:
            own_scores = own_scores + bias[1].reshape(self.num_kv_heads, -1, 1, 1)
        highest = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), own_scores)
        weights, own_weights = jnp.exp(scores - highest), jnp.exp(own_scores - highest)
        total = jnp.sum(weights, axis=-1, keepdims=True) + own_weights
        context = self._step_context((weights / total).astype(x.dtype), cache.values)
        return self._step_output(context + (own_weights / total).astype(x.dtype) * own_values), own

    def _step_queries(
        self, queries: Float[Array, "batch beam heads head_dim"]
    ) -> Float[Array, "batch kv_heads group beam head_dim"]:
        batch, beam = queries.shape[:2]
        queries = queries.transpose(0, 2, 1, 3).reshape(batch, self.num_kv_heads, -1, beam, self.head_dim)
        return queries * self.head_dim**-0.5

    def _step_scores(self, queries, keys, mask, bias=None) -> Float[Array, "batch kv_heads group beam source"]:
        batch, kv_heads, group, beam, head_dim = queries.shape
        rows = queries.reshape(batch, kv_heads, group * beam, head_dim)
        scores = product("bkrd,bkds->bkrs", rows, keys, precision=self.precision).astype(jnp.float32)
        scores = capped(scores.reshape(batch, kv_heads, group, beam, -1), self.cap)
        if bias is not None:
            scores = scores + bias.reshape(kv_heads, group, 1, -1)
        return jnp.where(mask[:, None, None], scores, MASKED_SCORE)

    def _step_context(self, weights, values) -> Float[Array, "batch kv_heads group beam head_dim"]:
        batch, kv_heads, group, beam, source = weights.shape
        rows = weights.reshape(batch, kv_heads, group * beam, source)
        context = product("bkrs,bksd->bkrd", rows, values, precision=self.precision)
        return context.reshape(batch, kv_heads, group, beam, -1)

    def _step_output(self, context) -> Float[Array, "batch beam model"]:
        batch, _, _, beam, _ = context.shape
        context = context.reshape(batch, self.num_heads, beam, self.head_dim).transpose(0, 2, 1, 3)
        return self.output(context)
