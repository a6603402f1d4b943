"""An encoder whose states are scaled."""

import dataclasses

import flax.linen as nn

from seq2seq_jax.encoders.transformer import TransformerEncoder, TransformerEncoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledEncoderConfig(TransformerEncoderConfig):
    """A Transformer encoder, and a number."""

    scale: float = 1.0
    """Factor of the states."""

    def build(self, *, precision):
        """The module."""
        return ScaledEncoder(self, precision)


class ScaledEncoder(nn.Module):
    """A Transformer encoder whose states are multiplied by a number."""

    config: ScaledEncoderConfig
    precision: str

    @nn.compact
    def __call__(self, inputs, source, *, deterministic):
        """See TransformerEncoder."""
        memory = TransformerEncoder(self.config, self.precision)(inputs, source, deterministic=deterministic)
        states = memory.states * self.config.scale
        return memory.replace(states=states, values=states, summary=memory.summary * self.config.scale)
