"""Sounds that are changed for training: another speed, and noise.

What happens to an example follows from its key, and so from (seed, epoch, example): neither the batch nor an
interruption changes it.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt64

from seq2seq_jax.data.audio.augmentation import PARTS, AddedNoise, SpeedPerturbation
from seq2seq_jax.data.audio.files import to_int16
from seq2seq_jax.data.audio.resampling import resample
from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.hashing import random_words

SOURCE = "source"
"""The column of samples."""


@dataclasses.dataclass(frozen=True)
class ChangeSpeed:
    """See `SpeedPerturbation`."""

    config: SpeedPerturbation

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        made = [
            examples[SOURCE][index] if speed == PARTS else self._changed(examples[SOURCE][index], speed)
            for index, speed in enumerate(self._drawn(keys).tolist())
        ]
        return {**examples, SOURCE: _joined(made, examples[SOURCE])}

    def _changed(self, samples: np.ndarray, speed: int) -> np.ndarray:
        """An example at a speed, in hundredths."""
        return to_int16(resample(samples[:, 0], up=PARTS, down=speed))[:, None]

    def lengths(
        self, lengths: Mapping[str, Int[np.ndarray, " examples"]], keys: UInt64[np.ndarray, " examples"]
    ) -> dict[str, Int[np.ndarray, " examples"]]:
        samples = lengths[SOURCE].astype(np.int64)
        return {**lengths, SOURCE: -(-samples * PARTS // self._drawn(keys))}

    def _drawn(self, keys: UInt64[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """The speed of each example, in hundredths."""
        speeds = np.array([round(speed * PARTS) for speed in self.config.speeds])
        return speeds[(_uniform(keys, 1)[:, 0] * len(speeds)).astype(np.int64)]


class ChangeTempo(ChangeSpeed):
    """The same with frames of features, between which is interpolated; see `FeatureAugmentationConfig.tempo`."""

    def _changed(self, samples: np.ndarray, speed: int) -> np.ndarray:
        size = -(-len(samples) * PARTS // speed)
        places = np.minimum(np.arange(size) * speed / PARTS, len(samples) - 1)
        before = places.astype(np.int64)
        after, weight = np.minimum(before + 1, len(samples) - 1), (places - before)[:, None]
        frames = samples.astype(np.float32)
        return (frames[before] * (1 - weight) + frames[after] * weight).astype(samples.dtype)


@dataclasses.dataclass(frozen=True)
class AddNoise:
    """See `AddedNoise`."""

    config: AddedNoise

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        config, draws = self.config, _uniform(keys, 3)
        sounds = []
        for index in range(len(keys)):
            samples = examples[SOURCE][index]
            if draws[index, 0] < config.probability and len(samples):
                decibels = config.lowest_ratio + draws[index, 1] * (config.highest_ratio - config.lowest_ratio)
                power = np.mean(np.square(samples, dtype=np.float64))
                # Of the third word, a stream of its own.
                seed = random_words(keys[index : index + 1], 3)[:, 2]
                noise = _normal(seed, len(samples))
                changed = samples[:, 0] + noise * np.sqrt(power / 10.0 ** (decibels / 10.0))
                samples = to_int16(changed)[:, None]
            sounds.append(samples)
        return {**examples, SOURCE: _joined(sounds, examples[SOURCE])}

    def lengths(
        self, lengths: Mapping[str, Int[np.ndarray, " examples"]], keys: UInt64[np.ndarray, " examples"]
    ) -> dict[str, Int[np.ndarray, " examples"]]:
        return dict(lengths)


def _uniform(keys: UInt64[np.ndarray, " examples"], count: int) -> Float[np.ndarray, "examples count"]:
    """Numbers in [0, 1), functions of the keys."""
    return (random_words(keys, count) >> np.uint64(11)).astype(np.float64) / 2**53


def _normal(seed: UInt64[np.ndarray, "1"], size: int) -> Float[np.ndarray, " size"]:
    """About normal numbers of variance 1: sums of four uniform ones of 16 bits, of one word each."""
    [words] = random_words(seed, size)
    parts = words.view(np.uint16).reshape(size, 4).astype(np.float64) / 2**16
    return (parts.sum(axis=1) - 2.0) * np.sqrt(3.0)


def _joined(sounds: list[np.ndarray], like: Ragged) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(sound) for sound in sounds], dtype=np.int64)])
    return Ragged(np.concatenate(sounds) if sounds else like.values[:0], offsets)
