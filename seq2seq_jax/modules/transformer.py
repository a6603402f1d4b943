"""The config and the residual branches that a Transformer's encoder and decoder share."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import SourceRows
from seq2seq_jax.effects import changes
from seq2seq_jax.modules.attention import PROJECTIONS, AttentionKernel, MultiHeadAttention, Projection
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.feed_forward import Activation, FeedForward
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.layers import ACTIVATION_AXES, Remat
from seq2seq_jax.modules.linear import Lora
from seq2seq_jax.modules.normalization import EPSILON, Normalization, NormalizationKind
from seq2seq_jax.modules.position import LearnedPositions, Positions, RelativeBias, RotaryConfig, sinusoidal
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.settings import check_rates, check_sizes
from seq2seq_jax.values import check_values

LoraLayer = Literal["query", "key", "value", "output", "expand", "gate", "contract"]


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
    """Nonlinearity of the feed-forward layer; gelu is the approximation by tanh, gelu_exact has the error function."""
    gated: bool = False
    """Whether the feed-forward layer is gated (three matrices)."""
    feed_forward_bias: bool | None = None
    """Whether the feed-forward layer has biases; None = unless it is gated."""
    normalization: NormalizationKind = "layer"
    """LayerNorm, or RMSNorm without biases; rms_plus_one: scaled by 1 plus the parameter."""
    norm_position: Literal["pre", "post", "both"] = "pre"
    """Normalise the input of each branch (and the stack's output), each residual sum, or input and output of each
    branch (and the stack's output)."""
    norm_epsilon: float = EPSILON
    """Added to the variance that a normalisation divides by."""
    embedding_norm: bool = False
    """Whether the embeddings, with their positions, are normalised before the first layer."""
    query_key_norm: bool = False
    """Whether queries and keys are normalised, head by head."""
    positions: Positions = "sinusoidal"
    """Position encoding: added to the embeddings (sinusoidal, sinusoidal_open, learned), rotating queries and keys, or
    T5's relative bias on the attention scores."""
    position_offset: int = 0
    """Position of the first token; not for positions = rotary or relative."""
    rotary: RotaryConfig = RotaryConfig()
    """Frequencies of rotary positions; by default those of the paper. Only for positions = rotary."""
    max_positions: int | None = None
    """Rows of the table of learned positions (tokens); only for positions = learned."""
    token_types: int = 0
    """Rows of a table of token types, of which the first is added to every embedding (BERT: 2); 0 = no table."""
    relative_buckets: int | None = None
    """Buckets of the relative bias (T5: 32); only for positions = relative."""
    relative_max_distance: int | None = None
    """Distance (tokens) from which on all pairs share a bucket (T5: 128); only for positions = relative."""
    relative_per_layer: bool = False
    """Whether each layer has a relative bias of its own (UMT5), instead of one for all; only for positions = relative.
    """
    attention_bias: bool = True
    """Whether the attention projections have biases."""
    biased_projections: tuple[Projection, ...] | None = None
    """Which of the attention projections query, key, value and output have biases; None = all, with attention_bias."""
    attention_scale: float | None = None
    """What attention scores are multiplied by; None = 1 / sqrt(head width)."""
    attention_cap: float | None = None
    """Bound of the attention scores, which a tanh keeps within it (Gemma 2: 50); None = there is none."""
    attention_window: int | None = None
    """Self-attention reads keys at a distance below it (tokens); None = at any distance. Model FLOPs are counted as if
    there were none."""
    full_attention_every: int | None = None
    """Each n-th layer reads keys at any distance (Gemma 2: 2, Gemma 3: 6); None = none does. Only with
    attention_window."""
    window_rotary: RotaryConfig | None = None
    """Frequencies of rotary positions in the layers with a window (Gemma 3); None = as in the others. Only with
    attention_window."""
    lora_rank: int | None = None
    """Rank of changes (LoRA) of linear layers, which are all that is trained then unless optimizer.frozen says
    otherwise; None = there are none."""
    lora_alpha: float | None = None
    """Changes are multiplied by lora_alpha / lora_rank; None = by 1. Only with lora_rank."""
    lora_layers: tuple[LoraLayer, ...] = ("query", "value")
    """Which linear layers of each layer have such a change: query, key, value and output of attention; expand, gate and
    contract of the feed-forward layer. Only with lora_rank."""
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
        if self.positions in ("sinusoidal", "sinusoidal_open") and self.model_dim % 2:
            raise ValueError(f"{name}.positions = {self.positions} needs an even model_dim, not {self.model_dim}.")
        if self.norm_epsilon <= 0:
            raise ValueError(f"{name}.norm_epsilon must be positive, and is {self.norm_epsilon}.")
        if self.token_types < 0 or self.position_offset < 0:
            raise ValueError(
                f"{name}.token_types and position_offset must not be negative; they are {self.token_types} and "
                f"{self.position_offset}."
            )
        if self.position_offset and self.positions in ("rotary", "relative"):
            raise ValueError(
                f"{name}.position_offset has no effect with positions = {self.positions}, in which only distances "
                f"count: set it to 0, not {self.position_offset}."
            )
        if self.rotary != RotaryConfig() and self.positions != "rotary":
            raise ValueError(f"{name}.rotary has no effect with positions = {self.positions}: leave it as it is.")
        if self.relative_per_layer and self.positions != "relative":
            raise ValueError(f"{name}.relative_per_layer has no effect with positions = {self.positions}.")
        self._check_attention(name)
        if self.biased_projections is not None and not self.attention_bias:
            raise ValueError(
                f"{name}.biased_projections has no effect without attention_bias: set either to its default."
            )
        if self.position_offset >= (self.max_positions or math.inf):
            raise ValueError(
                f"{name}.position_offset must be below max_positions = {self.max_positions}, and is "
                f"{self.position_offset}."
            )
        if self.lora_rank is None and (self.lora_alpha is not None or self.lora_layers != ("query", "value")):
            raise ValueError(f"{name}.lora_alpha and lora_layers have no effect without lora_rank: set it, too.")
        if self.lora_rank is not None:
            check_sizes(self, "lora_rank")
            if self.lora_alpha is not None and self.lora_alpha <= 0:
                raise ValueError(f"{name}.lora_alpha must be positive, and is {self.lora_alpha}.")
            if not self.lora_layers or ("gate" in self.lora_layers and not self.gated):
                raise ValueError(
                    f"{name}.lora_layers must name linear layers that there are, and has "
                    f"{' '.join(self.lora_layers) or 'none'}: leave it as it is, or lora_rank None."
                )
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

    def _check_attention(self, name: str) -> None:
        """Refuse caps and windows that cannot be."""
        check_sizes(
            self,
            *(field for field in ("attention_window", "full_attention_every") if getattr(self, field) is not None),
        )
        if self.attention_cap is not None and self.attention_cap <= 0:
            raise ValueError(f"{name}.attention_cap must be positive or None, and is {self.attention_cap}.")
        for field in ("full_attention_every", "window_rotary"):
            if getattr(self, field) is not None and self.attention_window is None:
                raise ValueError(f"{name}.{field} has no effect without attention_window: set that, too, or neither.")
        if self.window_rotary is not None and self.positions != "rotary":
            raise ValueError(f"{name}.window_rotary has no effect with positions = {self.positions}: leave it None.")

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer; None = it reads keys at any distance."""
        every = self.full_attention_every
        layers = range(1, self.num_layers + 1)
        return tuple(None if every and not layer % every else self.attention_window for layer in layers)

    def localities(self) -> "Locality | None":
        """Of all layers, [1, layers, ...]; None = they do not differ, and have no window."""
        if self.attention_window is None:
            return None
        windows = [NO_WINDOW if window is None else window for window in self.windows]
        frequencies = None
        if self.window_rotary is not None:
            pairs = self.dim_per_head // 2
            kinds = [self.rotary if window is None else self.window_rotary for window in self.windows]
            frequencies = jnp.stack([kind.frequencies(pairs) for kind in kinds])[None]
        return Locality(window=jnp.array(windows, jnp.int32)[None], frequencies=frequencies)

    @property
    def position_limit(self) -> int | None:
        """Most tokens of an example that the stack has positions for; None = any number."""
        return None if self.max_positions is None else self.max_positions - self.position_offset

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

    @property
    def biases(self) -> tuple[Projection, ...]:
        """Attention projections that have biases."""
        if not self.attention_bias:
            return ()
        return PROJECTIONS if self.biased_projections is None else self.biased_projections

    @property
    def lora(self) -> dict[str, Lora]:
        """Changes of low rank, by the name of the linear layer."""
        if self.lora_rank is None:
            return {}
        scale = 1.0 if self.lora_alpha is None else self.lora_alpha / self.lora_rank
        return dict.fromkeys(self.lora_layers, Lora(rank=self.lora_rank, scale=scale))

    def relative_bias(self, *, causal: bool) -> RelativeBias:
        """The relative bias of this stack, or of a layer of it."""
        return RelativeBias(
            num_heads=self.num_heads,
            num_buckets=self.relative_buckets,
            max_distance=self.relative_max_distance,
            bidirectional=not causal,
        )

    def norm_layer(self) -> Normalization:
        """A normalisation of this stack."""
        return Normalization(self.normalization, self.norm_epsilon)

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
            rotary=self.rotary if self_attention and self.positions == "rotary" else None,
            biased=self.biases,
            dropout=self.attention_dropout,
            precision=precision,
            kernel=self.attention_kernel,
            scale=self.attention_scale,
            norm=self.normalization if self.query_key_norm else None,
            norm_epsilon=self.norm_epsilon,
            lora=tuple(self.lora.items()),
            cap=self.attention_cap,
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
            lora=tuple(self.lora.items()),
        )


NO_WINDOW = 2**30
"""A distance that no two tokens have."""


@flax.struct.dataclass
class Locality:
    """In what the self-attention of a layer differs from that of the other layers of its stack.

    Attributes:
        window: see `Segments.window`.
        frequencies: of rotary positions; None = those of all layers.
    """

    window: Int[Array, "*layers"]
    frequencies: Float[Array, "*layers pairs"] | None = None

    def of_layer(self, index: int) -> "Locality":
        """That of a layer, from those of all layers, see `TransformerConfig.localities`."""
        return jax.tree.map(lambda leaf: leaf[0, index], self)


def positions_for_bias(sequence: SourceRows) -> Int[Array, "#batch length"]:
    """The positions of a sequence, shared by all rows if each has a single segment."""
    positions = sequence.positions
    return jnp.arange(positions.shape[1])[None] if sequence.max_segments == 1 else positions


class Residual(nn.Module):
    """x + branch(x) with its normalisation and dropout, pre- or post-norm, or with a norm before and behind the branch.

    Source: Vaswani et al. 2017 (post); Xiong et al. 2020 (pre); Gemma Team 2024 (both).
    """

    config: TransformerConfig

    def setup(self):
        self.norm = self.config.norm_layer()
        if self.config.norm_position == "both":
            self.norm_after = self.config.norm_layer()
        self.dropout = Dropout(self.config.dropout)

    def __call__(
        self, x: Float[Array, "batch length model"], branch: Callable[[Array], Array], *, deterministic: bool
    ) -> Float[Array, "batch length model"]:
        if self.config.norm_position == "pre":
            x = x + self.dropout(branch(self.norm(x)), deterministic=deterministic)
        elif self.config.norm_position == "both":
            x = x + self.dropout(self.norm_after(branch(self.norm(x))), deterministic=deterministic)
        else:
            x = self.norm(x + self.dropout(branch(x), deterministic=deterministic))
        return nn.with_logical_constraint(x, ACTIVATION_AXES)


class PositionsAndFinalNorm(nn.Module):
    """What surrounds the layers: position encodings and perhaps a norm before them, and the final norm of a stack that
    normalises the input of its branches.
    """

    config: TransformerConfig
    causal: bool
    precision: Precision

    def setup(self):
        config = self.config
        if config.positions == "learned":
            self.learned = LearnedPositions(config.max_positions, config.model_dim)
        if config.positions == "relative" and not config.relative_per_layer:
            self.relative = config.relative_bias(causal=self.causal)
        if config.token_types:
            initializer = nn.with_logical_partitioning(nn.initializers.normal(config.model_dim**-0.5), (None, "model"))
            self.types = self.param("types", initializer, (config.token_types, config.model_dim))
        if config.embedding_norm:
            self.embedding_norm = config.norm_layer()
        if config.norm_position != "post":
            self.norm = config.norm_layer()
        self.dropout = Dropout(config.dropout)

    def before_layers(
        self,
        inputs: Float[Array, "batch length model"],
        positions: Int[Array, "batch length"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch length model"]:
        """The first layer's input: embeddings with position encodings and dropout."""
        config = self.config
        if config.position_offset:
            positions = positions + config.position_offset
        if config.positions in ("sinusoidal", "sinusoidal_open"):
            is_open = config.positions == "sinusoidal_open"
            inputs = inputs + sinusoidal(positions, model_dim=config.model_dim, is_open=is_open)
        elif config.positions == "learned":
            inputs = inputs + self.learned(positions)
        if config.token_types:
            inputs = inputs + self.types[0]
        if config.embedding_norm:
            inputs = self.embedding_norm(inputs)
        inputs = self.dropout(inputs.astype(activation_dtype(self.precision)), deterministic=deterministic)
        return nn.with_logical_constraint(inputs, ACTIVATION_AXES)

    def bias(
        self, query_positions: Int[Array, "batch target"], key_positions: Int[Array, "batch source"]
    ) -> Float[Array, "batch heads target source"] | None:
        """The relative bias of all layers on attention scores; None if the stack has none."""
        config = self.config
        has_bias = config.positions == "relative" and not config.relative_per_layer
        return self.relative(query_positions, key_positions) if has_bias else None

    def self_bias(self, sequence: SourceRows) -> Float[Array, "#batch heads length length"] | None:
        """The relative bias between the positions of a sequence, see `bias`."""
        positions = positions_for_bias(sequence)
        return self.bias(positions, positions)

    def after_layers(self, x: Float[Array, "batch length model"]) -> Float[Array, "batch length model"]:
        """The stack's output."""
        return x if self.config.norm_position == "post" else self.norm(x)
