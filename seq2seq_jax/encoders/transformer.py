"""The Transformer encoder."""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float

from seq2seq_jax.batch import Memory, SourceRows
from seq2seq_jax.modules.flops import Amount
from seq2seq_jax.modules.layers import over_layers
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.segments import Segments, mean_of_segments
from seq2seq_jax.modules.transformer import PositionsAndFinalNorm, Residual, TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerEncoderConfig(TransformerConfig):
    """Settings of a Transformer encoder."""

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
        return self.num_layers * (self.self_attention_flops(source, source**2) + self.feed_forward_flops(source))

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
        self.attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def __call__(
        self,
        x: Float[Array, "batch source model"],
        *,
        source: SourceRows,
        bias: Float[Array, "#batch heads source source"] | None,
        deterministic: bool,
    ) -> Float[Array, "batch source model"]:
        ids = source.segment_ids
        segments = Segments(queries=ids, keys=ids, max_segments=source.max_segments, causal=False)

        def attend(y):
            return self.attention(
                y,
                self.attention.keys_values(y, y, source.positions),
                positions=source.positions,
                segments=segments,
                bias=bias,
                deterministic=deterministic,
            )

        x = self.attention_residual(x, attend, deterministic=deterministic)
        return self.feed_forward_residual(
            x, lambda y: self.feed_forward(y, deterministic=deterministic), deterministic=deterministic
        )


class TransformerEncoder(nn.Module):
    """Layers of self-attention within each segment.

    Source: Vaswani et al. 2017.
    """

    config: TransformerEncoderConfig
    precision: Precision

    def setup(self):
        self.frame = PositionsAndFinalNorm(self.config, causal=False, precision=self.precision)
        self.layer = EncoderLayer(self.config, self.precision)

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

        def body(layer, x, _):
            return layer(x, source=source, bias=bias, deterministic=deterministic), None

        x, _ = over_layers(body, self.layer, x, config=self.config)
        states = self.frame.after_layers(x)
        summary = mean_of_segments(states, source.segment_ids)
        return Memory(states=states, values=states, summary=summary, segment_ids=source.segment_ids)
