"""Sounds to generate from: what is divided where, and what is refused."""

import numpy as np
import pytest

from seq2seq_jax.data.audio.inputs import Sound
from seq2seq_jax.data.columns import Frames
from seq2seq_jax.generation.frames import FrameSources

STRIDE = 4
SOURCES = FrameSources(
    Frames(num_features=1, kind="int16", stride=STRIDE, max_length=10 * STRIDE), seconds_per_position=0.5
)


def sound(samples, name="x.wav"):
    return Sound(np.asarray(samples, np.int16)[:, None], name)


def test_long_sounds_are_divided_where_they_are_quietest():
    """25 positions of 10 at most: noise, but for positions 7 and 14."""
    samples = np.full((25, STRIDE), 1_000)
    samples[7] = samples[14] = 0
    fitted = SOURCES.fit([sound(samples.reshape(-1)), sound([1, 2, 3])])
    assert [len(part) // STRIDE for part in fitted.parts[0]] == [8, 7, 10]
    np.testing.assert_array_equal(np.concatenate(fitted.parts[0])[:, 0], samples.reshape(-1))
    assert len(fitted.parts[1]) == 1
    [long] = fitted.long
    assert (long.line, long.num_tokens, long.num_parts) == (1, 25, 3)
    with pytest.raises(ValueError, match="x.wav has 25 positions, of 4 frames each, and the model takes 10"):
        SOURCES.fit([sound(samples.reshape(-1))], too_long="refuse")


def test_zeros_are_blank_and_positions_are_seconds():
    assert SOURCES.fit([sound(np.zeros(9))]).parts == [[]]
    assert SOURCES.labels(np.zeros((9, 1))) == ["0.00", "0.50", "1.00"]
    assert SOURCES.length(np.zeros((9, 1))) == 3


def test_text_and_other_frames_are_refused():
    with pytest.raises(ValueError, match="reads sounds, and text came: 'hello'"):
        SOURCES.fit(["hello"])
    with pytest.raises(ValueError, match="expected frames of 1 int16 features"):
        SOURCES.encode([Sound(np.zeros((4, 2), np.int16), "x")])
