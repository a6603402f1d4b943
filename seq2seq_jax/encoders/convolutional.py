"""The convolutional encoder."""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Memory, SourceRows
from seq2seq_jax.modules.convolution import HALF, ConvolutionalConfig, PositionsAndProjections
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.flops import Amount
from seq2seq_jax.modules.layers import ACTIVATION_AXES, over_layers
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.segments import mean_of_segments


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvolutionalEncoderConfig(ConvolutionalConfig):
    """Settings of a convolutional encoder."""

    def __post_init__(self):
        super().__post_init__()
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"{type(self).__name__}.kernel_size must be odd, since a token's window is centred on it, "
                f"not {self.kernel_size}."
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
        return self.projection_flops(source) + self.num_layers * self.convolution_flops(source)

    def build(self, *, precision: Precision) -> "ConvolutionalEncoder":
        """The module."""
        return ConvolutionalEncoder(self, precision)


class EncoderLayer(nn.Module):
    """A gated convolution in a residual branch."""

    config: ConvolutionalEncoderConfig
    precision: Precision

    def setup(self):
        config = self.config
        self.dropout = Dropout(config.dropout)
        self.convolution = config.convolution(causal=False, precision=self.precision)

    def __call__(
        self,
        x: Float[Array, "batch source hidden"],
        segment_ids: Int[Array, "batch source"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch source hidden"]:
        branch = self.convolution(self.dropout(x, deterministic=deterministic), segment_ids)
        return nn.with_logical_constraint((x + branch) * HALF, ACTIVATION_AXES)


class ConvolutionalEncoder(nn.Module):
    """Gated convolutions within each segment.

    The paper divides the encoder's gradient by the number of the decoder's attention layers, for SGD with momentum. The
    optimizers here normalise every gradient by its running magnitude, so that such a factor cancels (except for
    clipping and shared tables): dates with 4 + 4 layers trained as stably with it as without.

    Source: Gehring et al. 2017, section 3.
    """

    config: ConvolutionalEncoderConfig
    precision: Precision

    def setup(self):
        self.frame = PositionsAndProjections(self.config, self.precision)
        self.layer = EncoderLayer(self.config, self.precision)

    def __call__(
        self, inputs: Float[Array, "batch source model"], source: SourceRows, *, deterministic: bool
    ) -> Memory:
        """States of the source; values are their sums with the embeddings, a segment's summary the mean of its states.

        Args:
            inputs: embedded tokens.
            source: their segments and positions.
        """
        embeddings, x = self.frame.before_layers(inputs, source.positions, deterministic=deterministic)

        def body(layer, x, _):
            return layer(x, source.segment_ids, deterministic=deterministic), None

        x, _ = over_layers(body, self.layer, x, config=self.config)
        states = self.frame.after_layers(x)
        return Memory(
            states=states,
            values=(states + embeddings) * HALF,
            summary=mean_of_segments(states, source.segment_ids),
            segment_ids=source.segment_ids,
        )
