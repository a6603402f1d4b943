"""Digit strings and features: what examples are, that they depend on nothing else, and what is refused."""

import dataclasses

import numpy as np
import pytest
from speech import WORDS, write_digits

from seq2seq_jax.data.audio.digit_strings import NOISE, DigitStrings, spoken
from seq2seq_jax.data.audio.features import SpeechFeatures
from seq2seq_jax.data.audio.inputs import sound_of


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    directory = write_digits(tmp_path_factory.mktemp("digits"))
    return DigitStrings(directory=str(directory), stride=320, train_examples=20, fewest_words=2, most_words=3)


def test_strings_are_recordings_with_faint_noise_between(digits):
    corpus = digits.open(["train", "validation"])
    assert corpus.splits == {"train": 20, "validation": 2}
    (first, text, speaker, name), (second, *_) = corpus.examples("validation")
    assert (text, speaker, name) == ("zero one", "ann", "ann-0")
    assert first.dtype == np.int16 and first.shape[1] == 1
    assert np.abs(first[:100]).max() <= NOISE and np.abs(first[-300:]).max() <= NOISE
    assert np.unique(first[:100]).size > 3
    assert np.abs(second[50:-80]).max() > 7_000
    texts = [text for _, text, *_ in corpus.examples("train")]
    assert all(2 <= len(text.split()) <= 3 and set(text.split()) <= set(WORDS) for text in texts)
    assert len(set(texts)) > 5
    # Without the audio, the same texts.
    assert [text for (text,) in corpus.read("train", ["target"])] == texts


def test_a_string_is_a_function_of_seed_and_index(digits):
    few, many = (dataclasses.replace(digits, train_examples=number).open(["train"]) for number in (5, 50))
    for (samples, *facts), (again, *facts_again), _ in zip(
        few.examples("train"), many.examples("train"), range(5), strict=False
    ):
        np.testing.assert_array_equal(samples, again)
        assert facts == facts_again
    other = dataclasses.replace(digits, strings_seed=1).open(["train"])
    assert list(other.read("train", ["target"])) != list(digits.open(["train"]).read("train", ["target"]))
    assert few.fingerprint != many.fingerprint
    assert digits.open(["train"]).fingerprint == digits.open(["train"]).fingerprint
    # Training uses no recording to validate on.
    table = (line.split("\t") for line in open(f"{digits.directory}/recordings.tsv"))
    trained = {row[1] for row in table if row[0] == "train"}
    strings = [digits.string(index, _recordings(digits)) for index in range(50)]
    assert {file for string in strings for file in string.files} <= trained
    assert all(len(string.silences) == len(string.files) + 1 for string in strings)
    assert len({string.speaker for string in strings}) == 2


def _recordings(digits):
    from seq2seq_jax.data.audio.digit_strings import Recording

    rows = [line.rstrip("\n").split("\t") for line in open(f"{digits.directory}/recordings.tsv")][1:]
    return [Recording(file, speaker, text) for split, file, speaker, text, _ in rows if split == "train"]


def test_lengths_of_a_string_add_up(digits):
    string = digits.string(3, _recordings(digits))
    sounds = {file: np.full(10 * (1 + index), 9, np.int16) for index, file in enumerate(string.files)}
    found = spoken(string, sounds)
    assert len(found) == sum(string.silences) + sum(len(sounds[file]) for file in string.files)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("x\tann\tone\tnone.wav\t1 1", "line 2"),
        ("x\tann\tone\t5_ann.wav\t1", "2 numbers of samples"),
        ("x\tann\tone\t5_ann.wav\t1 -1", "2 numbers of samples"),
        ("x\tann\tone", "5 values"),
    ],
)
def test_mistakes_in_a_table_are_one_line_that_names_it(digits, tmp_path, line, named):
    directory = write_digits(tmp_path)
    (directory / "strings_dev.tsv").write_text(f"id\tspeaker\ttext\tfiles\tsilences\n{line}\n")
    with pytest.raises(ValueError) as error:
        dataclasses.replace(digits, directory=str(directory)).open(["validation"])
    assert named in str(error.value) and "strings_dev.tsv" in str(error.value) and "\n" not in str(error.value)


def test_another_rate_is_refused(digits):
    corpus = dataclasses.replace(digits, rate=16_000).open(["validation"])
    with pytest.raises(ValueError, match=r"one channel of 16000 samples .* 0_ann.wav .* got 1 of 8000"):
        next(corpus.examples("validation"))


def test_speech_is_not_truncated(digits):
    with pytest.raises(ValueError, match="too_long must be drop"):
        dataclasses.replace(digits, too_long="truncate")


@pytest.fixture
def cepstra(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(9, 3)).astype("<f4")
    frames.tofile(tmp_path / "train.cepstra.f32")
    (tmp_path / "train.tsv").write_text("id\tspeaker\tframes\ttext\na\tann\t4\tone two\nb\tbob\t5\tthree\n")
    return SpeechFeatures(directory=str(tmp_path), stride=4, features=3, validation=None), frames


def test_features_of_each_example(cepstra):
    source, frames = cepstra
    corpus = source.open()
    (first, *facts), (second, *_) = corpus.examples("train")
    np.testing.assert_array_equal(first, frames[:4])
    np.testing.assert_array_equal(second, frames[4:])
    assert facts == ["one two", "ann", "a"]
    assert list(corpus.read("train", ["target"])) == [("one two",), ("three",)]
    halves = dataclasses.replace(source, stored="float16").open()
    assert next(halves.examples("train"))[0].dtype == np.float16


def test_features_of_another_width_or_that_are_no_numbers_are_one_line(cepstra, tmp_path):
    source, frames = cepstra
    with pytest.raises(ValueError, match=r"expected 144 bytes in .*train.cepstra.f32, 4 float32 features .* has 108"):
        dataclasses.replace(source, features=4).open()
    frames[6, 1] = np.nan
    frames.tofile(tmp_path / "train.cepstra.f32")
    with pytest.raises(ValueError, match="^b in .* no numbers"):
        list(source.open().examples("train"))
    frames[6, 1] = 1e5
    frames.tofile(tmp_path / "train.cepstra.f32")
    assert [len(audio) for audio, *_ in source.open().examples("train")] == [4, 5]
    with pytest.raises(ValueError, match="^b in .* a feature of 1e.05, and the largest float16 is 65,504"):
        list(dataclasses.replace(source, stored="float16").open().examples("train"))


def test_features_in_files_of_arrays(cepstra, tmp_path):
    source, frames = cepstra
    np.save(tmp_path / "whole.npy", frames)
    np.testing.assert_array_equal(sound_of(tmp_path / "whole.npy", source, name="x").frames, frames)
    whole = (tmp_path / "whole.npy").read_bytes()
    for content in (b"", whole[:30], whole[:-4], b"some text", b"PK\x03\x04"):
        (tmp_path / "damaged.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged.npy is no whole .npy file [^\n]*$"):
            sound_of(tmp_path / "damaged.npy", source, name="x")
