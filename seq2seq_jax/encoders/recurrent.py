"""The recurrent encoder."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq2seq_jax.batch import PADDING_SEGMENT, Memory, SourceRows
from seq2seq_jax.modules.flops import Amount
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.recurrent import RecurrentConfig
from seq2seq_jax.modules.segments import is_first, is_last, sum_of_segments


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrentEncoderConfig(RecurrentConfig):
    """Settings of a recurrent encoder."""

    bidirectional_layers: int | None = None
    """Number of bidirectional layers, from the lowest; None = all (GNMT: 1)."""
    pyramid_layers: int = 0
    """Layers above the lowest that read the states of the layer below in pairs, one behind the other, and so have half
    as many (Listen, Attend and Spell: 3); only for sources of frames."""
    reverse_source: bool = False
    """Whether unidirectional layers read the source from its end to its beginning (Sutskever et al. 2014)."""

    def __post_init__(self):
        super().__post_init__()
        if self.bidirectional_layers is not None and not 0 <= self.bidirectional_layers <= self.num_layers:
            raise ValueError(
                f"RecurrentEncoderConfig.bidirectional_layers must be None or 0 to num_layers = {self.num_layers}, "
                f"not {self.bidirectional_layers}."
            )
        if self.reverse_source and self.directions(self.num_layers - 1) == 2:
            raise ValueError(
                "RecurrentEncoderConfig.reverse_source needs unidirectional layers, and all layers are "
                "bidirectional. Set bidirectional_layers to 0, or reverse_source to False."
            )
        if not 0 <= self.pyramid_layers < self.num_layers:
            raise ValueError(
                f"RecurrentEncoderConfig.pyramid_layers must be 0 to num_layers - 1 = {self.num_layers - 1}, not "
                f"{self.pyramid_layers}: the lowest layer reads single vectors."
            )
        if any(self.is_residual(index) for index in range(1, self.pyramid_layers + 1)):
            raise ValueError(
                f"RecurrentEncoderConfig.residual_from = {self.residual_from} adds a layer that reads pairs to what it "
                f"reads. Set it above pyramid_layers + 1 = {self.pyramid_layers + 1}."
            )
        if any(
            self.is_residual(index) and self.directions(index) != self.directions(index - 1)
            for index in range(1, self.num_layers)
        ):
            raise ValueError(
                f"RecurrentEncoderConfig.residual_from = {self.residual_from} adds the output of a bidirectional "
                "layer to that of a unidirectional one. Raise residual_from, or change bidirectional_layers."
            )

    def directions(self, index: int) -> int:
        """Number of directions of the layer of this index, from 0."""
        return 2 if self.bidirectional_layers is None or index < self.bidirectional_layers else 1

    @property
    def reduction(self) -> int:
        """Input vectors of which one state is made."""
        return 2**self.pyramid_layers

    def reads_pairs(self, index: int) -> bool:
        """Whether the layer of this index, from 0, reads pairs of states."""
        return 1 <= index <= self.pyramid_layers

    @property
    def memory_dim(self) -> int:
        """Width of the states."""
        return self.directions(self.num_layers - 1) * self.hidden_dim

    @property
    def summary_dim(self) -> int:
        """Width of a segment's summary."""
        return self.memory_dim

    def input_dim(self, index: int) -> int:
        """Input width of the layer of this index, from 0."""
        below = self.directions(index - 1) * self.hidden_dim if index else self.model_dim
        return 2 * below if self.reads_pairs(index) else below

    def forward_flops(self, source: Amount) -> Amount:
        """Model FLOPs of encoding an example of this many tokens, or positions of frames."""
        return sum(
            self.directions(index)
            * self.layer_flops(source * 2 ** max(0, self.pyramid_layers - index), input_dim=self.input_dim(index))
            for index in range(self.num_layers)
        )

    def build(self, *, precision: Precision) -> "RecurrentEncoder":
        """The module."""
        return RecurrentEncoder(self, precision)


class RecurrentEncoder(nn.Module):
    """LSTM or GRU layers within each segment; a segment's summary is their output after reading all of it.

    Source: Sutskever et al. 2014 (unidirectional, reversed); Bahdanau et al. 2015 (bidirectional); Wu et al. 2016
    (residual connections above one bidirectional layer); Chan et al. 2016 (pyramid).
    """

    config: RecurrentEncoderConfig
    precision: Precision

    def setup(self):
        config = self.config
        self.layers = [
            [
                config.layer(input_dim=config.input_dim(index), precision=self.precision)
                for _ in range(config.directions(index))
            ]
            for index in range(config.num_layers)
        ]
        self.dropout = config.input_dropout()

    def __call__(
        self, inputs: Float[Array, "batch source model"], source: SourceRows, *, deterministic: bool
    ) -> Memory:
        """States and summaries of the source.

        Args:
            inputs: embedded tokens, or `reduction` vectors for each position of frames.
            source: their segments.
        """
        config, segment_ids = self.config, source.segment_ids
        if config.reduction > 1:
            segment_ids = source.ids_of_parts(config.reduction)
        x = inputs.astype(activation_dtype(self.precision))
        for index, directions in enumerate(self.layers):
            if config.reads_pairs(index):
                # Of a pair that a segment's end divides, the second half is none of it.
                x = jnp.where((segment_ids != PADDING_SEGMENT)[..., None], x, 0)
                x = x.reshape(x.shape[0], -1, 2 * x.shape[-1])
                segment_ids = segment_ids[:, ::2]
            dropped = self.dropout(x, deterministic=deterministic)
            outputs = jnp.concatenate(
                [
                    layer(
                        dropped,
                        segment_ids,
                        start=None,
                        reverse=config.reverse_source if len(directions) == 1 else reverse,
                        deterministic=deterministic,
                    )
                    for layer, reverse in zip(directions, (False, True), strict=False)
                ],
                axis=-1,
            )
            x = x + outputs if config.is_residual(index) else outputs
            x = nn.with_logical_constraint(x, ("batch", "length", "activation"))
        ends = [is_last(segment_ids), is_first(segment_ids)]
        if config.directions(config.num_layers - 1) == 1:
            ends = [ends[config.reverse_source]]
        parts = jnp.split(x, len(ends), axis=-1)
        summary = [sum_of_segments(part, end, segment_ids) for part, end in zip(parts, ends, strict=True)]
        return Memory(states=x, values=x, summary=jnp.concatenate(summary, axis=-1), segment_ids=segment_ids)
