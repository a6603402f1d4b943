"""Samples from audio files: WAV by itself, other formats by the package soundfile."""

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from seq2seq_jax.data.audio.containers import STREAMED_BYTES, last_page_is_whole, missing_bytes
from seq2seq_jax.paths import user_path

PCM, EXTENSIBLE = 1, 0xFFFE
"""Codes of formats in WAV files."""
MISSING_SECONDS = 0.1
"""What a file may have less than its header or a manifest says; of one that has still less the end is lost."""
LARGEST_PEAK = 8.0
"""Of files of fractions: decoding goes a little beyond 1, and whole numbers that were stored as fractions far."""
SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .sph .aiff .aif .au .snd .caf .m4a .aac .mp4 .webm .wma .amr".split()
)
"""Of files that are taken for audio by their names, also those that cannot be read."""


def read_audio(path: str | Path) -> tuple[Int16[np.ndarray, "samples channels"], int]:
    """The samples of a file, and how many there are per second.

    Raises:
        ValueError: see `decode_audio`; or it cannot be read.
    """
    path = user_path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}. Give the path of an audio file.") from error
    return decode_audio(data, str(path))


def decode_audio(data: bytes, name: str) -> tuple[Int16[np.ndarray, "samples channels"], int]:
    """The samples of a file's content, and how many there are per second.

    WAV files of 16-bit samples need no further package. Where their header has no length, as in files that were
    streamed, the data is trusted. Fractions beyond [-1, 1], as decoders of loud sounds give them, are cut off there.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: it is no audio, it is damaged, or the package is missing; the message names the file.
    """
    if not data:
        raise ValueError(f"{name} is empty: expected audio. Leave it out, or record it again.")
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE" and (found := _pcm(data, name)) is not None:
        return found
    try:
        import soundfile  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"{name} is not a WAV file of 16-bit samples, and other formats are read by the package soundfile, which "
            "is not installed. Install it (pip install 'seq2seq_jax[speech]'), or convert the file."
        ) from error
    try:
        # Not as int16, to which libsndfile neither scales fractions nor cuts off what is too large for it.
        with soundfile.SoundFile(_Bytes(data)) as file:
            fractions, rate, said = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise ValueError(
            f"{name} cannot be read as audio ({reason}): expected WAV, FLAC, OGG, MP3 or another format of libsndfile. "
            "Convert it, or leave it out."
        ) from error
    if data.startswith(b"OggS") and not last_page_is_whole(data):
        raise ValueError(f"{name} ends within a page of OGG: it was cut short. Record or copy it again.")
    seconds = len(fractions) / rate
    expected = max(said / rate, seconds * (1.0 + missing_bytes(data) / len(data)))
    if expected > seconds + MISSING_SECONDS:
        raise ValueError(
            f"{name} has {seconds:.2f} s, and its header says some {expected:.2f} s: it was cut short. Record or copy "
            "it again."
        )
    if not np.abs(fractions).max(initial=0.0) <= LARGEST_PEAK:
        raise ValueError(
            f"{name} has samples far outside of [-1, 1], where those of its format are expected: convert it to whole "
            "numbers of 16 bits."
        )
    return to_int16(fractions * 2**15), rate


class _Bytes(io.BytesIO):
    """A file in memory. Where libsndfile seeks before the beginning of a damaged one, that fails."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with contextlib.suppress(ValueError):
            return super().seek(offset, whence)
        return self.tell()


def _pcm(data: bytes, name: str) -> tuple[np.ndarray, int] | None:
    """Samples and rate of a WAV file of 16-bit samples; None = its samples are of another kind.

    Raises:
        ValueError: it has no format or no samples, or less than its header says.
    """
    place, chunk = 12, None
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8
        if kind == b"fmt " and place + 16 <= len(data):
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", data[place : place + 16])
            if code == EXTENSIBLE and size >= 26:
                code = int.from_bytes(data[place + 24 : place + 26], "little")
            chunk = code, channels, rate, bits
        elif kind == b"data":
            if chunk is None:
                break
            code, channels, rate, bits = chunk
            missing = place + size - len(data)
            if size < STREAMED_BYTES and missing > MISSING_SECONDS * rate * channels * bits / 8:
                raise ValueError(
                    f"{name} has {len(data) - place:,} bytes of samples, and its header says {size:,}: it was cut "
                    "short. Record or copy it again."
                )
            if (code, bits) != (PCM, 16) or not channels or not rate:
                return None
            # A writer that cannot go back leaves 0 or a number that is too large.
            size = len(data) - place if size == 0 or place + size > len(data) else size
            whole = size // (2 * channels) * 2 * channels
            return np.frombuffer(data[place : place + whole], "<i2").reshape(-1, channels), rate
        place += size + size % 2
    raise ValueError(f"{name} is a WAV file without samples: it was cut short. Record or copy it again.")


def as_samples(samples: np.ndarray, name: str) -> Int16[np.ndarray, "samples"]:
    """Samples of one channel as they are stored, of 16 bits.

    Args:
        samples: whole numbers of 16 bits, or fractions in [-1, 1]; of several channels the mean is taken.
        name: for messages.

    Raises:
        ValueError: they are of another kind, are no numbers, or there are none.
    """
    samples = np.asarray(samples)
    kind = samples.dtype
    if samples.ndim == 2:
        # [samples, channels], as audio files have them.
        samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    if samples.ndim != 1:
        raise ValueError(f"{name} must be [samples] or [samples, channels], not {list(samples.shape)}.")
    if not samples.size:
        raise ValueError(f"{name} has no samples: expected audio.")
    if kind == np.int16:
        return samples if samples.dtype == np.int16 else to_int16(samples)
    if not np.issubdtype(kind, np.floating):
        raise ValueError(f"{name} must be int16, or floats in [-1, 1], not {kind}: convert it.")
    if not np.isfinite(samples).all() or np.abs(samples).max() > 1.0 + 1e-3:
        raise ValueError(f"{name} must be floats in [-1, 1], and has others: divide by the largest, or give int16.")
    return to_int16(samples * 2**15)


def to_int16(samples: np.ndarray) -> Int16[np.ndarray, "..."]:
    """Numbers in the range of 16 bits, rounded, and cut off where they are outside."""
    return np.clip(np.rint(samples), -(2**15), 2**15 - 1).astype(np.int16)
