"""The front end: against numpy, written anew; packed equals unpacked; SpecAugment stays in its segment."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from speech import of_segments, rows_of_frames

from seq2seq_jax.batch import FrameRows
from seq2seq_jax.modules.front_end import FeaturesConfig, FeatureStatistics, LogMelConfig, SpecAugmentConfig

RATE, HOP, STRIDE = 8_000, 80, 320
LENGTHS = (2_500, 320, 1_999, 81, 4_000, 640)
"""Samples. The first and the third end within a position and within a frame."""
RNG = np.random.default_rng(0)
SOUNDS = [np.clip(RNG.normal(size=(length, 1)) * 3_000, -32_768, 32_767).astype(np.int16) for length in LENGTHS]
PACKED, ALONE = [[SOUNDS[4], SOUNDS[0]], [SOUNDS[1], SOUNDS[2], SOUNDS[3], SOUNDS[5]]], [[sound] for sound in SOUNDS]
ORDER = (4, 0, 1, 2, 3, 5)
"""Of the packed examples."""
LENGTH = 24
LOG_MEL = LogMelConfig(rate=RATE, bands=20, normalization="none")


def front_end(config, parts=1, statistics=None, model_dim=16):
    return config.build(model_dim=model_dim, parts=parts, precision="float32", statistics=statistics)


@functools.cache
def jitted(config, statistics=None, parts=1):
    module = front_end(config, parts, statistics)
    return jax.jit(lambda source: module.apply({}, source, method="features"))


def features(rows, config, statistics=None, length=LENGTH, stride=STRIDE, parts=1):
    """Features of each example of rows, in order."""
    values, ids = jitted(config, statistics, parts)(rows_of_frames(rows, length=length, stride=stride))
    return of_segments(values, ids, rows)


def log_mel(samples, *, rate=RATE, bands=20, lowest=20.0, floor=1e-8):
    """In float64, frame by frame, by numpy's Fourier transform, and triangles band by band."""
    window, hop = rate // 40, rate // 100
    size = 2 ** int(np.ceil(np.log2(window)))
    signal = np.concatenate([samples[:, 0].astype(np.float64) / 32_768.0, np.zeros(window)])
    hann = np.sin(np.pi * np.arange(window) / window) ** 2
    to_mel, to_hertz = (lambda f: 2595 * np.log10(1 + f / 700)), (lambda m: 700 * (10 ** (m / 2595) - 1))
    edges = to_hertz(np.linspace(to_mel(lowest), to_mel(rate / 2), bands + 2))
    found = []
    for begin in range(0, len(samples), hop):
        power = np.abs(np.fft.rfft(signal[begin : begin + window] * hann, size)) ** 2
        frequencies = np.fft.rfftfreq(size, 1 / rate)
        energies = [
            np.sum(power * np.interp(frequencies, edges[band : band + 3], [0.0, 1.0, 0.0], left=0.0, right=0.0))
            for band in range(bands)
        ]
        found.append(np.log(np.maximum(energies, floor)))
    return np.array(found)


def test_log_mel_equals_numpy_in_packed_rows():
    for found, index in zip(features(PACKED, LOG_MEL), ORDER, strict=True):
        expected = log_mel(SOUNDS[index])
        assert found.shape == expected.shape == (-(-LENGTHS[index] // HOP), 20)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_log_mel_at_16_khz_equals_numpy():
    config = LogMelConfig(rate=16_000, bands=80, normalization="none")
    found = features([[SOUNDS[0]]], config, length=8, stride=640)
    np.testing.assert_allclose(found[0], log_mel(SOUNDS[0], rate=16_000, bands=80), atol=1e-4)


@pytest.mark.parametrize(("rate", "bands"), [(8_000, 20), (16_000, 80)])
def test_log_mel_equals_torchaudio(rate, bands):
    """Its MelSpectrogram: same window, hop, HTK's mel scale and no normalisation of areas."""
    torch, transforms = pytest.importorskip("torch"), pytest.importorskip("torchaudio.transforms")
    config = LogMelConfig(rate=rate, bands=bands, normalization="none")
    size = 1 << (config.window_samples - 1).bit_length()
    transform = transforms.MelSpectrogram(
        sample_rate=rate,
        n_fft=size,
        win_length=config.window_samples,
        hop_length=config.hop_samples,
        f_min=config.lowest,
        n_mels=bands,
        center=False,
    )
    # torchaudio puts a window into the middle of the transform.
    margin = (size - config.window_samples) // 2
    found = features(PACKED, config, stride=4 * config.hop_samples, length=40)
    for index, ours in zip(ORDER, found, strict=True):
        samples = torch.tensor(SOUNDS[index][:, 0] / np.float32(32_768))
        power = transform(torch.nn.functional.pad(samples, (margin, size)))
        theirs = np.log(np.maximum(power.numpy().T, config.floor))[: len(ours)]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_deltas_are_differences_within_a_segment():
    examples = [RNG.normal(size=(length, 3)).astype(np.float32) for length in (7, 4, 1)]
    config = FeaturesConfig(features=3, deltas=2, normalization="none")
    for found, frames in zip(features([examples], config, length=6, stride=4), examples, strict=True):

        def differences(x):
            padded = np.concatenate([x[:1], x, x[-1:]])
            return (padded[2:] - padded[:-2]) / 2

        velocity = differences(frames)
        expected = np.concatenate([frames, velocity, differences(velocity)], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_normalisation_by_segment_and_by_statistics():
    by_segment = features(PACKED, dataclasses.replace(LOG_MEL, normalization="segment"))
    mean, deviation = tuple(np.linspace(-3, 3, 20).tolist()), tuple(np.linspace(0.5, 2, 20).tolist())
    training = dataclasses.replace(LOG_MEL, normalization="training")
    by_statistics = features(PACKED, training, FeatureStatistics(mean, deviation))
    for one, other, index in zip(by_segment, by_statistics, ORDER, strict=True):
        expected = log_mel(SOUNDS[index])
        np.testing.assert_allclose(other, (expected - mean) / deviation, atol=1e-3)
        spread = np.maximum(expected.std(axis=0), 1e-3)
        np.testing.assert_allclose(one, (expected - expected.mean(axis=0)) / spread, atol=1e-3)


@pytest.mark.parametrize("parts", [1, 2])
def test_packed_equals_unpacked_after_convolutions(parts):
    """With parts, the encoder gets two vectors for each position, of which the last may be none."""
    config = dataclasses.replace(LOG_MEL, deltas=1, normalization="segment", convolutions=1 if parts == 2 else 2)
    module = front_end(config, parts)
    packed, alone = (rows_of_frames(rows, length=LENGTH, stride=STRIDE) for rows in (PACKED, ALONE))
    variables = module.init(jax.random.key(0), alone, deterministic=True)
    apply = jax.jit(functools.partial(module.apply, deterministic=True))
    found = of_segments(apply(variables, packed), packed.ids_of_parts(parts), PACKED)
    expected = of_segments(apply(variables, alone), alone.ids_of_parts(parts), ALONE)
    for vectors, index in zip(found, ORDER, strict=True):
        assert len(vectors) == -(-LENGTHS[index] * parts // STRIDE)
        np.testing.assert_allclose(vectors, expected[index], atol=1e-5)


def test_convolutions_with_strides_of_their_own_and_nothing_behind_them():
    """As Whisper has them: the first keeps the number of vectors. Against loops over windows."""
    config = FeaturesConfig(
        features=3, normalization="none", strides=(1, 2), activation="silu", projection=False, dropout=0.0
    )
    assert (config.frames_per_position, config.num_features) == (2, 3)
    module = front_end(config)
    frames = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    ids = np.array([[1, 1, 1, 2]])
    source = FrameRows(
        values=jnp.asarray(frames.reshape(1, 4, 2, 3)),
        counts=jnp.full((1, 4), 2, jnp.int32),
        segment_ids=jnp.asarray(ids),
        positions=jnp.array([[0, 1, 2, 0]]),
    )
    params = nn.meta.unbox(module.init(jax.random.key(0), source, deterministic=True))
    found = module.apply(params, source, deterministic=True)

    def convolved(x, kernel, stride):
        padded = np.pad(x, ((1, 1), (0, 0)))
        sums = np.stack([padded[t : t + 3].reshape(-1) @ kernel for t in range(0, len(x), stride)])
        return sums / (1 + np.exp(-sums))

    kernels = [params["params"][f"convolutions_{index}"]["Linear_0"]["kernel"] for index in range(2)]
    expected = np.concatenate([convolved(convolved(x, kernels[0], 1), kernels[1], 2) for x in (frames[:6], frames[6:])])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_spec_augment_masks_each_segment_for_itself():
    """Zeros of masks: in time over all bands, in bands over all frames of the segment, never more than is allowed."""
    masks = SpecAugmentConfig(
        time_masks=1, max_time_mask=5, max_time_fraction=0.2, frequency_masks=1, max_frequency_mask=4
    )
    config = dataclasses.replace(LOG_MEL, normalization="segment", spec_augment=masks)
    module = front_end(config)
    source = rows_of_frames(PACKED, length=LENGTH, stride=STRIDE)

    @jax.jit
    def augmented(key):
        return module.apply({}, source, deterministic=False, method="features", rngs={"dropout": key})

    plain, ids = jitted(config)(source)
    drawn = set()
    for seed in range(8):
        values, plain = np.asarray(augmented(jax.random.key(seed))[0]), np.asarray(plain)
        # What is no frame stays 0, and what is not masked stays as it is.
        assert not values[np.asarray(ids) == 0].any()
        is_masked = (values == 0) & (plain != 0)
        np.testing.assert_array_equal(values[~is_masked], plain[~is_masked])
        for masked in of_segments(is_masked, ids, PACKED):
            in_time, in_bands = masked.all(axis=1), masked[~masked.all(axis=1)].all(axis=0)
            np.testing.assert_array_equal(masked, in_time[:, None] | in_bands)
            assert in_time.sum() <= min(5, int(0.2 * len(masked))) and in_bands.sum() <= 4
            for run in (in_time, in_bands):
                assert np.count_nonzero(np.diff(np.pad(run.astype(int), 1))) in (0, 2)
            drawn.add((int(in_time.sum()), int(in_bands.sum()), int(in_bands.argmax())))
    # Segments and keys have masks of their own.
    assert len(drawn) > 10


def test_spec_augment_is_the_same_for_the_same_key():
    config = dataclasses.replace(LOG_MEL, normalization="segment", spec_augment=SpecAugmentConfig())
    module = front_end(config)
    source = rows_of_frames(PACKED, length=LENGTH, stride=STRIDE)
    run = jax.jit(
        lambda key: module.apply({}, source, deterministic=False, method="features", rngs={"dropout": key})[0]
    )
    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="whole number of samples"):
        LogMelConfig(rate=11_025)
    with pytest.raises(ValueError, match="too many"):
        features([[SOUNDS[1]]], LogMelConfig(rate=RATE, bands=120, normalization="none"))
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        FeaturesConfig(kernel_size=4)
    with pytest.raises(ValueError, match="strides must be 2 numbers, one per convolution"):
        FeaturesConfig(strides=(1, 2, 2))
    with pytest.raises(ValueError, match="projection must be True where there are no convolutions"):
        FeaturesConfig(convolutions=0, projection=False)
    with pytest.raises(ValueError, match="convolution_dim = 5 needs a projection"):
        front_end(FeaturesConfig(convolution_dim=5, projection=False))


def test_silence_is_finite():
    found = features([[np.zeros((800, 1), np.int16)]], dataclasses.replace(LOG_MEL, normalization="segment"))
    assert np.isfinite(found[0]).all()
    assert jnp.asarray(found[0]).shape == (10, 20)
