"""The Transformer encoder."""

import dataclasses

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from seq2seq_jax.batch import Memory, SourceRows
from seq2seq_jax.modules.conformer import ConvolutionModule
from seq2seq_jax.modules.flops import Amount
from seq2seq_jax.modules.layers import over_layers
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.segments import Segments, mean_of_segments
from seq2seq_jax.modules.transformer import (
    Locality,
    PositionsAndFinalNorm,
    Residual,
    TransformerConfig,
    positions_for_bias,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerEncoderConfig(TransformerConfig):
    """Settings of a Transformer encoder."""

    convolution_kernel: int | None = None
    """Vectors that the convolution of a Conformer block reads (the paper: 31); odd. A block is then half of a
    feed-forward layer, self-attention, a convolution, the other half and a normalisation. None = Transformer layers."""

    def __post_init__(self):
        super().__post_init__()
        kernel = self.convolution_kernel
        if kernel is not None and (kernel < 1 or kernel % 2 == 0):
            raise ValueError(f"TransformerEncoderConfig.convolution_kernel must be odd, and at least 1, not {kernel}.")
        if kernel is not None and self.norm_position != "pre":
            raise ValueError(
                f"TransformerEncoderConfig.convolution_kernel needs norm_position = pre, not {self.norm_position}."
            )

    @property
    def reduction(self) -> int:
        """Input vectors of which one state is made."""
        return 1

    @property
    def memory_dim(self) -> int:
        """Width of the states."""
        return self.model_dim

    @property
    def summary_dim(self) -> int:
        """Width of a segment's summary."""
        return self.model_dim

    def forward_flops(self, source: Amount) -> Amount:
        """Model FLOPs of encoding an example of this many tokens."""
        layer = self.self_attention_flops(source, source**2) + self.feed_forward_flops(source)
        if self.convolution_kernel is not None:
            layer += self.feed_forward_flops(source)
            layer += ConvolutionModule.flops(source, model_dim=self.model_dim, kernel_size=self.convolution_kernel)
        return self.num_layers * layer

    def build(self, *, precision: Precision) -> "TransformerEncoder":
        """The module."""
        return TransformerEncoder(self, precision)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each in a residual branch."""

    config: TransformerEncoderConfig
    precision: Precision

    def setup(self):
        config = self.config
        self.attention = config.attention(memory_dim=config.model_dim, self_attention=True, precision=self.precision)
        self.feed_forward = config.feed_forward(precision=self.precision)
        if config.relative_per_layer:
            self.relative = config.relative_bias(causal=False)
        self.attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def __call__(
        self,
        x: Float[Array, "batch source model"],
        *,
        source: SourceRows,
        bias: Float[Array, "#batch heads source source"] | None,
        deterministic: bool,
        locality: Locality | None = None,
    ) -> Float[Array, "batch source model"]:
        x = self.attend(x, source=source, bias=bias, deterministic=deterministic, locality=locality)
        return self.feed_forward_residual(
            x, lambda y: self.feed_forward(y, deterministic=deterministic), deterministic=deterministic
        )

    def attend(
        self,
        x: Float[Array, "batch source model"],
        *,
        source: SourceRows,
        bias: Float[Array, "#batch heads source source"] | None,
        deterministic: bool,
        locality: Locality | None = None,
    ) -> Float[Array, "batch source model"]:
        """The residual branch of self-attention."""
        ids = source.segment_ids
        window, frequencies = (None, None) if locality is None else (locality.window, locality.frequencies)
        segments = Segments(queries=ids, keys=ids, max_segments=source.max_segments, causal=False, window=window)
        if self.config.relative_per_layer:
            positions = positions_for_bias(source)
            bias = self.relative(positions, positions)

        def attend(y):
            return self.attention(
                y,
                self.attention.keys_values(y, y, source.positions, frequencies),
                positions=source.positions,
                segments=segments,
                bias=bias,
                deterministic=deterministic,
                frequencies=frequencies,
            )

        return self.attention_residual(x, attend, deterministic=deterministic)


class ConformerLayer(EncoderLayer):
    """A Conformer block: half of a feed-forward layer, self-attention, a convolution, the other half, a normalisation.

    Source: Gulati et al. 2020, equation 1.
    """

    def setup(self):
        super().setup()
        config = self.config
        self.first_feed_forward = config.feed_forward(precision=self.precision)
        self.first_feed_forward_residual = Residual(config)
        self.convolution = ConvolutionModule(
            config.model_dim, config.convolution_kernel, config.norm_layer(), self.precision
        )
        self.convolution_residual = Residual(config)
        self.norm = config.norm_layer()

    def __call__(
        self,
        x: Float[Array, "batch source model"],
        *,
        source: SourceRows,
        bias: Float[Array, "#batch heads source source"] | None,
        deterministic: bool,
        locality: Locality | None = None,
    ) -> Float[Array, "batch source model"]:
        def half(feed_forward):
            return lambda y: 0.5 * feed_forward(y, deterministic=deterministic)

        x = self.first_feed_forward_residual(x, half(self.first_feed_forward), deterministic=deterministic)
        x = self.attend(x, source=source, bias=bias, deterministic=deterministic, locality=locality)
        x = self.convolution_residual(x, lambda y: self.convolution(y, source.segment_ids), deterministic=deterministic)
        return self.norm(self.feed_forward_residual(x, half(self.feed_forward), deterministic=deterministic))


class TransformerEncoder(nn.Module):
    """Layers of self-attention within each segment, or Conformer blocks.

    Source: Vaswani et al. 2017.
    """

    config: TransformerEncoderConfig
    precision: Precision

    def setup(self):
        self.frame = PositionsAndFinalNorm(self.config, causal=False, precision=self.precision)
        layer = EncoderLayer if self.config.convolution_kernel is None else ConformerLayer
        self.layer = layer(self.config, self.precision)

    def __call__(
        self, inputs: Float[Array, "batch source model"], source: SourceRows, *, deterministic: bool
    ) -> Memory:
        """States of the source; a segment's summary is the mean of its states.

        Args:
            inputs: embedded tokens.
            source: their segments and positions.
        """
        x = self.frame.before_layers(inputs, source.positions, deterministic=deterministic)
        bias = self.frame.self_bias(source)

        def body(layer, x, localities):
            locality = jax.tree.map(lambda leaf: leaf[0], localities)
            return layer(x, source=source, bias=bias, deterministic=deterministic, locality=locality), None

        x, _ = over_layers(body, self.layer, x, self.config.localities(), config=self.config)
        states = self.frame.after_layers(x)
        summary = mean_of_segments(states, source.segment_ids)
        return Memory(states=states, values=states, summary=summary, segment_ids=source.segment_ids)
