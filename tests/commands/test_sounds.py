"""What is read where a model reads speech, without a model."""

import gzip
import types

import numpy as np
import pytest
from speech import wav

from seq2seq_jax.commands.sounds import sounds_of, with_one_input
from seq2seq_jax.data.audio.recordings import Recordings

RUN = types.SimpleNamespace(experiment=types.SimpleNamespace(data=Recordings(directory=".", rate=8_000, stride=320)))
SAMPLES = np.arange(8_000, dtype=np.int16)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").write_bytes(wav(SAMPLES))
    return tmp_path


def sounds(*inputs):
    return [source.given.frames[:, 0] for source in sounds_of(inputs, RUN, say=lambda line: None)]


@pytest.mark.parametrize(
    ("given", "rest", "values"),
    [
        (["--n", "2"], ["--n", "2"], ()),
        (["--input"], ["--input"], ()),
        (["--input", "a", "b", "--n", "2"], ["--n", "2", "--input", "a"], ("a", "b")),
        (["--input", "a", "--n", "2", "--input", "b"], ["--n", "2", "--input", "a"], ("a", "b")),
        (["--output", "input", "--input", "a", "b"], ["--output", "input", "--input", "a"], ("a", "b")),
        (["--input=a", "--n=2"], ["--n=2", "--input", "a"], ("a",)),
    ],
)
def test_all_values_of_all_inputs_are_found(given, rest, values):
    assert with_one_input(given) == (rest, values)


def test_rows_of_manifests_have_parts_of_files(here):
    (here / "rows.tsv").write_text("file\tbegin\tend\na.wav\t0.25\t0.5\na.wav\t0.75\t\na.wav\t\t1.05\n")
    (here / "rows.tsv.gz").write_bytes(gzip.compress((here / "rows.tsv").read_bytes()))
    for name in ("rows.tsv", "rows.tsv.gz"):
        first, second, third = sounds(name)
        np.testing.assert_array_equal(first, SAMPLES[2_000:4_000])
        np.testing.assert_array_equal(second, SAMPLES[6_000:])
        np.testing.assert_array_equal(third, SAMPLES)


@pytest.mark.parametrize(
    ("times", "said"),
    [("1\t", "1.00 seconds"), ("0.5\t1.2", "1.00 seconds"), ("0.5\t0.5", "begins at 0.5"), ("x\t", "expected seconds")],
)
def test_parts_that_are_not_there_are_one_line_and_no_blank_source(here, times, said):
    (here / "rows.tsv").write_text(f"file\tbegin\tend\na.wav\t{times}\n")
    with pytest.raises(ValueError, match=r"^[^\n]*line 2 of rows.tsv[^\n]*$") as error:
        sounds("rows.tsv")
    assert said in str(error.value)


def test_audio_of_formats_that_are_not_read_is_no_list_of_paths(here):
    pytest.importorskip("soundfile")
    (here / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \xff")
    with pytest.raises(ValueError, match=r"^a.m4a cannot be read as audio [^\n]*$"):
        sounds("a.m4a")
