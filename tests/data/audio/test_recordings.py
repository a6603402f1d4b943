"""Manifests of recordings, and tar files that hold them: what is read, and what is refused on a line."""

import json
import tarfile

import numpy as np
import pytest
from speech import wav

from seq2seq_jax.data.audio.recordings import Recordings

SAMPLES = np.arange(8_000, dtype=np.int16)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a b.wav").write_bytes(wav(SAMPLES))

    def make(manifest, *, name="rows.tsv", **fields):
        (tmp_path / name).write_text(manifest, encoding="utf-8")
        return Recordings(directory=str(tmp_path), rate=8_000, stride=320, train=name, validation=None, **fields)

    return make


def rows(source):
    return [(len(audio), text) for audio, text, *_ in source.open(["train"]).examples("train")]


def test_rows_of_tables_and_of_json_lines(source):
    table = "\ufefffile\ttext\tbegin\r\na b.wav\tyes\t\r\na b.wav\tno\t0.5\r\n\r\n"
    lines = [{"file": "a b.wav", "text": "yes"}, {"file": "a b.wav", "text": "no", "begin": 0.5}]
    assert rows(source(table)) == [(8_000, "yes"), (4_000, "no")]
    assert rows(source("\n".join(map(json.dumps, lines)) + "\n\n", name="rows.jsonl")) == [
        (8_000, "yes"),
        (4_000, "no"),
    ]


@pytest.mark.parametrize(
    ("name", "manifest", "said"),
    [
        ("rows.tsv", "file\ttext\tfile\na b.wav\tyes\tc.wav\n", "a column 'file' once in line 1"),
        ("rows.jsonl", "[" * 100_000, "a JSON object in line 1"),
        ("rows.jsonl", '{"file": "a b.wav", "text": "\\ud800"}', "half of a surrogate pair"),
        ("rows.jsonl", '{"file": "a b.wav"}', "expected a string as 'text' in line 1"),
    ],
)
def test_a_fault_of_a_manifest_is_one_line(source, name, manifest, said):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        source(manifest, name=name).open(["train"])
    assert said in str(error.value)


def test_a_damaged_archive_is_one_line(source, tmp_path):
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        tar.add(tmp_path / "a b.wav", "a b.wav")
    assert rows(source("file\ttext\na b.wav\tyes\n", archive="whole.tar")) == [(8_000, "yes")]
    for content in (b"", (tmp_path / "whole.tar").read_bytes()[:600]):
        (tmp_path / "damaged.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"^[^\n]*damaged.tar is no whole tar file [^\n]*: copy it again$"):
            rows(source("file\ttext\na b.wav\tyes\n", archive="damaged.tar"))


def test_a_file_of_the_same_size_that_says_something_else_is_told_apart(source, tmp_path):
    table = source("file\ttext\na b.wav\tyes\n")
    first = table.open(["train"]).split_fingerprint("train")
    assert table.open(["train"]).split_fingerprint("train") == first
    (tmp_path / "a b.wav").write_bytes(wav(SAMPLES[::-1]))
    assert table.open(["train"]).split_fingerprint("train") != first
