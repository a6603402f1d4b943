"""Position encodings, all from explicit position ids: sinusoidal, learned, rotary and relative."""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.values import check_values

Positions = Literal["sinusoidal", "sinusoidal_open", "learned", "rotary", "relative"]
"""The wavelengths of both kinds of sinusoids grow geometrically from 2π: that of the last pair is 2π · 10,000
(sinusoidal: tensor2tensor, fairseq, M2M-100), or that of one after it would be (sinusoidal_open: the paper, Marian,
Pegasus)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Frequencies of rotary positions that are others than those of Su et al. 2021."""

    base: float = 10_000.0
    """The frequency of pair i of n is base^(-i / n), in radians per token."""
    factor: float = 1.0
    """What frequencies are divided by, so that a model takes texts that are longer by this factor."""
    keep_above: float | None = None
    """Turns within trained_length from which on a frequency is kept as it is (Llama 3.1: high_freq_factor); None =
    all are divided."""
    divide_below: float | None = None
    """Turns within trained_length up to which a frequency is divided by the whole factor; between the two limits the
    divisor rises linearly (Llama 3.1: low_freq_factor)."""
    trained_length: int | None = None
    """Tokens of the texts that the model was trained on before its frequencies were divided."""

    def __post_init__(self):
        check_values(self, "rotary")
        if self.base <= 1.0 or self.factor < 1.0:
            raise ValueError(
                f"rotary.base must be above 1 and rotary.factor at least 1; they are {self.base} and {self.factor}."
            )
        limits = (self.keep_above, self.divide_below, self.trained_length)
        if len({limit is None for limit in limits}) > 1 or (self.keep_above and self.keep_above <= self.divide_below):
            raise ValueError(
                "rotary.keep_above, divide_below and trained_length must be set together, keep_above above "
                f"divide_below; they are {limits}."
            )

    def frequencies(self, pairs: int) -> Float[Array, "pairs"]:
        """Radians per token of each pair of dims."""
        frequencies = jnp.exp(-math.log(self.base) * jnp.arange(pairs) / pairs)
        if self.keep_above is None:
            return frequencies if self.factor == 1.0 else frequencies / self.factor
        turns = self.trained_length * frequencies / (2.0 * math.pi)
        kept = jnp.clip((turns - self.divide_below) / (self.keep_above - self.divide_below), 0.0, 1.0)
        return (1.0 - kept) * frequencies / self.factor + kept * frequencies


def sinusoidal(positions: Int[Array, "*dims"], *, model_dim: int, is_open: bool = False) -> Float[Array, "*dims model"]:
    """Sines in the first half of the model dim, cosines in the second.

    Args:
        is_open: see `Positions`.

    Source: Vaswani et al. 2017, section 3.5 (interleaved there, concatenated here).
    """
    intervals = max(model_dim // 2 - (not is_open), 1)
    frequencies = jnp.exp(-math.log(10_000.0) * jnp.arange(model_dim // 2) / intervals)
    angles = positions[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def rotate(
    x: Float[Array, "batch length heads head_dim"],
    positions: Int[Array, "batch length"],
    frequencies: Float[Array, "pairs"] | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """Rotary positions: each pair of dims (i, i + head_dim/2) is rotated by an angle proportional to the position.

    Args:
        frequencies: radians per token of each pair; None = those of the paper.

    Source: Su et al. 2021, equation 34.
    """
    half = x.shape[-1] // 2
    frequencies = RotaryConfig().frequencies(half) if frequencies is None else frequencies
    angles = (positions[..., None] * frequencies)[:, :, None, :]
    cosines, sines = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    rotated = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return rotated.astype(x.dtype)


class LearnedPositions(nn.Module):
    """A table of position embeddings."""

    max_positions: int
    model_dim: int

    @nn.compact
    def __call__(self, positions: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        initializer = nn.with_logical_partitioning(nn.initializers.normal(self.model_dim**-0.5), (None, "model"))
        return self.param("table", initializer, (self.max_positions, self.model_dim))[positions]


class RelativeBias(nn.Module):
    """A learned bias on attention scores per head, a function of the bucketed distance from query to key.

    Source: Raffel et al. 2020, section 2.1.
    """

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(
        self, query_positions: Int[Array, "batch target"], key_positions: Int[Array, "batch source"]
    ) -> Float[Array, "batch heads target source"]:
        initializer = nn.with_logical_partitioning(nn.initializers.normal(self.num_heads**-0.5), (None, "heads"))
        table = self.param("table", initializer, (self.num_buckets, self.num_heads))
        distance = key_positions[:, None, :] - query_positions[:, :, None]
        # A product instead of a gather: a gather pads the few heads of each pair to 128 on a TPU, and its gradient is a
        # scatter. With a single 1 per row the product is exact.
        chosen = jax.nn.one_hot(self.bucket(distance), self.num_buckets)
        return jnp.einsum("btsn,nh->bhts", chosen, table, precision=jax.lax.Precision.HIGHEST)

    def bucket(self, distance: Int[Array, "*dims"]) -> Int[Array, "*dims"]:
        """The bucket of each distance: half of the buckets hold one distance each, the rest grow logarithmically up to
        max_distance.

        Args:
            distance: key position minus query position.
        """
        num_buckets = self.num_buckets
        offset = 0
        if self.bidirectional:
            num_buckets //= 2
            offset = jnp.where(distance > 0, num_buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = num_buckets // 2
        growth = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(self.max_distance / exact)
        logarithmic = jnp.minimum(exact + (growth * (num_buckets - exact)).astype(jnp.int32), num_buckets - 1)
        return offset + jnp.where(distance < exact, distance, logarithmic)
