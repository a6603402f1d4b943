"""A run of speech by the commands: trained on samples, continued, evaluated, generated from, aligned; mistakes."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from command_line import call
from saved_arrays import saved_arrays
from shared import made_once
from speech import wav, write_digits

import seq2seq_jax
from seq2seq_jax.training.telemetry import read_records

pytestmark = pytest.mark.long

CONFIG = '''"""Tones that stand for digits, for tests."""

from seq2seq_jax.data.audio.augmentation import AddedNoise, SoundAugmentationConfig, SpeedPerturbation
from seq2seq_jax.data.audio.digit_strings import DigitStrings
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import LogMelConfig, SpecAugmentConfig
from seq2seq_jax.objectives.joint_ctc import JointCtcConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment():
    stack = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "hidden_dim": 64, "dropout": 0.1}
    return Experiment(
        data=DigitStrings(
            directory="digits", cache_directory="cache", stride=320, max_source_length=48, max_target_length=8,
            train_examples=40, fewest_words=1, most_words=3, window=16,
            augmentation=SoundAugmentationConfig(speed=SpeedPerturbation(), noise=AddedNoise()),
        ),
        tokenizer=TokenizerConfig(kind="words", vocabulary_size=20, byte_fallback=False),
        model=ModelConfig(
            front_end=LogMelConfig(rate=8_000, bands=16, spec_augment=SpecAugmentConfig(max_time_mask=4)),
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            tied_embeddings="decoder",
            ctc=True,
        ),
        objective=JointCtcConfig(),
        optimizer=AdamWConfig(learning_rate=1e-2, schedule="constant", warmup_steps=5),
        training=TrainingConfig(
            steps=60, target_tokens_per_batch=64, log_every=20, checkpoint_every=30, evaluate_every=60
        ),
        generation=BeamSearch(beam_size=2, ctc_weight=0.5, maximum_length_ratio=0.5),
    )
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with recordings, a config, and a run of 60 steps; not to be changed."""

    def make(directory):
        write_digits(directory / "digits")
        (directory / "configs" / "tones").mkdir(parents=True)
        (directory / "configs" / "tones" / "transformer.py").write_text(CONFIG)
        with contextlib.chdir(directory):
            assert call("train", "tones/transformer", "--run_dir", "run") == 0

    return made_once(tmp_path_factory, "speech", make)


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A copy of it, which is the current directory."""
    shutil.copytree(place, tmp_path / "speech")
    monkeypatch.chdir(tmp_path / "speech")
    return tmp_path / "speech"


def said(capfd):
    output, errors = capfd.readouterr()
    return output, errors


def one_line(capfd):
    output, errors = capfd.readouterr()
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1 and output == "", errors
    return lines[0]


def tone(seconds=0.4, *, rate=8_000, pitch=1_000):
    return np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate) * 8_000


def test_training_logs_losses_and_error_rates_and_keeps_statistics(place):
    records = read_records(place / "run" / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    [validation] = [record for record in records if record["kind"] == "validation"]
    assert train[-1]["ctc"] < train[0]["ctc"] and train[-1]["loss"] < train[0]["loss"]
    assert {"wer", "cer", "wer_insertions", "ctc_token_error_rate", "ctc_without_path"} <= validation.keys()
    assert validation["ctc_without_path"] == 0.0
    statistics = json.loads((place / "run" / "features.json").read_text())
    assert len(statistics["mean"]) == len(statistics["deviation"]) == 16
    samples = next((place / "run" / "samples").glob("*.txt")).read_text()
    assert "ann-0 (ann)" in samples and "reference  zero one" in samples


def test_a_run_that_is_continued_ends_as_one_that_was_not_interrupted(here, capfd):
    for steps in ("30", "60"):
        assert call("train", "tones/transformer", "--run_dir", "twice", "--training.steps", steps) == 0
    assert saved_arrays(here / "twice", 60) == saved_arrays(here / "run", 60)


def test_texts_of_files_manifests_lists_and_arrays(here, capfd):
    for name, samples in (("a.wav", tone()), ("b.wav", tone(0.6, pitch=500))):
        (here / name).write_bytes(wav(samples))
    capfd.readouterr()
    assert call("generate", "run", "--input", "a.wav", "b.wav", "--json", "texts.jsonl") == 0
    records = [json.loads(line) for line in (here / "texts.jsonl").read_text().splitlines()]
    assert [record["source"] for record in records] == ["a.wav", "b.wav"]
    texts = [record["hypotheses"][0]["text"] for record in records]
    (here / "rows.tsv").write_text("file\tspeaker\na.wav\tann\nb.wav\tbob\n")
    (here / "paths.txt").write_text("a.wav\nb.wav\n")
    for given in ("rows.tsv", "paths.txt"):
        assert call("generate", "run", "--input", given, "--output", "out.txt") == 0
        assert (here / "out.txt").read_text().splitlines() == texts
    run = seq2seq_jax.load("run")
    assert run.generate(["a.wav", "b.wav"]) == texts
    samples = tone().astype(np.int16)
    assert run.generate([samples, samples / 2**15]) == [texts[0]] * 2
    assert run.generate(samples) == texts[:1]


def test_another_rate_is_resampled_and_said(here, capfd):
    (here / "fast.wav").write_bytes(wav(tone(rate=16_000), rate=16_000))
    capfd.readouterr()
    assert call("generate", "run", "--input", "fast.wav", "--output", "out.txt") == 0
    assert "resampled from 16,000 to 8,000 samples per second" in said(capfd)[1]
    run = seq2seq_jax.load("run")
    sounds = run.sources([tone(rate=16_000).astype(np.int16)], "texts", rate=16_000)
    assert sounds[0].rate == 16_000 and len(sounds[0].frames) == 3_200


def test_little_is_said_in_silence_and_noise_and_long_sounds_are_divided(here):
    run = seq2seq_jax.load("run")
    silence, long = np.zeros(4_000, np.int16), np.tile(tone(1.0), 5).astype(np.int16)
    noises = [np.random.default_rng(0).normal(size=12_000) * size for size in (2, 300, 9_000)]
    [empty], [text], *heard = run.hypotheses([silence, long, *(noise.astype(np.int16) for noise in noises)])
    assert empty.text == "" and empty.num_tokens == 1
    # No loop to the limit, which is a token for two positions and ten more: 1.5 s are 38 positions.
    assert all(found.num_tokens <= 12 for [found] in heard)
    assert text.num_tokens < 100


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("none.wav", None, "none.wav cannot be read"),
        ("empty.wav", b"", "empty.wav is empty"),
        ("cut.wav", wav(tone())[:30], "without samples"),
        ("text.wav", b"some text", "text.wav"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_generated(here, capfd, name, content, named):
    if content is not None:
        (here / name).write_bytes(content)
    (here / "a.wav").write_bytes(wav(tone()))
    capfd.readouterr()
    assert call("generate", "run", "--input", "a.wav", name) == 2
    assert named in one_line(capfd)


def test_a_manifest_names_the_row_of_a_mistake(here, capfd):
    (here / "rows.tsv").write_text("file\nnone.wav\n")
    capfd.readouterr()
    assert call("generate", "run", "--input", "rows.tsv") == 2
    assert "line 2 of rows.tsv" in one_line(capfd)


def test_no_sound_that_is_read_is_written_to(here, capfd):
    for name in ("a.wav", "b.wav"):
        (here / name).write_bytes(wav(tone()))
    capfd.readouterr()
    assert call("generate", "run", "--input", "a.wav", "b.wav", "--output", "b.wav") == 2
    assert "b.wav is the file that is read" in one_line(capfd)
    (here / "rows.tsv").write_text("file\tsource\na.wav\tx\n")
    assert call("generate", "run", "--input", "rows.tsv", "--json", "out.jsonl") == 2
    assert "has a field 'source'" in one_line(capfd)


def test_evaluation_alignment_and_data(here, capfd):
    assert call("evaluate", "run", "--split", "validation", "--json", "scores.json", "--generation", "ctc_greedy") == 0
    scores = json.loads((here / "scores.json").read_text())
    assert "wer" in scores and scores["metrics"]["wer"]["signature"].startswith("nrefs:1|norm:none")
    (here / "a.wav").write_bytes(wav(tone(0.5)))
    assert call("align", "run", "--input", "a.wav", "--output", "a.png", "--json", "a.jsonl") == 0
    [aligned] = [json.loads(line) for line in (here / "a.jsonl").read_text().splitlines()]
    assert aligned["source"] == "a.wav"
    assert aligned["source_tokens"] == [f"{0.04 * position:.2f}" for position in range(13)]
    assert len(aligned["weights"][0][0][0]) == 13
    assert call("data", "tones/transformer", "--json", "data.json", "--plot", "lengths.png") == 0
    facts = json.loads((here / "data.json").read_text())["speech"]
    assert facts["validation"]["speakers"] == 2 and facts["train"]["seconds_per_position"] == 0.04


def test_a_run_without_its_statistics_says_so(here, capfd):
    (here / "run" / "features.json").unlink()
    capfd.readouterr()
    (here / "a.wav").write_bytes(wav(tone()))
    assert call("generate", "run", "--input", "a.wav") == 2
    assert "features.json" in one_line(capfd)
