"""Audio files: headers that are wrong, kinds that are not known, and samples at other rates."""

import io
import struct
import sys

import numpy as np
import pytest
from speech import wav

from seq2seq_jax.data.audio.files import as_samples, decode_audio
from seq2seq_jax.data.audio.resampling import resample

SAMPLES = np.random.default_rng(0).integers(-20_000, 20_000, 500).astype(np.int16)


def with_length(data, size):
    """The same file with another number of bytes in its header."""
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


def test_samples_and_rate():
    samples, rate = decode_audio(wav(SAMPLES), "one.wav")
    assert rate == 8_000
    np.testing.assert_array_equal(samples, SAMPLES[:, None])
    stereo, _ = decode_audio(wav(SAMPLES, channels=2), "two.wav")
    np.testing.assert_array_equal(stereo, SAMPLES.reshape(-1, 2))


@pytest.mark.parametrize("size", [0, 2**32 - 1, 0x7FFFF000])
def test_data_is_trusted_where_the_header_of_a_stream_has_no_length(size):
    samples, _ = decode_audio(with_length(wav(SAMPLES), size), "streamed.wav")
    np.testing.assert_array_equal(samples[:, 0], SAMPLES)


def test_an_odd_byte_at_the_end_is_left_out():
    samples, _ = decode_audio(with_length(wav(SAMPLES)[:-1], 0), "cut.wav")
    np.testing.assert_array_equal(samples[:, 0], SAMPLES[:-1])


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "x.wav is empty"),
        (wav(SAMPLES)[:40], "x.wav is a WAV file without samples"),
        (b"RIFF\x00\x00\x00\x00WAVE", "x.wav is a WAV file without samples"),
        (wav(np.resize(SAMPLES, 2_000))[:-2_000], "x.wav has 2,000 bytes of samples, and its header says 4,000"),
    ],
)
def test_what_is_no_audio_is_one_line(data, named):
    with pytest.raises(ValueError) as error:
        decode_audio(data, "x.wav")
    assert named in str(error.value) and "\n" not in str(error.value)


def test_other_formats_need_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"^x.flac is not a WAV file of 16-bit samples, .*pip install [^\n]*$"):
        decode_audio(b"fLaC", "x.flac")


def encoded(kind, subtype, *, samples=SAMPLES):
    """A file of another format; of whole numbers, one of fractions has them as such."""
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, samples, 8_000, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("FLAC", "PCM_16"),
        ("NIST", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("AU", "FLOAT"),
    ],
)
def test_lossless_formats_are_read_as_they_were_written(kind, subtype):
    samples, rate = decode_audio(encoded(kind, subtype, samples=SAMPLES / 2.0**15), f"x.{kind}")
    assert rate == 8_000
    np.testing.assert_array_equal(samples[:, 0], SAMPLES)


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_formats_are_read_about_as_they_were_written(kind, subtype):
    given = (np.sin(2 * np.pi * 0.05 * np.arange(4_000)) * 9_000).astype(np.int16)
    samples, rate = decode_audio(encoded(kind, subtype, samples=given), f"x.{kind}")
    assert rate == 8_000 and samples.shape == (4_000, 1)
    assert np.corrcoef(samples[:, 0], given)[0, 1] > 0.99


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_what_decoders_make_louder_than_the_loudest_is_cut_off(kind, subtype):
    given = np.sign(np.sin(2 * np.pi * 0.0125 * np.arange(8_000) + 0.1)) * 0.999
    samples, _ = decode_audio(encoded(kind, subtype, samples=given), f"x.{kind}")
    inside = np.abs(np.convolve(given, np.ones(15), mode="same")) > 14.9
    assert np.abs(samples[:, 0] / 2.0**15 - given)[inside].max() < 1.0, "apart from where the sign changes"


CONTAINERS = [
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("NIST", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("kind", "subtype"), CONTAINERS)
def test_what_was_cut_short_is_refused(kind, subtype):
    whole = encoded(kind, subtype, samples=np.sin(0.05 * np.arange(32_000)) * 0.3)
    assert len(decode_audio(whole, "x.bin")[0]) == 32_000
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(ValueError, match=r"^x.bin (has \d[^\n]*cut short|ends within|cannot be read)[^\n]*$"):
            decode_audio(whole[: int(part * len(whole))], "x.bin")


@pytest.mark.parametrize(("kind", "place"), [("AIFF", 4), ("AU", 8)])
@pytest.mark.parametrize("size", [2**32 - 1, 0x7FFFF000])
def test_other_formats_without_a_length_are_read_to_their_end(kind, place, size):
    whole = encoded(kind, "PCM_16", samples=SAMPLES)
    samples, _ = decode_audio(whole[:place] + struct.pack(">I", size) + whole[place + 4 :], "x.bin")
    np.testing.assert_array_equal(samples[:, 0], SAMPLES)


def test_whole_numbers_as_fractions_are_refused():
    with pytest.raises(ValueError, match=r"^x.wav has samples far outside of \[-1, 1\][^\n]*$"):
        decode_audio(encoded("WAV", "FLOAT", samples=SAMPLES.astype(np.float32)), "x.wav")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_soundfile_cannot_read_is_one_line():
    tone = encoded("FLAC", "PCM_16", samples=np.sin(np.arange(8_000)))
    for data in (
        b"no audio at all",
        encoded("FLAC", "PCM_16")[:200],
        tone[: len(tone) // 2],
        encoded("OGG", "VORBIS")[:60],
    ):
        with pytest.raises(ValueError, match=r"^x.bin cannot be read as audio \([^\n]*$"):
            decode_audio(data, "x.bin")


def test_samples_of_callers():
    np.testing.assert_array_equal(as_samples(SAMPLES, "x"), SAMPLES)
    np.testing.assert_array_equal(as_samples(SAMPLES / 2.0**15, "x"), SAMPLES)
    both = np.stack([SAMPLES, SAMPLES], axis=1)
    np.testing.assert_array_equal(as_samples(both, "x"), SAMPLES)
    np.testing.assert_array_equal(as_samples(both / 2.0**15, "x"), SAMPLES)
    quiet = np.array([[0, 1], [-1, -1], [1, 1]], np.int16)
    np.testing.assert_array_equal(as_samples(quiet, "x"), [0, -1, 1])
    np.testing.assert_array_equal(as_samples(np.full((2, 2), 1.0005), "x"), [2**15 - 1] * 2)
    for wrong, named in (
        (np.zeros(0), "no samples"),
        (np.array([2.0]), "in [-1, 1]"),
        (np.array([np.nan]), "in [-1, 1]"),
        (np.zeros((2, 2, 2)), "[samples]"),
        (np.full((2, 2), 300.0), "in [-1, 1]"),
        (np.zeros((2, 2), np.int32), "int16"),
        (np.zeros(3, np.int32), "int16"),
    ):
        with pytest.raises(ValueError) as error:
            as_samples(wrong, "audio[3]")
        assert "audio[3]" in str(error.value) and named in str(error.value)


@pytest.mark.parametrize(("up", "down"), [(8_000, 16_000), (16_000, 8_000), (10, 9), (10, 11), (8_000, 44_100)])
def test_resampled_tones_are_tones_of_the_same_pitch(up, down):
    """Tones of a fifth of the lower rate at most, against the formula; the ends, where there is silence, left out."""
    size = 4_000
    frequency = 0.17 * min(1.0, up / down)
    found = resample(np.sin(2 * np.pi * frequency * np.arange(size)) * 10_000, up=up, down=down)
    assert len(found) == -(-size * up // down)
    expected = np.sin(2 * np.pi * frequency * np.arange(len(found)) * down / up) * 10_000
    inner = slice(len(found) // 10, -len(found) // 10)
    np.testing.assert_allclose(found[inner], expected[inner], atol=20)


def test_what_would_be_folded_back_is_gone():
    found = resample(np.sin(2 * np.pi * 0.4 * np.arange(4_000)) * 10_000, up=1, down=2)
    assert np.abs(found[100:-100]).max() < 20
