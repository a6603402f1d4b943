"""The convolutional decoder, with teacher forcing and step by step."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import DecodeState, Memory, TokenRows
from seq2seq_jax.modules.convolution import (
    HALF,
    Attended,
    ConvolutionalConfig,
    MultiStepAttention,
    PositionsAndProjections,
    WeightNormalizedLinear,
)
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.layers import ACTIVATION_AXES, over_layers
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.segments import segment_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvolutionalDecoderConfig(ConvolutionalConfig):
    """Settings of a convolutional decoder."""

    def forward_flops(self, source: Amount, target: Amount, *, memory_dim: int, hypotheses: int) -> Amount:
        """Model FLOPs of decoding `hypotheses` targets of one length for one source."""
        attention = 2 * product_flops(target, self.hidden_dim, self.model_dim) + 2 * product_flops(
            source * target, self.model_dim, 1
        )
        each = self.projection_flops(target) + self.num_layers * (self.convolution_flops(target) + attention)
        mapped = 0 if memory_dim == self.model_dim else 2 * product_flops(source, memory_dim, self.model_dim)
        return mapped + hypotheses * each

    def build(self, *, memory_dim: int, summary_dim: int, precision: Precision) -> "ConvolutionalDecoder":
        """The module, for an encoder with states of width memory_dim; it does not read summaries."""
        return ConvolutionalDecoder(self, memory_dim, precision)


class DecoderLayer(nn.Module):
    """A causal gated convolution and attention to the memory, in a residual branch."""

    config: ConvolutionalDecoderConfig
    precision: Precision

    def setup(self):
        config = self.config
        self.dropout = Dropout(config.dropout)
        self.convolution = config.convolution(causal=True, precision=self.precision)
        self.cross_attention = MultiStepAttention(config.model_dim, config.hidden_dim, self.precision)

    def __call__(
        self,
        x: Float[Array, "batch target hidden"],
        embeddings: Float[Array, "batch target model"],
        attended: Attended,
        *,
        segment_ids: Int[Array, "batch target"],
        deterministic: bool,
    ) -> Float[Array, "batch target hidden"]:
        branch = self.convolution(self.dropout(x, deterministic=deterministic), segment_ids)
        return self.sum_of(x, branch, self.cross_attention(branch, embeddings, attended))

    def step(
        self,
        x: Float[Array, "hypotheses 1 hidden"],
        before: Float[Array, "hypotheses before hidden"],
        embeddings: Float[Array, "batch beam model"],
        attended: Attended,
    ) -> tuple[Float[Array, "hypotheses 1 hidden"], Float[Array, "hypotheses before hidden"]]:
        """One position of every hypothesis; returns the layer's output, and `before` of the next step.

        Args:
            before: the layer's inputs at the previous kernel_size - 1 positions.
        """
        window = jnp.concatenate([before, x], axis=1)
        branch = self.convolution.of_windows(window.reshape(len(x), 1, -1))
        # The beam replaces the dim of target positions, so that the memory is read once for all hypotheses.
        context = self.cross_attention(branch.reshape(*embeddings.shape[:2], -1), embeddings, attended)
        return self.sum_of(x, branch, context.reshape(x.shape)), window[:, 1:]

    def sum_of(
        self,
        x: Float[Array, "batch target hidden"],
        branch: Float[Array, "batch target hidden"],
        context: Float[Array, "batch target hidden"],
    ) -> Float[Array, "batch target hidden"]:
        """The layer's output: the sum of its input, convolution and context, scaled to preserve their variance."""
        return nn.with_logical_constraint((x + (branch + context) * HALF) * HALF, ACTIVATION_AXES)


class ConvolutionalDecoder(nn.Module):
    """Causal gated convolutions within each segment, each followed by attention to the memory.

    Queries are compared with the encoder's states themselves, as in the paper; states of another width are first
    projected to model_dim, once for all layers.

    Source: Gehring et al. 2017, section 3.
    """

    config: ConvolutionalDecoderConfig
    memory_dim: int
    precision: Precision

    def setup(self):
        config = self.config
        self.frame = PositionsAndProjections(config, self.precision)
        self.layer = DecoderLayer(config, self.precision)
        self.dropout = Dropout(config.dropout)
        if self.memory_dim != config.model_dim:
            self.key, self.value = (
                WeightNormalizedLinear(self.memory_dim, config.model_dim, ("model", "hidden"), self.precision)
                for _ in range(2)
            )

    def keys_values(
        self, memory: Memory
    ) -> tuple[Float[Array, "batch source model"], Float[Array, "batch source model"]]:
        """The keys and values of attention."""
        if self.memory_dim == self.config.model_dim:
            return memory.states, memory.values
        return self.key(memory.states), self.value(memory.values)

    def __call__(
        self,
        inputs: Float[Array, "batch target model"],
        target: TokenRows,
        memory: Memory,
        *,
        deterministic: bool,
    ) -> Float[Array, "batch target model"]:
        """Hidden states of every target position, with teacher forcing.

        Args:
            inputs: embedded decoder inputs (the labels, shifted right).
            target: their segments and positions.
        """
        embeddings, x = self.frame.before_layers(inputs, target.positions, deterministic=deterministic)
        attended = Attended(*self.keys_values(memory), mask=segment_mask(target.segment_ids, memory.segment_ids))

        def body(layer, x, _):
            x = layer(x, embeddings, attended, segment_ids=target.segment_ids, deterministic=deterministic)
            return x, None

        x, _ = over_layers(body, self.layer, x, config=self.config)
        return self.dropout(self.frame.after_layers(x), deterministic=deterministic)

    def start(self, memory: Memory, *, max_length: int, beam_size: int) -> DecodeState:
        """The state before the first token, whose size does not depend on max_length.

        Args:
            memory: rows of one segment each.
            max_length: upper bound on the tokens to decode.
            beam_size: hypotheses per source.
        """
        config = self.config
        keys, values = self.keys_values(memory)
        hypotheses = len(memory.states) * beam_size
        shape = (hypotheses, config.num_layers, config.kernel_size - 1, config.hidden_dim)
        return DecodeState(
            per_source={"keys": keys, "values": values, "mask": memory.segment_ids == 1},
            per_hypothesis={
                "before": jnp.zeros(shape, activation_dtype(self.precision)),
                "position": jnp.zeros(hypotheses, jnp.int32),
            },
        )

    def step(
        self, inputs: Float[Array, "hypotheses model"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses model"], DecodeState]:
        """Hidden states of the next position of every hypothesis, and the next state.

        Args:
            inputs: embeddings of the last token of every hypothesis.
        """
        before, position = state.per_hypothesis["before"], state.per_hypothesis["position"]
        source = state.per_source
        batch, source_length = source["mask"].shape
        beam = len(inputs) // batch
        embeddings, x = self.frame.before_layers(inputs[:, None], position[:, None], deterministic=True)
        embeddings = embeddings.reshape(batch, beam, -1)
        mask = jnp.broadcast_to(source["mask"][:, None], (batch, beam, source_length))
        attended = Attended(keys=source["keys"], values=source["values"], mask=mask)
        x, before = over_layers(
            lambda layer, x, before: layer.step(x, before, embeddings, attended),
            self.layer,
            x,
            before,
            config=self.config,
        )
        state = state.replace(per_hypothesis={"before": before, "position": position + 1})
        return self.frame.after_layers(x)[:, 0], state
