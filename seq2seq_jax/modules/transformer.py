"""The config and the residual branches that a Transformer's encoder and decoder share."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import TokenRows
from seq2seq_jax.effects import changes
from seq2seq_jax.modules.attention import AttentionKernel, MultiHeadAttention
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.feed_forward import Activation, FeedForward
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.layers import ACTIVATION_AXES, Remat
from seq2seq_jax.modules.normalization import Normalization, NormalizationKind
from seq2seq_jax.modules.position import LearnedPositions, Positions, RelativeBias, sinusoidal
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.settings import check_rates, check_sizes
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of a stack of Transformer layers."""

    num_layers: int = 6
    """Layers of the stack."""
    model_dim: int = 512
    """Width of the residual stream."""
    num_heads: int = 8
    """Attention heads."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by num_heads / num_kv_heads query heads; None = num_heads."""
    head_dim: int | None = None
    """Width of a head; None = model_dim / num_heads."""
    hidden_dim: int = 2048
    """Width inside the feed-forward layer."""
    activation: Activation = "relu"
    """Nonlinearity of the feed-forward layer."""
    gated: bool = False
    """Whether the feed-forward layer is gated (three matrices)."""
    feed_forward_bias: bool | None = None
    """Whether the feed-forward layer has biases; None = unless it is gated."""
    normalization: NormalizationKind = "layer"
    """LayerNorm, or RMSNorm without biases."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise the input of each branch (and the stack's output), or each residual sum."""
    positions: Positions = "sinusoidal"
    """Position encoding: added to the embeddings (sinusoidal, learned), rotating queries and keys, or T5's relative
    bias on the attention scores."""
    max_positions: int | None = None
    """Rows of the table of learned positions (tokens); only for positions = learned."""
    relative_buckets: int | None = None
    """Buckets of the relative bias (T5: 32); only for positions = relative."""
    relative_max_distance: int | None = None
    """Distance (tokens) from which on all pairs share a bucket (T5: 128); only for positions = relative."""
    attention_bias: bool = True
    """Whether the attention projections have biases."""
    dropout: float = dataclasses.field(default=0.1, metadata=changes("numbers"))
    """Dropout on embeddings and on each branch before its residual sum."""
    attention_dropout: float = dataclasses.field(default=0.0, metadata=changes("numbers"))
    """Dropout on attention weights."""
    hidden_dropout: float = dataclasses.field(default=0.0, metadata=changes("numbers"))
    """Dropout inside the feed-forward layer."""
    scan_layers: bool = dataclasses.field(default=False, metadata=changes("numbers"))
    """Compile one layer and loop over it, instead of unrolling all layers: deep stacks compile faster. The parameters
    are the same."""
    attention_kernel: AttentionKernel = dataclasses.field(default="auto", metadata=changes("numbers"))
    """How attention is computed: plain, all scores at once; blocked, the scores of 256 queries at a time, so that
    memory is linear in the row length; fused, by cuDNN on an NVIDIA GPU (bfloat16); auto = fused where supported, else
    blocked for rows of 512 tokens and more without positions = relative, else plain."""
    remat: Remat = dataclasses.field(default="none", metadata=changes("numbers"))
    """What the backward pass recomputes: nothing; whole layers; all but what a TPU has gathered of the parameters along
    fsdp; all but fused or blocked attention; or all but such attention and matrix products."""

    def __post_init__(self):
        check_values(self, type(self).__name__)
        name = type(self).__name__
        check_sizes(self, "num_layers", "model_dim", "num_heads", "hidden_dim")
        check_sizes(self, *(field for field in ("num_kv_heads", "head_dim") if getattr(self, field) is not None))
        check_rates(self, "dropout", "attention_dropout", "hidden_dropout")
        if self.head_dim is None and self.model_dim % self.num_heads:
            raise ValueError(
                f"{name}.num_heads must divide model_dim: {self.model_dim} is not a multiple of {self.num_heads}. "
                "Change either, or set head_dim."
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"{name}.num_kv_heads must divide num_heads: {self.num_heads} is not a multiple of {self.kv_heads}."
            )
        if self.positions == "rotary" and self.dim_per_head % 2:
            raise ValueError(f"{name}.positions = rotary needs an even head_dim, not {self.dim_per_head}.")
        if self.positions == "sinusoidal" and self.model_dim % 2:
            raise ValueError(f"{name}.positions = sinusoidal needs an even model_dim, not {self.model_dim}.")
        for field, needed_by in (
            ("max_positions", "learned"),
            ("relative_buckets", "relative"),
            ("relative_max_distance", "relative"),
        ):
            if (getattr(self, field) is not None) != (self.positions == needed_by):
                raise ValueError(
                    f"{name}.{field} must be set when positions = {needed_by}, and only then; "
                    f"positions = {self.positions} and {field} = {getattr(self, field)}."
                )

    @property
    def position_limit(self) -> int | None:
        """Most tokens of an example that the stack has positions for; None = any number."""
        return self.max_positions

    @property
    def sharded_sizes(self) -> dict[str, tuple[str, int]]:
        """Field -> logical axis and size of each dim that a mesh shards."""
        return {
            "num_heads": ("heads", self.num_heads),
            "num_kv_heads": ("kv_heads", self.kv_heads),
            "hidden_dim": ("hidden", self.hidden_dim),
            "model_dim": ("model", self.model_dim),
        }

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def dim_per_head(self) -> int:
        """Width of a head."""
        return self.model_dim // self.num_heads if self.head_dim is None else self.head_dim

    def self_attention_flops(self, length: Amount, pairs: Amount) -> Amount:
        """FLOPs of one layer, for the given numbers of tokens and of attending pairs."""
        queries, keys = self.num_heads * self.dim_per_head, self.kv_heads * self.dim_per_head
        projections = product_flops(length, self.model_dim, 2 * queries + 2 * keys)
        return projections + 2 * product_flops(pairs, self.dim_per_head, self.num_heads)

    def feed_forward_flops(self, length: Amount) -> Amount:
        """FLOPs of one layer."""
        return product_flops(length, self.model_dim, (3 if self.gated else 2) * self.hidden_dim)

    def attention(self, *, memory_dim: int, self_attention: bool, precision: Precision) -> MultiHeadAttention:
        """An attention layer of this stack."""
        return MultiHeadAttention(
            num_heads=self.num_heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.dim_per_head,
            model_dim=self.model_dim,
            memory_dim=memory_dim,
            rotary=self_attention and self.positions == "rotary",
            bias=self.attention_bias,
            dropout=self.attention_dropout,
            precision=precision,
            kernel=self.attention_kernel,
        )

    def feed_forward(self, *, precision: Precision) -> FeedForward:
        """A feed-forward layer of this stack."""
        return FeedForward(
            hidden_dim=self.hidden_dim,
            activation=self.activation,
            gated=self.gated,
            bias=not self.gated if self.feed_forward_bias is None else self.feed_forward_bias,
            dropout=self.hidden_dropout,
            precision=precision,
        )


class Residual(nn.Module):
    """x + branch(x) with its normalisation and dropout, pre- or post-norm.

    Source: Vaswani et al. 2017 (post); Xiong et al. 2020 (pre).
    """

    config: TransformerConfig

    def setup(self):
        self.norm = Normalization(self.config.normalization)
        self.dropout = Dropout(self.config.dropout)

    def __call__(
        self, x: Float[Array, "batch length model"], branch: Callable[[Array], Array], *, deterministic: bool
    ) -> Float[Array, "batch length model"]:
        if self.config.norm_position == "pre":
            x = x + self.dropout(branch(self.norm(x)), deterministic=deterministic)
        else:
            x = self.norm(x + self.dropout(branch(x), deterministic=deterministic))
        return nn.with_logical_constraint(x, ACTIVATION_AXES)


class PositionsAndFinalNorm(nn.Module):
    """What surrounds the layers: position encodings before them, and the final norm of a pre-norm stack."""

    config: TransformerConfig
    causal: bool
    precision: Precision

    def setup(self):
        config = self.config
        if config.positions == "learned":
            self.learned = LearnedPositions(config.max_positions, config.model_dim)
        if config.positions == "relative":
            self.relative = RelativeBias(
                num_heads=config.num_heads,
                num_buckets=config.relative_buckets,
                max_distance=config.relative_max_distance,
                bidirectional=not self.causal,
            )
        if config.norm_position == "pre":
            self.norm = Normalization(config.normalization)
        self.dropout = Dropout(config.dropout)

    def before_layers(
        self,
        inputs: Float[Array, "batch length model"],
        positions: Int[Array, "batch length"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch length model"]:
        """The first layer's input: embeddings with position encodings and dropout."""
        if self.config.positions == "sinusoidal":
            inputs = inputs + sinusoidal(positions, model_dim=self.config.model_dim)
        elif self.config.positions == "learned":
            inputs = inputs + self.learned(positions)
        inputs = self.dropout(inputs.astype(activation_dtype(self.precision)), deterministic=deterministic)
        return nn.with_logical_constraint(inputs, ACTIVATION_AXES)

    def bias(
        self, query_positions: Int[Array, "batch target"], key_positions: Int[Array, "batch source"]
    ) -> Float[Array, "batch heads target source"] | None:
        """The relative bias on attention scores; None if the stack has none."""
        return self.relative(query_positions, key_positions) if self.config.positions == "relative" else None

    def self_bias(self, sequence: TokenRows) -> Float[Array, "#batch heads length length"] | None:
        """The relative bias between the positions of a sequence, shared by all rows if each has a single segment."""
        positions = sequence.positions
        if sequence.max_segments == 1:
            positions = jnp.arange(positions.shape[1])[None]
        return self.bias(positions, positions)

    def after_layers(self, x: Float[Array, "batch length model"]) -> Float[Array, "batch length model"]:
        """The stack's output."""
        return self.norm(x) if self.config.norm_position == "pre" else x
