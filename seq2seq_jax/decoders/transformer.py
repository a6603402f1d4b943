"""The Transformer decoder, with teacher forcing and step by step."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import DecodeState, Memory, TokenRows
from seq2seq_jax.modules.attention import KeysValues, StepKeysValues
from seq2seq_jax.modules.flops import Amount, causal_pairs, product_flops
from seq2seq_jax.modules.layers import each_layer, over_layers
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.segments import Segments
from seq2seq_jax.modules.transformer import (
    Locality,
    PositionsAndFinalNorm,
    Residual,
    TransformerConfig,
    positions_for_bias,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig(TransformerConfig):
    """Settings of a Transformer decoder."""

    def forward_flops(self, source: Amount, target: Amount, *, memory_dim: int, hypotheses: int) -> Amount:
        """Model FLOPs of decoding `hypotheses` targets of one length for one source, whose keys and values they
        share.
        """
        queries, keys = self.num_heads * self.dim_per_head, self.kv_heads * self.dim_per_head
        cross_attention = product_flops(target, self.model_dim, 2 * queries) + 2 * product_flops(
            source * target, self.dim_per_head, self.num_heads
        )
        self_attention = self.self_attention_flops(target, causal_pairs(target))
        each = self_attention + cross_attention + self.feed_forward_flops(target)
        return self.num_layers * (product_flops(source, memory_dim, 2 * keys) + hypotheses * each)

    def build(self, *, memory_dim: int, summary_dim: int, precision: Precision) -> "TransformerDecoder":
        """The module, for an encoder with states of width memory_dim; it does not read summaries."""
        return TransformerDecoder(self, memory_dim, precision)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory and feed-forward, each in a residual branch."""

    config: TransformerDecoderConfig
    memory_dim: int
    precision: Precision

    def setup(self):
        config, precision = self.config, self.precision
        self.self_attention = config.attention(memory_dim=config.model_dim, self_attention=True, precision=precision)
        self.cross_attention = config.attention(memory_dim=self.memory_dim, self_attention=False, precision=precision)
        self.feed_forward = config.feed_forward(precision=precision)
        if config.relative_per_layer:
            self.relative = config.relative_bias(causal=True)
        self.self_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def memory_keys_values(self, memory: Memory) -> StepKeysValues:
        """Keys and values of the source, the same for all positions and hypotheses."""
        return self.cross_attention.step_keys_values(memory.states, memory.values)

    def __call__(
        self,
        x: Float[Array, "batch target model"],
        memory: Memory,
        *,
        target: TokenRows,
        self_bias: Float[Array, "#batch heads target target"] | None,
        deterministic: bool,
        locality: Locality | None = None,
    ) -> Float[Array, "batch target model"]:
        window, frequencies = (None, None) if locality is None else (locality.window, locality.frequencies)
        if self.config.relative_per_layer:
            relative_positions = positions_for_bias(target)
            self_bias = self.relative(relative_positions, relative_positions)

        def segments(key_ids, causal, window=None):
            return Segments(
                queries=target.segment_ids,
                keys=key_ids,
                max_segments=target.max_segments,
                causal=causal,
                window=window,
            )

        def attend(y):
            return self.self_attention(
                y,
                self.self_attention.keys_values(y, y, target.positions, frequencies),
                positions=target.positions,
                segments=segments(target.segment_ids, causal=True, window=window),
                bias=self_bias,
                deterministic=deterministic,
                frequencies=frequencies,
            )

        def attend_memory(y):
            return self.cross_attention(
                y,
                self.cross_attention.keys_values(memory.states, memory.values, jnp.zeros_like(memory.segment_ids)),
                positions=target.positions,
                segments=segments(memory.segment_ids, causal=False),
                bias=None,
                deterministic=deterministic,
            )

        x = self.self_residual(x, attend, deterministic=deterministic)
        x = self.cross_residual(x, attend_memory, deterministic=deterministic)
        return self.feed_forward_residual(
            x, lambda y: self.feed_forward(y, deterministic=deterministic), deterministic=deterministic
        )

    def step(
        self,
        x: Float[Array, "batch beam model"],
        cache: StepKeysValues,
        memory: StepKeysValues,
        *,
        positions: Int[Array, "batch beam"],
        self_mask: Bool[Array, "batch beam target"],
        self_bias: tuple[Float[Array, "heads target"], Float[Array, "heads"]] | None,
        bias_positions: tuple[Int[Array, ""], Int[Array, " keys"]],
        cross_mask: Bool[Array, "batch 1 source"],
        frequencies: Float[Array, "pairs"] | None = None,
    ) -> tuple[Float[Array, "batch beam model"], KeysValues]:
        """One position of every hypothesis; returns the layer's output, and the new entries of its cache.

        Args:
            bias_positions: of the queries and of all keys, for a relative bias of the layer's own.
            frequencies: of rotary positions, where they are the layer's own.
        """
        own = {}
        if self.config.relative_per_layer:
            reached, keys = bias_positions
            self_bias = step_bias(self.relative(reached[None, None], keys[None]), beam=x.shape[1])

        def attend(y):
            context, own["keys_values"] = self.self_attention.step_with_own(
                y, cache, positions=positions, mask=self_mask, bias=self_bias, frequencies=frequencies
            )
            return context

        x = self.self_residual(x, attend, deterministic=True)
        x = self.cross_residual(x, lambda y: self.cross_attention.step(y, memory, mask=cross_mask), deterministic=True)
        x = self.feed_forward_residual(x, lambda y: self.feed_forward(y, deterministic=True), deterministic=True)
        return x, own["keys_values"]


class TransformerDecoder(nn.Module):
    """Layers of causal self-attention and attention to the memory, within each segment.

    Source: Vaswani et al. 2017.
    """

    config: TransformerDecoderConfig
    memory_dim: int
    precision: Precision

    def setup(self):
        self.frame = PositionsAndFinalNorm(self.config, causal=True, precision=self.precision)
        self.layer = DecoderLayer(self.config, self.memory_dim, self.precision)

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
        x = self.frame.before_layers(inputs, target.positions, deterministic=deterministic)
        self_bias = self.frame.self_bias(target)

        def body(layer, x, localities):
            locality = jax.tree.map(lambda leaf: leaf[0], localities)
            return layer(
                x, memory, target=target, self_bias=self_bias, deterministic=deterministic, locality=locality
            ), None

        x, _ = over_layers(body, self.layer, x, self.config.localities(), config=self.config)
        return self.frame.after_layers(x)

    def start(self, memory: Memory, *, max_length: int, beam_size: int) -> DecodeState:
        """The state before the first token.

        Args:
            memory: rows of one segment each.
            max_length: upper bound on the tokens to decode.
            beam_size: hypotheses per source.
        """
        config, batch = self.config, len(memory.states)
        hypotheses, length = batch * beam_size, max_length * beam_size
        empty = StepKeysValues(
            keys=jnp.zeros((batch, config.kv_heads, config.dim_per_head, length), activation_dtype(self.precision)),
            values=jnp.zeros((batch, config.kv_heads, length, config.dim_per_head), activation_dtype(self.precision)),
        )
        calls = each_layer(self.layer, config=config)
        return DecodeState(
            per_source={
                "memory": tuple(call(lambda layer: layer.memory_keys_values(memory)) for call in calls),
                "mask": memory.segment_ids == 1,
            },
            per_hypothesis={
                "ancestors": jnp.full((hypotheses, max_length), -1, jnp.int32),
                "position": jnp.zeros(hypotheses, jnp.int32),
            },
            history=(empty,) * config.num_layers,
        )

    def step(
        self, inputs: Float[Array, "hypotheses model"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses model"], DecodeState]:
        """Hidden states of the next position of every hypothesis, and the next state.

        The history holds keys and values of all hypotheses of a source, position after position. A hypothesis attends
        to all of them under a mask of its ancestors, which costs less than reordering the cache.

        Args:
            inputs: embeddings of the last token of every hypothesis.
        """
        ancestors, position = state.per_hypothesis["ancestors"], state.per_hypothesis["position"]
        source_mask = state.per_source["mask"]
        batch, max_length = len(source_mask), ancestors.shape[1]
        beam = len(inputs) // batch
        positions = position.reshape(batch, beam)
        # All hypotheses have the same number of tokens.
        reached = position[0]
        slots = jnp.arange(beam)
        self_mask = (ancestors.reshape(batch, beam, max_length, 1) == slots).reshape(batch, beam, -1)
        key_positions = jnp.append(jnp.arange(max_length), reached)
        self_bias = self.frame.bias(reached[None, None], key_positions[None])
        if self_bias is not None:
            self_bias = step_bias(self_bias, beam=beam)

        x = self.frame.before_layers(inputs.reshape(batch, beam, -1), positions, deterministic=True)
        history, localities = [], self.config.localities()
        calls = enumerate(each_layer(self.layer, config=self.config))
        for (index, call), cache, memory in zip(calls, state.history, state.per_source["memory"], strict=True):
            locality = None if localities is None else localities.of_layer(index)
            near = self_mask
            if locality is not None:
                # The cache has `beam` keys per position.
                near = self_mask & (reached - jnp.repeat(jnp.arange(max_length), beam) < locality.window)

            def step(layer, x, cache, memory, near=near, locality=locality):
                return layer.step(
                    x,
                    cache,
                    memory,
                    positions=positions,
                    self_mask=near,
                    self_bias=self_bias,
                    bias_positions=(reached, key_positions),
                    cross_mask=source_mask[:, None],
                    frequencies=None if locality is None else locality.frequencies,
                )

            x, own = call(step, x, cache, memory)
            history.append(_with_position(cache, own, reached))
        ancestors = jax.lax.dynamic_update_slice_in_dim(ancestors, jnp.tile(slots, batch)[:, None], reached, axis=1)
        state = state.replace(per_hypothesis={"ancestors": ancestors, "position": position + 1}, history=tuple(history))
        return self.frame.after_layers(x).reshape(inputs.shape), state


def step_bias(
    bias: Float[Array, "one heads query keys"], *, beam: int
) -> tuple[Float[Array, "heads cache"], Float[Array, "heads"]]:
    """The bias of one query on the scores of the cache, which has `beam` keys per position, and on that of itself."""
    return jnp.repeat(bias[0, :, 0, :-1], beam, axis=-1), bias[0, :, 0, -1]


def _with_position(cache: StepKeysValues, own: KeysValues, position: Int[Array, ""]) -> StepKeysValues:
    """The cache, with the keys and values of one position of all hypotheses added."""
    first = position * own.keys.shape[1]
    write = jax.lax.dynamic_update_slice_in_dim
    return StepKeysValues(
        keys=write(cache.keys, own.keys.transpose(0, 2, 3, 1), first, axis=3),
        values=write(cache.values, own.values.transpose(0, 2, 1, 3), first, axis=2),
    )
