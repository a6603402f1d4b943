"""The Transformer decoder, teacher-forced and stepwise."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import DecodeState, Memory, Sequence
from seq2seq_jax.modules.attention import KeysValues
from seq2seq_jax.modules.flops import Amount, causal_pairs, product_flops
from seq2seq_jax.modules.fused_attention import Segments
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.segments import causal_mask, segment_mask
from seq2seq_jax.modules.transformer import Frame, Residual, TransformerConfig, over_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig(TransformerConfig):
    """Settings of a Transformer decoder."""

    def forward_flops(self, source: Amount, target: Amount, *, memory_dim: int, hypotheses: int) -> Amount:
        """Model FLOPs of decoding that many targets of one length for one source, whose keys and values they share."""
        queries, keys = self.num_heads * self.dim_per_head, self.kv_heads * self.dim_per_head
        cross_attention = product_flops(target, self.model_dim, 2 * queries) + 2 * product_flops(
            source * target, self.dim_per_head, self.num_heads
        )
        self_attention = self.self_attention_flops(target, causal_pairs(target))
        each = self_attention + cross_attention + self.feed_forward_flops(target)
        return self.num_layers * (product_flops(source, memory_dim, 2 * keys) + hypotheses * each)

    def build(self, *, memory_dim: int, summary_dim: int, precision: Precision) -> "TransformerDecoder":
        """The module, for an encoder whose states are memory_dim wide; it does not read summaries."""
        return TransformerDecoder(self, memory_dim, precision)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory and feed-forward, each in a residual branch."""

    config: TransformerDecoderConfig
    memory_dim: int
    precision: Precision

    def setup(self):
        config, precision = self.config, self.precision
        self.self_attention = config.attention(memory_dim=config.model_dim, self_attention=True, precision=precision)
        self.cross_attention = config.attention(
            memory_dim=self.memory_dim, self_attention=False, precision=precision
        )
        self.feed_forward = config.feed_forward(precision=precision)
        self.self_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def memory_keys_values(self, memory: Memory) -> KeysValues:
        """Keys and values of the source, the same for every target position and hypothesis."""
        return self.cross_attention.keys_values(memory.states, memory.values, jnp.zeros_like(memory.segment_ids))

    def __call__(
        self,
        x: Float[Array, "batch target model"],
        memory: Memory,
        *,
        target: Sequence,
        self_mask: Bool[Array, "batch target target"],
        self_bias: Float[Array, "#batch heads target target"] | None,
        cross_mask: Bool[Array, "batch target source"],
        deterministic: bool,
    ) -> Float[Array, "batch target model"]:
        def segments(key_ids, causal):
            return Segments(queries=target.segment_ids, keys=key_ids, most=target.most_segments, causal=causal)

        def attend(y):
            return self.self_attention(
                y,
                self.self_attention.keys_values(y, y, target.positions),
                positions=target.positions,
                mask=self_mask,
                bias=self_bias,
                deterministic=deterministic,
                segments=segments(target.segment_ids, causal=True),
            )

        def attend_memory(y):
            return self.cross_attention(
                y,
                self.memory_keys_values(memory),
                positions=target.positions,
                mask=cross_mask,
                bias=None,
                deterministic=deterministic,
                segments=segments(memory.segment_ids, causal=False),
            )

        x = self.self_residual(x, attend, deterministic=deterministic)
        x = self.cross_residual(x, attend_memory, deterministic=deterministic)
        return self.feed_forward_residual(
            x, lambda y: self.feed_forward(y, deterministic=deterministic), deterministic=deterministic
        )

    def step(
        self,
        x: Float[Array, "hypotheses 1 model"],
        cache: KeysValues,
        memory: KeysValues,
        *,
        position: Int[Array, "hypotheses"],
        self_bias: Float[Array, "hypotheses heads 1 target"] | None,
        cross_mask: Bool[Array, "batch beam source"],
    ) -> tuple[Float[Array, "hypotheses 1 model"], KeysValues]:
        """One position of every hypothesis; returns the layer's output and the grown cache."""
        hypotheses, max_length = cache.keys.shape[:2]
        written = {}

        def attend(y):
            new = self.self_attention.keys_values(y, y, position[:, None])
            rows = jnp.arange(hypotheses)
            written["cache"] = KeysValues(
                keys=cache.keys.at[rows, position].set(new.keys[:, 0]),
                values=cache.values.at[rows, position].set(new.values[:, 0]),
            )
            return self.self_attention(
                y,
                written["cache"],
                positions=position[:, None],
                mask=(jnp.arange(max_length) <= position[:, None])[:, None],
                bias=self_bias,
                deterministic=True,
            )

        def attend_memory(y):
            # The beam takes the place of the target positions, so that the memory is read once for all hypotheses.
            batch, beam = cross_mask.shape[:2]
            context = self.cross_attention(
                y.reshape(batch, beam, -1),
                memory,
                positions=position.reshape(batch, beam),
                mask=cross_mask,
                bias=None,
                deterministic=True,
            )
            return context.reshape(y.shape)

        x = self.self_residual(x, attend, deterministic=True)
        x = self.cross_residual(x, attend_memory, deterministic=True)
        x = self.feed_forward_residual(
            x, lambda y: self.feed_forward(y, deterministic=True), deterministic=True
        )
        return x, written["cache"]


class TransformerDecoder(nn.Module):
    """Layers of causal self-attention and attention to the memory, within each segment.

    Source: Vaswani et al. 2017.
    """

    config: TransformerDecoderConfig
    memory_dim: int
    precision: Precision

    def setup(self):
        self.frame = Frame(self.config, causal=True, precision=self.precision)
        self.layer = DecoderLayer(self.config, self.memory_dim, self.precision)

    def __call__(
        self,
        inputs: Float[Array, "batch target model"],
        target: Sequence,
        memory: Memory,
        *,
        deterministic: bool,
    ) -> Float[Array, "batch target model"]:
        """Hidden states of every target position, teacher-forced.

        Args:
            inputs: embedded decoder inputs (the labels, shifted right).
            target: their segments and positions.
        """
        x = self.frame.enter(inputs, target.positions, deterministic=deterministic)
        self_mask = segment_mask(target.segment_ids, target.segment_ids) & causal_mask(inputs.shape[1])
        self_bias = self.frame.self_bias(target)
        cross_mask = segment_mask(target.segment_ids, memory.segment_ids)

        def body(layer, x, _):
            x = layer(
                x,
                memory,
                target=target,
                self_mask=self_mask,
                self_bias=self_bias,
                cross_mask=cross_mask,
                deterministic=deterministic,
            )
            return x, None

        x, _ = over_layers(body, self.layer, x, config=self.config)
        return self.frame.leave(x)

    def start(self, memory: Memory, *, max_length: int, beam_size: int) -> DecodeState:
        """The state before the first token.

        Args:
            memory: rows of one segment each.
            max_length: most tokens that will be decoded.
            beam_size: hypotheses a source.
        """
        config = self.config
        _, memory_keys_values = over_layers(
            lambda layer, carry, _: (carry, layer.memory_keys_values(memory)), self.layer, None, config=config
        )
        hypotheses = memory.states.shape[0] * beam_size
        shape = (hypotheses, config.num_layers, max_length, config.kv_heads, config.dim_per_head)
        empty = jnp.zeros(shape, activation_dtype(self.precision))
        return DecodeState(
            per_source={"memory": memory_keys_values, "mask": memory.segment_ids == 1},
            per_hypothesis={
                "cache": KeysValues(keys=empty, values=empty),
                "position": jnp.zeros(hypotheses, jnp.int32),
            },
        )

    def step(
        self, inputs: Float[Array, "hypotheses model"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses model"], DecodeState]:
        """Hidden states of the next position of every hypothesis, and the state after it.

        Args:
            inputs: embeddings of the tokens decoded last.
        """
        position, cache = state.per_hypothesis["position"], state.per_hypothesis["cache"]
        hypotheses, _, max_length = cache.keys.shape[:3]
        source_mask = state.per_source["mask"]
        batch = source_mask.shape[0]
        cross_mask = jnp.broadcast_to(source_mask[:, None], (batch, hypotheses // batch, source_mask.shape[1]))
        x = self.frame.enter(inputs[:, None], position[:, None], deterministic=True)
        key_positions = jnp.broadcast_to(jnp.arange(max_length), (hypotheses, max_length))
        self_bias = self.frame.bias(position[:, None], key_positions)

        def body(layer, x, per_layer):
            cache, memory = per_layer
            return layer.step(
                x, cache, memory, position=position, self_bias=self_bias, cross_mask=cross_mask
            )

        x, cache = over_layers(body, self.layer, x, (cache, state.per_source["memory"]), config=self.config)
        state = state.replace(per_hypothesis={"cache": cache, "position": position + 1})
        return self.frame.leave(x)[:, 0], state
