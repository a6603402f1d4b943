"""Speech that a model is to read: samples or features as callers and files give them, as the model takes them."""

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num

from seq2seq_jax.data.audio.files import as_samples, read_audio, to_int16
from seq2seq_jax.data.audio.resampling import resample
from seq2seq_jax.data.audio.source import SpeechSource
from seq2seq_jax.paths import user_path

LARGEST_RATE = 2**20
"""Samples per second."""


class Sound(NamedTuple):
    """A source of frames."""

    frames: Num[np.ndarray, "frames features"]
    """As they are stored."""
    name: str
    """What it is called."""
    rate: int | None = None
    """Samples per second that it had before it was resampled; None = it was not."""

    def __str__(self) -> str:
        return self.name


def sound_of(given: Any, data: SpeechSource, *, name: str, rate: int | None = None) -> Sound:
    """What a model reads of a path, or of an array.

    Args:
        given: path of an audio file (or, for a model of features, of a .npy file); samples of one channel or [samples,
            channels], int16 or fractions in [-1, 1]; or features [frames, features].
        data: that the model was trained on.
        name: for messages, and of an array.
        rate: samples per second of an array; None = those that the model reads.

    Raises:
        ValueError: it cannot be read, or is none of these; the message names it.
    """
    if isinstance(given, Sound):
        return given
    is_path = isinstance(given, str | os.PathLike)
    name = str(given) if is_path else name
    if data.kind != "int16":
        return Sound(_features(given, data, name, is_path=is_path), name)
    if is_path:
        given, rate = read_audio(given)
    samples = as_samples(np.asarray(given), name)
    expected = round(data.values_per_second)
    if rate is None or rate == expected:
        return Sound(samples[:, None], name)
    if not 1 <= rate <= LARGEST_RATE:
        raise ValueError(f"rate must be 1 to {LARGEST_RATE:,} samples per second, not {rate}: give that of {name}.")
    return Sound(to_int16(resample(samples, up=expected, down=int(rate)))[:, None], name, int(rate))


def _features(given: Any, data: SpeechSource, name: str, *, is_path: bool) -> np.ndarray:
    if is_path:
        path = user_path(given)
        if path.suffix != ".npy":
            raise ValueError(
                f"{name} cannot be read by this model, which was trained on features and not on samples: give .npy "
                f"files of [frames, {data.num_features}]."
            )
        try:
            # Unlike numpy.load, which takes archives and pickles too, it refuses all else in one way.
            given = np.lib.format.read_array(io.BytesIO(Path(path).read_bytes()), allow_pickle=False)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}. Give the path of a file.") from error
        except ValueError as error:
            raise ValueError(f"{path} is no whole .npy file ({error}): write it again with numpy.save.") from error
    frames = np.asarray(given)
    if frames.ndim != 2 or frames.shape[1] != data.num_features or not _is_real(frames.dtype):
        raise ValueError(
            f"{name} must be [frames, {data.num_features}], the features that the model was trained on, not "
            f"{list(frames.shape)} of {frames.dtype}."
        )
    return as_stored(frames, data.kind, name)


def _is_real(kind: np.dtype) -> bool:
    return np.issubdtype(kind, np.floating) or np.issubdtype(kind, np.integer)


def as_stored(frames: Num[np.ndarray, "..."], kind: str, name: str) -> Num[np.ndarray, "..."]:
    """Features in the type in which they are stored.

    Args:
        name: for messages.

    Raises:
        ValueError: one is no number, or larger than the type's largest.
    """
    if not np.isfinite(frames).all():
        raise ValueError(f"{name} has values that are no numbers: compute its features again.")
    with np.errstate(over="ignore"):
        stored = frames.astype(kind)
    if not np.isfinite(stored).all():
        raise ValueError(
            f"{name} has a feature of {np.abs(frames).max():.4g}, and the largest {kind} is {np.finfo(kind).max:,.0f}: "
            "scale the features, or train with data.stored float32."
        )
    return stored


def describe_resampled(sounds: list[Sound], data: SpeechSource) -> str:
    """A line on those that were resampled; "" = none was."""
    rates = sorted({sound.rate for sound in sounds if sound.rate is not None})
    if not rates:
        return ""
    number = sum(sound.rate is not None for sound in sounds)
    return (
        f"{number} of {len(sounds)} recordings are resampled from {', '.join(f'{rate:,}' for rate in rates)} to "
        f"{data.values_per_second:,.0f} samples per second, which the model reads"
    )
