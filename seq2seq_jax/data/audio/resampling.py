"""Samples at another rate, by a windowed sinc in as many phases as the ratio of the rates has."""

import functools
import math

import numpy as np
from jaxtyping import Float

ZERO_CROSSINGS = 16
"""Of the sinc on each side."""
ROLLOFF = 0.945
"""Of half of the lower rate: what the filter passes."""
BETA = 8.0
"""Of the Kaiser window: what is folded back is 80 dB down."""


def resample(samples: np.ndarray, *, up: int, down: int) -> Float[np.ndarray, "resampled"]:
    """Samples at up / down times their rate, as float32: ceil(n * up / down) of them.

    Args:
        up, down: rates, or a ratio of them.

    Source: Smith, Digital audio resampling (bandlimited interpolation), 2002.
    """
    divisor = math.gcd(up, down)
    up, down = up // divisor, down // divisor
    if up == down:
        return samples.astype(np.float32)
    taps = _taps(up, down)
    width = taps.shape[1]
    size = -(-len(samples) * up // down)
    found = np.zeros(size, np.float32)
    # Room for the window of the last sample.
    padded = np.pad(samples.astype(np.float32), (width // 2, width + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    for phase in range(min(up, size)):
        first = phase * down // up
        found[phase::up] = windows[first::down][: len(found[phase::up])] @ taps[phase]
    return found


@functools.cache
def _taps(up: int, down: int) -> np.ndarray:
    """The filter of each phase, [up, width]: sample m reads the inputs around m * down / up."""
    cutoff = ROLLOFF * min(1.0, up / down)
    half = math.ceil(ZERO_CROSSINGS / cutoff)
    offsets = np.arange(-half, half + 1)
    fractions = np.arange(up) * down % up / up
    distances = offsets[None, :] - fractions[:, None]
    window = np.kaiser(2 * 512 + 1, BETA)
    shape = np.interp(np.abs(distances) / (half + 1), np.linspace(0.0, 1.0, 513), window[512:])
    taps = cutoff * np.sinc(cutoff * distances) * shape
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
