"""Speed and noise in training: what they do, that lengths are known before, and that they are functions of the keys."""

import dataclasses

import numpy as np
import pytest
from speech import write_digits

from seq2seq_jax.data.audio.augmentation import AddedNoise, SoundAugmentationConfig, SpeedPerturbation
from seq2seq_jax.data.audio.digit_strings import DigitStrings
from seq2seq_jax.data.batch_maker import batch_maker
from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.data.transforms.sound import AddNoise, ChangeSpeed, ChangeTempo
from seq2seq_jax.tasks.speech import Speech

LENGTHS = (800, 1_111, 4_000, 801)
PITCH = 0.05
"""Cycles per sample."""
TONES = [np.rint(np.sin(2 * np.pi * PITCH * np.arange(length)) * 8_000).astype(np.int16)[:, None] for length in LENGTHS]
EXAMPLES = {"source": Ragged(np.concatenate(TONES), np.concatenate([[0], np.cumsum(LENGTHS)]))}
KEYS = np.arange(1, 5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def pitch_of(samples):
    """Cycles per sample of a tone."""
    spectrum = np.abs(np.fft.rfft(samples[:, 0] * np.hanning(len(samples)), 2**15))
    return spectrum.argmax() / 2**15


def test_speeds_change_length_and_pitch_as_was_planned():
    change = ChangeSpeed(SpeedPerturbation())
    speeds = set()
    for round_ in range(6):
        keys = KEYS + np.uint64(round_)
        made = change(EXAMPLES, keys)["source"]
        np.testing.assert_array_equal(
            made.lengths, change.lengths({"source": EXAMPLES["source"].lengths}, keys)["source"]
        )
        for index, length in enumerate(LENGTHS):
            speed = round(length / made.lengths[index], 1)
            speeds.add(speed)
            assert made.lengths[index] == -(-length * 10 // round(10 * speed))
            assert pitch_of(made[index]) == pytest.approx(PITCH * speed, abs=2e-4)
            if speed == 1.0:
                np.testing.assert_array_equal(made[index], TONES[index])
    assert speeds == {0.9, 1.0, 1.1}


def test_tempo_interpolates_frames_and_keeps_ends():
    ramps = [np.stack([np.arange(length), -2.0 * np.arange(length)], axis=1).astype(np.float32) for length in (50, 37)]
    examples = {"source": Ragged(np.concatenate(ramps), np.array([0, 50, 87]))}
    change, seen = ChangeTempo(SpeedPerturbation()), set()
    for round_ in range(8):
        keys = KEYS[:2] + np.uint64(round_)
        made = change(examples, keys)["source"]
        np.testing.assert_array_equal(
            made.lengths, change.lengths({"source": examples["source"].lengths}, keys)["source"]
        )
        for index, ramp in enumerate(ramps):
            speed = round(len(ramp) / made.lengths[index], 1)
            seen.add(speed)
            expected = np.minimum(np.arange(made.lengths[index]) * speed, len(ramp) - 1)
            np.testing.assert_allclose(made[index], np.stack([expected, -2.0 * expected], axis=1), atol=1e-4)
    assert seen == {0.9, 1.0, 1.1}


def test_noise_has_the_ratio_that_was_drawn():
    made = AddNoise(AddedNoise(probability=1.0, lowest_ratio=20.0, highest_ratio=20.0))(EXAMPLES, KEYS)["source"]
    for index, tone in enumerate(TONES):
        noise = made[index].astype(float) - tone
        ratio = 10 * np.log10(np.mean(tone.astype(float) ** 2) / np.mean(noise**2))
        assert ratio == pytest.approx(20.0, abs=0.6)
        # White: neighbours say nothing of each other.
        assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.12
    quiet = AddNoise(AddedNoise(probability=1e-9))(EXAMPLES, KEYS)["source"]
    np.testing.assert_array_equal(quiet.values, EXAMPLES["source"].values)


@pytest.mark.parametrize("transform", [ChangeSpeed(SpeedPerturbation()), AddNoise(AddedNoise(probability=1.0))])
def test_what_happens_to_an_example_depends_on_its_key_alone(transform):
    whole = transform(EXAMPLES, KEYS)["source"]
    for index in range(len(LENGTHS)):
        alone = transform({"source": EXAMPLES["source"].take(np.array([index]))}, KEYS[index : index + 1])["source"]
        np.testing.assert_array_equal(alone[0], whole[index])


def test_batches_hold_what_was_planned_and_evaluation_sees_none_of_it(tmp_path):
    directory = write_digits(tmp_path / "digits")
    data = DigitStrings(
        directory=str(directory), stride=320, max_source_length=48, max_target_length=8, train_examples=30, window=16,
        most_words=3, augmentation=SoundAugmentationConfig(speed=SpeedPerturbation(), noise=AddedNoise()),
    )  # fmt: skip
    corpus, task = data.open(["train"]), Speech()
    tokenizer = Tokenizer.train(
        corpus.read("train", ["target"]), TokenizerConfig(kind="words", vocabulary_size=20, byte_fallback=False)
    )
    store = Store.open_or_build(tmp_path / "cache", corpus, "train", task.columns(data), tokenizer)

    def maker(*, tokenizer, seed, **settings):
        return batch_maker(
            store,
            task.batch_format(data),
            vocabulary=tokenizer_vocabulary,
            target_tokens_per_batch=32,
            seed=seed,
            tokenizer=tokenizer,
            **settings,
        )

    tokenizer_vocabulary = tokenizer.vocabulary
    make = maker(tokenizer=tokenizer, seed=5)
    totals = set()
    for step in range(12):
        batch, position = make(step)
        again, _ = maker(tokenizer=tokenizer, seed=5, plan_position=position)(step)
        np.testing.assert_array_equal(batch.source.values, again.source.values)
        np.testing.assert_array_equal(batch.source.counts, again.source.counts)
        totals.add(int(batch.source.counts.sum()))
    plain = maker(tokenizer=None, seed=None)
    stored = store.columns["source"].lengths.sum()
    assert sum(int(each.batch.source.counts.sum()) for each in plain.epoch()) == stored
    assert len(totals) > 6


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="hundredths from 0.5 to 2"):
        SpeedPerturbation(speeds=(0.333,))
    with pytest.raises(ValueError, match="ascend"):
        AddedNoise(lowest_ratio=20.0, highest_ratio=10.0)
    with pytest.raises(ValueError, match="sounds: leave source"):
        DigitStrings(
            directory="x",
            stride=1,
            augmentation=dataclasses.replace(
                SoundAugmentationConfig(), source=dataclasses.replace(SoundAugmentationConfig().source, word_drop=0.1)
            ),
        )
