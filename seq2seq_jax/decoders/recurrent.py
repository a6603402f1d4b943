"""The recurrent decoder, with teacher forcing and step by step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import DecodeState, Memory, TokenRows
from seq2seq_jax.modules.attention import record, record_step
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, GlobalAttentionKind
from seq2seq_jax.modules.global_attention.base import GlobalAttention, attend
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision, activation_dtype, matrix_product
from seq2seq_jax.modules.recurrence import (
    CELLS,
    Project,
    State,
    cell_step,
    gate_inputs,
    projection,
    reset_state,
    scan_with_products,
    shard_for_scan,
    zero_state,
)
from seq2seq_jax.modules.recurrent import RecurrentConfig
from seq2seq_jax.modules.segments import at_first_positions, is_first, segment_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrentDecoderConfig(RecurrentConfig):
    """Settings of a recurrent decoder."""

    attention: GlobalAttentionKind | None = AdditiveAttentionConfig()
    """How states of the source are scored; None = no attention: the encoder's summary sets the initial state only."""
    attention_layer: Literal["first", "last"] = "last"
    """Layer whose output is the query. With `first`, the context is an input of all layers above (GNMT)."""
    input_feeding: bool = False
    """Whether the attentional hidden state of the previous step is an input of the first layer (Luong et al. 2015,
    section 3.3). Training then computes the steps one after the other, too."""
    initial_state: Literal["projected", "summary"] = "projected"
    """The first state: a projection of the encoder's summary, or that summary itself, for which both must be one vector
    of the same width."""
    output_layer: bool = True
    """Whether tanh(W [state; context; embedding] + b) is multiplied with the output table, or the state itself, which
    then must be as wide as model_dim; without attention alone."""
    deep_output: bool = False
    """Whether the output layer also reads the embedding of the previous token, besides state and context (Pascanu et
    al. 2014; Bahdanau et al. 2015)."""

    def __post_init__(self):
        super().__post_init__()
        name = type(self).__name__
        if self.attention is None and self.input_feeding:
            raise ValueError(
                f"{name}.input_feeding needs an attention, and attention is None. Choose one, or leave input_feeding "
                "out."
            )
        if not self.output_layer and (
            self.attention is not None or self.deep_output or self.hidden_dim != self.model_dim
        ):
            raise ValueError(
                f"{name}.output_layer = False needs attention None, deep_output False and hidden_dim = model_dim; "
                f"hidden_dim is {self.hidden_dim} and model_dim {self.model_dim}. Change them, or set it to True."
            )
        if self.attention_layer == "first" and (self.attention is None or self.num_layers == 1):
            raise ValueError(
                f"{name}.attention_layer = first needs an attention and two layers or more, and there are "
                f"attention = {self.attention and type(self.attention).__name__} and num_layers = {self.num_layers}. "
                "Set it to last."
            )

    def build(self, *, memory_dim: int, summary_dim: int, precision: Precision) -> "RecurrentDecoder":
        """The module, for an encoder with states and summaries of these widths.

        Raises:
            ValueError: dot-product attention between states of different widths, or a summary that is no state.
        """
        states = self.num_layers * CELLS[self.cell].num_states
        if self.initial_state == "summary" and (states != 1 or summary_dim != self.hidden_dim):
            raise ValueError(
                f"{type(self).__name__}.initial_state = summary needs a GRU of one layer with the encoder's width, "
                f"{summary_dim}; there are {states} states with hidden_dim = {self.hidden_dim}. Set it to projected."
            )
        # Refuses widths that it cannot score before anything is traced.
        self.build_attention(memory_dim=memory_dim, precision=precision)
        return RecurrentDecoder(self, memory_dim, summary_dim, precision)

    def build_attention(self, *, memory_dim: int, precision: Precision) -> GlobalAttention | None:
        """The attention to states of this width; None = there is none.

        Raises:
            ValueError: dot-product attention between states of different widths.
        """
        if self.attention is None:
            return None
        return self.attention.build(query_dim=self.hidden_dim, memory_dim=memory_dim, precision=precision)

    def input_dim(self, index: int, *, memory_dim: int) -> int:
        """Input width of the layer of this index, from 0, without input feeding."""
        if index == 0:
            return self.model_dim
        return self.hidden_dim + (memory_dim if self.attention_layer == "first" else 0)

    def output_input_dim(self, *, memory_dim: int) -> int:
        """Input width of the output layer."""
        attended = 0 if self.attention is None else memory_dim
        return self.hidden_dim + attended + self.deep_output * self.model_dim

    def forward_flops(self, source: Amount, target: Amount, *, memory_dim: int, hypotheses: int) -> Amount:
        """Model FLOPs of decoding `hypotheses` targets of one length for one source.

        Those of the initial states, one product per source, are left out.
        """
        layers = sum(
            self.layer_flops(target, input_dim=self.input_dim(index, memory_dim=memory_dim))
            for index in range(self.num_layers)
        )
        if self.input_feeding:
            layers += product_flops(target, self.model_dim, CELLS[self.cell].num_gates * self.hidden_dim)
        output = 0.0
        if self.output_layer:
            output = product_flops(target, self.output_input_dim(memory_dim=memory_dim), self.model_dim)
        attention = 0.0
        if self.attention is not None:
            attention = self.attention.forward_flops(
                source, target, query_dim=self.hidden_dim, memory_dim=memory_dim, hypotheses=hypotheses
            )
        return attention + hypotheses * (layers + output)

    @property
    def has_coverage(self) -> bool:
        """Whether the attention reads its previous weights."""
        return self.attention is not None and self.attention.has_coverage

    @property
    def is_sequential(self) -> bool:
        """Whether a step depends on the attention of the previous step."""
        return self.input_feeding or self.has_coverage


@flax.struct.dataclass
class DecoderCarry:
    """The carry of the loop over steps, float32.

    Attributes:
        layers: state of each layer.
        fed: attentional hidden state, with input feeding.
        coverage: sum of attention weights, with coverage.
    """

    layers: tuple[State, ...]
    fed: Float[Array, "rows model"] | None
    coverage: Float[Array, "rows source"] | None

    def across(self, keep: Float[Array, "rows 1"], starts: tuple[State, ...]) -> "DecoderCarry":
        """The carry into the next step: unchanged or, where a segment starts, that segment's initial carry.

        Args:
            keep: 1 where the previous step belongs to the same segment, else 0.
            starts: initial states of the layers where a segment starts, else 0.
        """
        layers = tuple(reset_state(state, keep, start) for state, start in zip(self.layers, starts, strict=True))
        fed, coverage = jax.tree.map(lambda part: part * keep, (self.fed, self.coverage))
        return DecoderCarry(layers=layers, fed=fed, coverage=coverage)


@flax.struct.dataclass
class DecoderInputs:
    """The inputs of a step.

    Attributes:
        embedded: embedded input token, after dropout.
        gates: its contribution to the gates of the first layer; None = not computed yet.
        mask: True at source positions to attend to.
        dropout: masks on the inputs of the layers above the first; None = no dropout.
    """

    embedded: Float[Array, "rows model"]
    gates: Float[Array, "rows gates"] | None
    mask: Bool[Array, "rows source"] | None
    dropout: tuple[Float[Array, "..."], ...] | None


class RecurrentDecoder(nn.Module):
    """LSTM or GRU layers over the target, with or without attention to the source.

    The initial states of a segment are tanh(W summary + b), or the summary. The output is tanh(W [state; context;
    embedding] + b), with the context only if there is attention, and the embedding only with deep output; or the state.

    Source: Sutskever et al. 2014; Bahdanau et al. 2015; Luong et al. 2015; Wu et al. 2016.
    """

    config: RecurrentDecoderConfig
    memory_dim: int
    summary_dim: int
    precision: Precision

    def setup(self):
        config, precision = self.config, self.precision
        self.layers = [
            config.layer(input_dim=config.input_dim(index, memory_dim=self.memory_dim), precision=precision)
            for index in range(config.num_layers)
        ]
        if config.initial_state == "projected":
            self.bridge = Linear(
                input_dims=(self.summary_dim,),
                output_dims=(config.num_layers * CELLS[config.cell].num_states, config.hidden_dim),
                axes=("model", None, "hidden"),
                bias=True,
                precision=precision,
            )
        self.cross_attention = config.build_attention(memory_dim=self.memory_dim, precision=precision)
        if config.output_layer:
            glorot = nn.with_logical_partitioning(nn.initializers.glorot_uniform(), ("hidden", "model"))
            self.output = self.param(
                "output", glorot, (config.output_input_dim(memory_dim=self.memory_dim), config.model_dim)
            )
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("model",))
            self.output_bias = self.param("output_bias", zeros, (config.model_dim,))
        if config.input_feeding:
            glorot = nn.with_logical_partitioning(nn.initializers.glorot_uniform(), ("model", "hidden"))
            gates = CELLS[config.cell].num_gates * config.hidden_dim
            self.feeding = self.param("feeding", glorot, (config.model_dim, gates))
        self.dropout = config.input_dropout()

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
            target: their segments.
        """
        embedded = self.dropout(inputs.astype(activation_dtype(self.precision)), deterministic=deterministic)
        decode = self._one_after_the_other if self.config.is_sequential else self._layer_by_layer
        hidden = decode(embedded, target, memory, deterministic=deterministic)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "activation"))
        return self.dropout(hidden, deterministic=deterministic)

    def _initial_states(self, summary: Float[Array, "batch segments summary"]) -> Float[Array, "batch segments states"]:
        """Initial states of all layers for each segment, concatenated."""
        if self.config.initial_state == "summary":
            return summary.astype(jnp.float32)
        states = jnp.tanh(self.bridge(summary).astype(jnp.float32))
        return states.reshape(*summary.shape[:2], -1)

    def _by_layer(self, states: Float[Array, "*dims states"]) -> tuple[State, ...]:
        count = CELLS[self.config.cell].num_states
        parts = jnp.split(states, self.config.num_layers * count, axis=-1)
        return tuple(tuple(parts[index : index + count]) for index in range(0, len(parts), count))

    def _layer_by_layer(self, embedded, target, memory, *, deterministic):
        """Layer by layer, each over all time steps."""
        config = self.config
        _, starts = self._borders(target, memory)

        def context_of(queries):
            mask = segment_mask(target.segment_ids, memory.segment_ids)
            return self.cross_attention(queries, self.cross_attention.keys(memory.states), memory.values, mask)

        x, context = embedded, None
        for index, (layer, start) in enumerate(zip(self.layers, starts, strict=True)):
            layer_inputs = x
            if index > 0:
                layer_inputs = self.dropout(_together(x, context), deterministic=deterministic)
            outputs = layer(layer_inputs, target.segment_ids, start=start, reverse=False, deterministic=deterministic)
            x = x + outputs if config.is_residual(index) else outputs
            if index == 0 and config.attention_layer == "first":
                context = context_of(x)
        if config.attention_layer == "last" and config.attention is not None:
            context = context_of(x)
        read = _together(x, context, embedded if config.deep_output else None)
        if not config.output_layer:
            return read
        rows = read.reshape(-1, read.shape[-1])
        product = matrix_product(rows, self.output, axes=("hidden", "model"), precision=self.precision)
        return jnp.tanh(product + self.output_bias.astype(product.dtype)).reshape(*x.shape[:2], -1)

    def _one_after_the_other(self, embedded, target, memory, *, deterministic):
        """Step by step, each through all layers."""
        batch, length = embedded.shape[:2]
        masks = tuple(layer.mask(batch, deterministic=deterministic) for layer in self.layers)
        inputs = DecoderInputs(
            embedded=embedded,
            gates=self.layers[0].gate_inputs(embedded),
            mask=segment_mask(target.segment_ids, memory.segment_ids),
            dropout=None
            if deterministic
            else tuple(
                self.dropout(jnp.ones((batch, length, layer.input_dim)), deterministic=False)
                for layer in self.layers[1:]
            ),
        )
        kernels, constants = self._kernels_and_constants(*self._keys_and_values(memory), first_gates=False)

        def step(project, constants, carry, per_step):
            inputs, borders = per_step
            hidden, weights, carry = self._advance(project, constants, carry.across(*borders), inputs, masks)
            return carry, (hidden.astype(embedded.dtype), weights)

        carry = self._empty_carry(batch, memory.segment_ids.shape[1])
        per_step = _time_first((inputs, self._borders(target, memory)))
        _, (hidden, weights) = scan_with_products(step, kernels, constants, carry, per_step, precision=self.precision)
        record(self.cross_attention, jnp.swapaxes(weights, 0, 1)[None, :, None])
        return jnp.swapaxes(hidden, 0, 1)

    def scheduled_inputs(
        self,
        tokens: Int[Array, "batch target"],
        replaced: Bool[Array, "batch target"],
        target: TokenRows,
        memory: Memory,
        *,
        embed: Callable[[Int[Array, "batch"]], Float[Array, "batch model"]],
        predict: Callable[[Float[Array, "batch model"], Int[Array, ""]], Int[Array, "batch"]],
    ) -> Int[Array, "batch target"]:
        """Decoder inputs for scheduled sampling: some tokens are replaced by the model's prediction from the inputs
        before them, which include earlier predictions.

        Args:
            tokens: the inputs that are not replaced.
            replaced: True where an input is the model's prediction.
            embed: embeddings of tokens.
            predict: (hidden states, position) -> the next tokens.
        """
        kernels, constants = shard_for_scan(
            self._kernels_and_constants(*self._keys_and_values(memory), first_gates=True)
        )
        project = projection(kernels, precision=self.precision)

        def step(carry, per_step):
            carry, predictions = carry
            index, tokens, replaced, mask, borders = per_step
            tokens = jnp.where(replaced, predictions, tokens)
            inputs = DecoderInputs(embedded=embed(tokens), gates=None, mask=mask, dropout=None)
            hidden, _, carry = self._advance(
                project, constants, carry.across(*borders), inputs, (None,) * len(self.layers)
            )
            return (carry, predict(hidden, index)), tokens

        batch, length = tokens.shape
        mask = segment_mask(target.segment_ids, memory.segment_ids)
        per_step = jnp.arange(length), *_time_first((tokens, replaced, mask, self._borders(target, memory)))
        carry = self._empty_carry(batch, memory.segment_ids.shape[1]), tokens[:, 0]
        return jax.lax.scan(step, carry, per_step)[1].T

    def _borders(self, target, memory):
        """The arguments of `DecoderCarry.across` for every position."""
        starts = self._by_layer(at_first_positions(self._initial_states(memory.summary), target.segment_ids))
        return 1.0 - is_first(target.segment_ids)[..., None].astype(jnp.float32), starts

    def _empty_carry(self, batch: int, source: int) -> DecoderCarry:
        config = self.config
        return DecoderCarry(
            layers=tuple(zero_state(config.cell, batch, config.hidden_dim) for _ in self.layers),
            fed=jnp.zeros((batch, config.model_dim)) if config.input_feeding else None,
            coverage=jnp.zeros((batch, source)) if config.has_coverage else None,
        )

    def _keys_and_values(self, memory: Memory):
        if self.config.attention is None:
            return None, None
        return self.cross_attention.keys(memory.states), memory.values

    def _kernels_and_constants(self, keys, values, *, first_gates):
        """The kernels and the further arrays that `_advance` reads.

        Args:
            keys: None without attention, as are values.
            first_gates: whether it also computes the gates of the first layer.
        """
        kernels, constants = {}, {"layers": tuple(layer.constants() for layer in self.layers)}
        if self.config.output_layer:
            kernels["output"] = self.output
            constants["output_bias"] = self.output_bias
        for index, layer in enumerate(self.layers):
            kernels[f"recurrent_{index}"] = layer.recurrent_kernel()
            if index > 0 or first_gates:
                kernels[f"input_{index}"] = layer.input_kernel()
        if self.config.input_feeding:
            kernels["feeding"] = self.feeding
        if self.config.attention is not None:
            kernels |= self.cross_attention.kernels(keys, values)
            constants |= {"keys": keys, "attention": self.cross_attention.constants()}
        return kernels, constants

    def _advance(
        self, project: Project, constants, carry: DecoderCarry, inputs: DecoderInputs, masks
    ) -> tuple[Float[Array, "rows model"], Float[Array, "rows source"] | None, DecoderCarry]:
        """One step of all layers: its output, the attention weights, and the next carry.

        Args:
            masks: of recurrent dropout, by layer.
        """
        config = self.config
        context, weights, states = None, None, []

        def context_of(query):
            scores = self.cross_attention.step_scores
            return attend(
                scores, project, constants["attention"], query, constants["keys"], inputs.mask, carry.coverage
            )

        x = inputs.embedded.astype(jnp.float32)
        for index, (state, mask) in enumerate(zip(carry.layers, masks, strict=True)):
            layer_constants = constants["layers"][index]
            if index == 0 and inputs.gates is not None:
                gates = inputs.gates.astype(jnp.float32)
            else:
                read = _together(x, context)
                if index > 0 and inputs.dropout is not None:
                    read = read * inputs.dropout[index - 1]
                gates = gate_inputs(layer_constants, project(f"input_{index}", read))
            if index == 0 and config.input_feeding:
                gates = gates + project("feeding", carry.fed)
            recurrent = functools.partial(project, f"recurrent_{index}")
            state = cell_step(config.cell, layer_constants, gates, state, recurrent, mask)
            states.append(state)
            x = x + state[0] if config.is_residual(index) else state[0]
            if index == 0 and config.attention_layer == "first":
                context, weights = context_of(x)
        if config.attention_layer == "last" and config.attention is not None:
            context, weights = context_of(x)
        read = _together(x, context, inputs.embedded.astype(jnp.float32) if config.deep_output else None)
        hidden = jnp.tanh(project("output", read) + constants["output_bias"]) if config.output_layer else read
        carry = DecoderCarry(
            layers=tuple(states),
            fed=hidden if config.input_feeding else None,
            coverage=carry.coverage + weights if config.has_coverage else None,
        )
        return hidden, weights, carry

    def start(self, memory: Memory, *, max_length: int, beam_size: int) -> DecodeState:
        """The state before the first token.

        Args:
            memory: rows of one segment each.
            max_length: not needed here.
            beam_size: hypotheses per source.
        """
        config = self.config
        states = jnp.repeat(self._initial_states(memory.summary[:, :1])[:, 0], beam_size, axis=0)
        rows, source = states.shape[0], memory.segment_ids.shape[1]
        per_source = {}
        if config.attention is not None:
            keys, values = self._keys_and_values(memory)
            per_source = {"keys": keys, "values": values, "mask": memory.segment_ids == 1}
        carry = self._empty_carry(rows, source).replace(layers=self._by_layer(states))
        return DecodeState(per_source=per_source, per_hypothesis=carry)

    def step(
        self, inputs: Float[Array, "hypotheses model"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses model"], DecodeState]:
        """Hidden states of the next position of every hypothesis, and the next state.

        Args:
            inputs: embeddings of the last token of every hypothesis.
        """
        shared, carry = state.per_source, state.per_hypothesis
        kernels, constants = self._kernels_and_constants(shared.get("keys"), shared.get("values"), first_gates=True)
        embedded = inputs.astype(activation_dtype(self.precision))
        mask = shared.get("mask")
        if mask is not None:
            mask = jnp.repeat(mask, len(inputs) // len(mask), axis=0)
        hidden, weights, carry = self._advance(
            projection(kernels, precision=self.precision),
            constants,
            carry,
            DecoderInputs(embedded=embedded, gates=None, mask=mask, dropout=None),
            (None,) * len(self.layers),
        )
        if weights is not None:
            record_step(self.cross_attention, weights.reshape(len(shared["mask"]), 1, -1, weights.shape[-1]))
        return hidden.astype(embedded.dtype), state.replace(per_hypothesis=carry)


def _time_first(tree):
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def _together(*parts):
    """The parts that are not None, concatenated along the last dim."""
    return jnp.concatenate([part for part in parts if part is not None], axis=-1)
