"""From samples or frames to the vectors that an encoder reads: features, normalisation, SpecAugment, subsampling.

All of it is part of the compiled step, so that the host sends samples as they are stored. Nothing reads two segments.
"""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import PADDING_SEGMENT, FrameRows
from seq2seq_jax.effects import changes
from seq2seq_jax.modules.convolution import unfold
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.feed_forward import ACTIVATIONS, Activation
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.layers import ACTIVATION_AXES
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision, activation_dtype
from seq2seq_jax.modules.segments import sum_of_segments
from seq2seq_jax.modules.settings import check_rates, check_sizes
from seq2seq_jax.values import check_values

FULL_SCALE = 2**15
"""Samples of 16 bits are divided by it."""
LEAST_DEVIATION = 1e-3
"""What a feature is divided by at least: one that never changes says nothing, and must not become infinite."""


class FeatureStatistics(NamedTuple):
    """Of the features of a training split, deltas included. Kept in the run, as its tokenizer is."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Masks over the features of a segment, in training alone; drawn for each segment, and after normalisation.

    A masked value is 0, the mean. Without time warping, of which the paper says that it adds least.

    Source: Park et al. 2019, section 2.
    """

    time_masks: int = 2
    """Masks over time in each segment."""
    max_time_mask: int = 40
    """Frames of a mask over time at most; its length is drawn evenly, from 0."""
    max_time_fraction: float = 0.2
    """Fraction of its segment that a mask over time covers at most (the paper's p)."""
    frequency_masks: int = 2
    """Masks over bands in each segment."""
    max_frequency_mask: int = 10
    """Bands of a mask over frequency at most; its width is drawn evenly, from 0."""

    def __post_init__(self):
        check_values(self, "SpecAugment")
        for name in ("time_masks", "max_time_mask", "frequency_masks", "max_frequency_mask"):
            if getattr(self, name) < 0:
                raise ValueError(f"spec_augment.{name} must not be negative, and is {getattr(self, name)}.")
        if not 0.0 < self.max_time_fraction <= 1.0:
            raise ValueError(f"spec_augment.max_time_fraction must lie in (0, 1], not {self.max_time_fraction}.")

    def keep(
        self,
        key: jax.Array,
        *,
        places: Int[Array, "batch frames"],
        segments: Int[Array, "batch frames"],
        lengths: Int[Array, "batch segments"],
        num_bands: int,
    ) -> Float[Array, "batch frames bands"]:
        """0 where a mask is, 1 elsewhere.

        Args:
            key: of the step.
            places: of frames in their segments, from 0.
            segments: indices of their segments, from 0.
            lengths: of segments, frames.
            num_bands: features of a frame, without deltas.
        """
        rows, num_segments = lengths.shape
        time_key, frequency_key = jax.random.split(key)

        def spans(key, number, most, room):
            """Begin and end of masks, [batch, segments, masks] each."""
            draws = jax.random.uniform(key, (2, rows, num_segments, number))
            sizes = jnp.floor(draws[0] * (most + 1.0))
            begins = jnp.floor(draws[1] * (jnp.maximum(room - sizes, 0.0) + 1.0))
            return begins, begins + sizes

        def of_frames(array):
            return jnp.take_along_axis(array, segments[..., None], axis=1)

        def masked(begins, ends, index):
            return jnp.any((index >= begins) & (index < ends), axis=-1)

        room = lengths[..., None].astype(jnp.float32)
        most = jnp.minimum(float(self.max_time_mask), jnp.floor(self.max_time_fraction * room))
        begins, ends = spans(time_key, self.time_masks, most, room)
        over_time = masked(of_frames(begins), of_frames(ends), places[..., None])
        most = float(min(self.max_frequency_mask, num_bands))
        begins, ends = spans(frequency_key, self.frequency_masks, most, float(num_bands))
        over_bands = masked(begins[:, :, None], ends[:, :, None], jnp.arange(num_bands)[:, None])
        over_bands = of_frames(over_bands.astype(jnp.float32)) > 0.0
        return jnp.where(over_time[..., None] | over_bands, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """What all front ends have in common; one subclass per kind of input."""

    deltas: int = 0
    """Orders of differences over time that are added to the features: 0, 1 (velocity) or 2 (acceleration)."""
    normalization: Literal["training", "segment", "none"] = "training"
    """Features are normalised to mean 0 and deviation 1: by those of the training split, which the run keeps, or by
    those of each segment."""
    spec_augment: SpecAugmentConfig | None = dataclasses.field(default=None, metadata=changes("numbers"))
    """Masks over time and bands in training; None = none."""
    convolutions: int = 2
    """Convolutions before the encoder, each of which halves the number of vectors unless strides say otherwise."""
    strides: tuple[int, ...] | None = None
    """Vectors from one output to the next of each convolution (Whisper: 1 2); None = 2 of each."""
    activation: Activation = "relu"
    """Nonlinearity behind each convolution."""
    projection: bool = True
    """Whether a linear map follows the convolutions; without it their channels must be the encoder's model_dim."""
    kernel_size: int = 3
    """Vectors that a convolution reads; odd."""
    convolution_dim: int | None = None
    """Channels of the convolutions; None = the encoder's model_dim."""
    dropout: float = dataclasses.field(default=0.1, metadata=changes("numbers"))
    """Dropout on the output of the convolutions."""

    def __post_init__(self):
        name = type(self).__name__
        check_values(self, name)
        check_rates(self, "dropout")
        check_sizes(self, "kernel_size", *(["convolution_dim"] if self.convolution_dim is not None else []))
        if not 0 <= self.deltas <= 2:
            raise ValueError(f"{name}.deltas must be 0, 1 or 2, not {self.deltas}.")
        if not 0 <= self.convolutions <= 6:
            raise ValueError(f"{name}.convolutions must be 0 to 6, not {self.convolutions}.")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"{name}.kernel_size must be odd, not {self.kernel_size}.")
        if self.strides is not None and (len(self.strides) != self.convolutions or min(self.strides, default=1) < 1):
            raise ValueError(
                f"{name}.strides must be {self.convolutions} numbers, one per convolution, of at least 1, and are "
                f"{self.strides}."
            )
        if not self.projection and not self.convolutions:
            raise ValueError(f"{name}.projection must be True where there are no convolutions.")

    @property
    def conv_strides(self) -> tuple[int, ...]:
        """Vectors from one output to the next, by convolution."""
        return (2,) * self.convolutions if self.strides is None else self.strides

    @property
    def num_bands(self) -> int:
        """Features of a frame, without deltas."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Features of a frame."""
        return self.num_bands * (1 + self.deltas)

    @property
    def frames_per_position(self) -> int:
        """Frames of which the front end makes one vector."""
        return math.prod(self.conv_strides)

    @property
    def values_per_frame(self) -> int:
        """Stored vectors, such as samples, of a frame."""
        raise NotImplementedError

    @property
    def stored(self) -> tuple[int, str]:
        """Values of a stored vector, and their type."""
        raise NotImplementedError

    @property
    def seconds_per_frame(self) -> float | None:
        """None = not known."""
        return None

    def frames(self, source: FrameRows, *, parts: int) -> Float[Array, "batch frames bands"]:
        """The features of frames, float32, without deltas and not normalised; those of no frame mean nothing.

        Args:
            parts: frames of a position of the source.
        """
        raise NotImplementedError

    def flops(self, positions: Amount, *, model_dim: int) -> Amount:
        """Model FLOPs of this many vectors for an encoder."""
        channels, total, length = self.convolution_dim or model_dim, 0.0, positions * self.frames_per_position
        inputs = self.num_features
        for stride in self.conv_strides:
            length = length / stride
            total += product_flops(length, self.kernel_size * inputs, channels)
            inputs = channels
        return total + product_flops(positions, inputs, model_dim) * self.projection

    def build(self, *, model_dim: int, parts: int, precision: Precision, statistics: FeatureStatistics | None):
        """The module.

        Args:
            model_dim: of the encoder.
            parts: vectors for the encoder of each position of a source: 1, or more where the encoder makes one state
                of several.
            statistics: of the training split; None = they are not known, as where nothing is computed.

        Raises:
            ValueError: without a projection, convolutions have other channels than the encoder's width.
        """
        if not self.projection and self.convolution_dim not in (None, model_dim):
            raise ValueError(
                f"{type(self).__name__}.convolution_dim = {self.convolution_dim} needs a projection, since "
                f"model.encoder.model_dim is {model_dim}: set projection to True, or convolution_dim to None."
            )
        return FrontEnd(self, model_dim, parts, precision, statistics)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMelConfig(FrontEndConfig):
    """Logarithms of the energies in mel bands, from samples of 16 bits."""

    rate: int = 16_000
    """Samples per second."""
    bands: int = 80
    """Mel bands, which are the features."""
    window: float = 0.025
    """Seconds of a frame's window (Hann)."""
    hop: float = 0.01
    """Seconds from a frame to the next."""
    lowest: float = 20.0
    """Hz: the lowest edge of a band."""
    highest: float | None = None
    """Hz: the highest edge of a band; None = half of the rate."""
    floor: float = 1e-8
    """Energies count as this at least, with samples in [-1, 1]."""

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "rate", "bands")
        if not self.lowest >= 0.0 or not self.lowest < self.highest_edge <= self.rate / 2:
            raise ValueError(
                f"LogMelConfig.lowest and highest must ascend from 0 to half of the rate, {self.rate / 2:g} Hz, and "
                f"are {self.lowest:g} and {self.highest_edge:g}."
            )
        if self.hop_samples < 1 or self.window_samples < self.hop_samples:
            raise ValueError(
                f"LogMelConfig.window must be at least as long as hop, and hop a sample; they are {self.window:g} and "
                f"{self.hop:g} seconds."
            )
        if abs(self.hop * self.rate - self.hop_samples) > 1e-6:
            raise ValueError(
                f"LogMelConfig.hop must be a whole number of samples: {self.hop:g} seconds are "
                f"{self.hop * self.rate:g} samples at {self.rate} per second."
            )
        if self.floor <= 0.0:
            raise ValueError(f"LogMelConfig.floor must be positive, and is {self.floor:g}.")

    @property
    def highest_edge(self) -> float:
        """Hz."""
        return self.rate / 2 if self.highest is None else self.highest

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return round(self.window * self.rate)

    @property
    def hop_samples(self) -> int:
        """Samples from a frame to the next."""
        return round(self.hop * self.rate)

    @property
    def num_bands(self) -> int:
        return self.bands

    @property
    def values_per_frame(self) -> int:
        return self.hop_samples

    @property
    def stored(self) -> tuple[int, str]:
        return 1, "int16"

    @property
    def seconds_per_frame(self) -> float:
        return self.hop

    def frames(self, source: FrameRows, *, parts: int) -> Float[Array, "batch frames bands"]:
        """See FrontEndConfig.frames. Frame t reads the window that begins at its hop; after a segment's end is silence.

        The spectrum is a product with cosines and sines: 3.2 MFLOP per second of audio at 8 kHz, 13 at 16 kHz.
        """
        rows, hop = source.values.shape[0], self.hop_samples
        hops = source.values.astype(jnp.float32).reshape(rows, -1, hop) / FULL_SCALE
        windows = unfold(hops, source.ids_of_parts(parts), kernel_size=-(-self.window_samples // hop), before=0)[
            ..., : self.window_samples
        ]
        exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        cosines, sines = fourier(self.window_samples)
        power = jnp.square(exact(windows, cosines)) + jnp.square(exact(windows, sines))
        return jnp.log(jnp.maximum(exact(power, mel_bands(self)), self.floor))

    def flops(self, positions: Amount, *, model_dim: int) -> Amount:
        frames, bins = positions * self.frames_per_position, fourier(self.window_samples)[0].shape[1]
        spectrum = product_flops(frames, self.window_samples, 2 * bins) + product_flops(frames, bins, self.bands)
        return spectrum + super().flops(positions, model_dim=model_dim)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturesConfig(FrontEndConfig):
    """Features that are given, such as cepstra."""

    features: int = 13
    """Features of a frame, as they are stored."""
    kind: Literal["float32", "float16"] = "float32"
    """Their stored type."""
    hop: float = 0.01
    """Seconds from a frame to the next."""

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "features")

    @property
    def num_bands(self) -> int:
        return self.features

    @property
    def values_per_frame(self) -> int:
        return 1

    @property
    def stored(self) -> tuple[int, str]:
        return self.features, self.kind

    @property
    def seconds_per_frame(self) -> float:
        return self.hop

    def frames(self, source: FrameRows, *, parts: int) -> Float[Array, "batch frames bands"]:
        values = source.values.astype(jnp.float32)
        return values.reshape(values.shape[0], -1, values.shape[3])


@functools.cache
def fourier(window: int) -> tuple[np.ndarray, np.ndarray]:
    """The real and the imaginary part of the discrete Fourier transform of a Hann window, as matrices [window, bins].

    Args:
        window: samples; the transform has the next power of two.
    """
    size = 1 << (window - 1).bit_length()
    angles = 2.0 * np.pi * np.outer(np.arange(window), np.arange(size // 2 + 1)) / size
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(window) / window)
    return tuple((hann[:, None] * part).astype(np.float32) for part in (np.cos(angles), -np.sin(angles)))


@functools.cache
def mel_bands(config: LogMelConfig) -> np.ndarray:
    """The weight of each bin of the spectrum in each band, [bins, bands]: triangles that are even on the mel scale.

    Raises:
        ValueError: a band is too narrow to have a bin.

    Source: the mel scale of O'Shaughnessy 1987 (2595 log10(1 + f / 700)), as HTK and torchaudio have it.
    """

    def mel(hertz):
        return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)

    size = 1 << (config.window_samples - 1).bit_length()
    bins = np.arange(size // 2 + 1) * config.rate / size
    edges = 700.0 * (
        10.0 ** (np.linspace(mel(config.lowest), mel(config.highest_edge), config.bands + 2) / 2595.0) - 1.0
    )
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if not weights.any(axis=0).all():
        raise ValueError(
            f"LogMelConfig.bands = {config.bands} is too many: a band has no bin of the spectrum of {size} samples. "
            "Lower it, or lengthen the window."
        )
    return weights.astype(np.float32)


def with_deltas(
    features: Float[Array, "batch frames bands"], ids: Int[Array, "batch frames"], *, orders: int
) -> Float[Array, "batch frames features"]:
    """Features with their differences over time behind them: (x[t+1] - x[t-1]) / 2, and those of these.

    At the ends of a segment its first and last frame count once more.
    """
    found = [features]
    for _ in range(orders):
        x = found[-1]
        windows = unfold(x, ids, kernel_size=3, before=1)
        before, _, after = jnp.split(windows, 3, axis=-1)
        padded = jnp.pad(ids, ((0, 0), (1, 1)), constant_values=-1)
        before = jnp.where((padded[:, :-2] == ids)[..., None], before, x)
        after = jnp.where((padded[:, 2:] == ids)[..., None], after, x)
        found.append((after - before) / 2.0)
    return jnp.concatenate(found, axis=-1)


class Subsampling(nn.Module):
    """A convolution within each segment that makes one vector of `stride`, and a nonlinearity.

    The window is centred on the first of these vectors, so that an output is there where its first input is.
    """

    input_dim: int
    output_dim: int
    kernel_size: int
    precision: Precision
    stride: int = 2
    activation: Activation = "relu"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length input"], ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch fewer output"]:
        windows = unfold(x, ids, kernel_size=self.kernel_size, before=self.kernel_size // 2)[:, :: self.stride]
        linear = Linear(
            (self.kernel_size * self.input_dim,),
            (self.output_dim,),
            ("model", "hidden"),
            bias=True,
            precision=self.precision,
        )
        return ACTIVATIONS[self.activation](linear(windows))


class FrontEnd(nn.Module):
    """Features, normalisation, SpecAugment and subsampling.

    Attributes:
        parts: see `FrontEndConfig.build`.
    """

    config: FrontEndConfig
    model_dim: int
    parts: int
    precision: Precision
    statistics: FeatureStatistics | None

    def setup(self):
        config = self.config
        channels = config.convolution_dim or self.model_dim
        dims = [config.num_features, *[channels] * config.convolutions]
        self.convolutions = [
            Subsampling(inputs, channels, config.kernel_size, self.precision, stride, config.activation)
            for inputs, stride in zip(dims[:-1], config.conv_strides, strict=True)
        ]
        if config.projection:
            sizes = (dims[-1],), (self.model_dim,)
            self.output = Linear(*sizes, ("hidden", "model"), bias=True, precision=self.precision)
        self.dropout = Dropout(config.dropout)

    def features(
        self, source: FrameRows, *, deterministic: bool = True
    ) -> tuple[Float[Array, "batch frames features"], Int[Array, "batch frames"]]:
        """What the convolutions read, and the segment ids of it: 0 where there is no frame, and there features are 0.

        Args:
            deterministic: without SpecAugment.
        """
        config, per_position = self.config, self.frames_per_position
        ids = source.ids_of_parts(per_position)
        frames = with_deltas(config.frames(source, parts=per_position), ids, orders=config.deltas)
        if config.normalization == "training" and self.statistics is not None:
            mean, deviation = (jnp.asarray(each, jnp.float32) for each in self.statistics)
            frames = (frames - mean) / deviation
        elif config.normalization == "segment":
            frames = normalized_by_segment(frames, ids, source.segment_ids)
        if config.spec_augment is not None and not deterministic:
            places = source.positions[..., None] * per_position + jnp.arange(per_position)
            counts = jnp.sum((ids != PADDING_SEGMENT).reshape(*source.segment_ids.shape, -1), axis=-1)
            of_segments = sum_of_segments(
                counts[..., None].astype(jnp.float32), source.segment_ids > PADDING_SEGMENT, source.segment_ids
            )[..., 0]
            keep = config.spec_augment.keep(
                self.make_rng("dropout"),
                places=places.reshape(ids.shape),
                segments=jnp.maximum(ids - 1, 0),
                lengths=of_segments.astype(jnp.int32),
                num_bands=config.num_bands,
            )
            frames = frames * jnp.tile(keep, (1, 1, 1 + config.deltas))
        return jnp.where((ids != PADDING_SEGMENT)[..., None], frames, 0.0), ids

    @property
    def frames_per_position(self) -> int:
        """Frames of a position of the source."""
        return self.parts * self.config.frames_per_position

    def __call__(self, source: FrameRows, *, deterministic: bool) -> Float[Array, "batch parts_length model"]:
        """The encoder's inputs, `parts` for each position of the source."""
        x, ids = self.features(source, deterministic=deterministic)
        x = x.astype(activation_dtype(self.precision))
        for convolution in self.convolutions:
            x, ids = convolution(x, ids), ids[:, :: convolution.stride]
        x = self.output(x) if self.config.projection else x
        x = self.dropout(x, deterministic=deterministic)
        return nn.with_logical_constraint(x, ACTIVATION_AXES)


def normalized_by_segment(
    frames: Float[Array, "batch frames features"],
    ids: Int[Array, "batch frames"],
    segment_ids: Int[Array, "batch length"],
) -> Float[Array, "batch frames features"]:
    """Frames with mean 0 and deviation 1 in each segment.

    Args:
        ids: segment ids of frames.
        segment_ids: of the positions that hold them.
    """
    is_frame = (ids != PADDING_SEGMENT)[..., None]
    batch, length = segment_ids.shape

    def mean(values):
        """Of each segment, at all of its frames."""
        by_position = jnp.where(is_frame, values, 0.0).reshape(batch, length, -1, values.shape[-1]).sum(axis=2)
        counts = is_frame.reshape(batch, length, -1).sum(axis=-1, keepdims=True).astype(jnp.float32)
        inside = segment_ids != PADDING_SEGMENT
        total, number = (sum_of_segments(each, inside, segment_ids) for each in (by_position, counts))
        of_segment = total / jnp.maximum(number, 1.0)
        index = jnp.maximum(segment_ids - 1, 0)
        at_positions = jnp.take_along_axis(of_segment, index[..., None], axis=1)
        return jnp.repeat(at_positions, ids.shape[1] // length, axis=1)

    centred = frames - mean(frames)
    return centred / jnp.maximum(jnp.sqrt(mean(jnp.square(centred))), LEAST_DEVIATION)
