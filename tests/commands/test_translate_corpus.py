"""A corpus of generated texts: in shards, by several processes, stopped and continued, always the same bytes."""

import gzip
import json

import pytest

from seq2seq_jax.data.generated_corpus import GeneratedCorpus
from seq2seq_jax.data.tables import Table

SOURCES = ["two red cows", "", "seven black birds", "two red cows", "one white dog", "three Ω cats", "six cats"]
SMALL = ("--shard-lines", "2", "--generation", "sampling", "--n", "2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "mono.txt"
    path.write_text("".join(f"{line}\n" for line in SOURCES), encoding="utf-8")
    return path


def records(directory):
    return [json.loads(line) for line in gzip.open(directory / "corpus.jsonl.gz", "rt", encoding="utf-8")]


@pytest.mark.long
def test_texts_are_those_of_generate_and_a_table_reads_them(seq2seq, trained, sources, tmp_path):
    outcome = seq2seq("translate-corpus", trained, "--input", sources, "--output", tmp_path / "corpus")
    assert outcome.status == 0, outcome.error_line
    found = records(tmp_path / "corpus")
    generated = seq2seq("generate", trained, "--input", sources, "--json", "-")
    expected = [json.loads(line) for line in generated.output.splitlines()]
    assert [each["line"] for each in found] == list(range(1, len(SOURCES) + 1))
    assert [each["source"] for each in found] == SOURCES
    for ours, theirs in zip(found, expected, strict=True):
        best = theirs["hypotheses"][0]
        assert ours["output"] == best["text"] and ours["num_tokens"] == best["num_tokens"]
        assert ours["log_probability"] == pytest.approx(best["log_probability"], abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["corpus.json", "corpus.jsonl.gz"]
    table = Table(
        directory=str(tmp_path / "corpus"), train="corpus.jsonl.gz", source="output", target="source",
        validation=None, test=None, cache_directory=str(tmp_path),
    )  # fmt: skip
    pairs = list(table.open(["train"]).examples("train"))
    # The pair of a blank line is left out.
    assert pairs == [(each["output"], each["source"]) for each in found if each["source"]]


@pytest.mark.long
def test_parts_and_a_stop_change_no_byte(seq2seq, trained, sources, tmp_path, monkeypatch):
    command = ("translate-corpus", trained, "--input", sources, *SMALL)
    assert seq2seq(*command, "--output", tmp_path / "whole").status == 0
    whole = (tmp_path / "whole" / "corpus.jsonl.gz").read_bytes()
    found = records(tmp_path / "whole")
    # A blank line has one text, which is blank.
    assert [(each["line"], each["number"]) for each in found[:4]] == [(1, 1), (1, 2), (2, 1), (3, 1)]
    # What is drawn depends on the line.
    assert [each["output"] for each in found[:2]] != [each["output"] for each in found[5:7]]

    second = seq2seq(*command, "--output", tmp_path / "parts", "--part", "2/2")
    assert second.status == 0 and "2 of 4 shards are left to the other parts" in second.errors
    assert not (tmp_path / "parts" / "corpus.jsonl.gz").exists()
    assert seq2seq(*command, "--output", tmp_path / "parts", "--part", "1/2").status == 0
    assert (tmp_path / "parts" / "corpus.jsonl.gz").read_bytes() == whole

    write, made = GeneratedCorpus.write, []

    def stop_at_the_third(self, shard, records):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(shard)
        write(self, shard, records)

    monkeypatch.setattr(GeneratedCorpus, "write", stop_at_the_third)
    assert seq2seq(*command, "--output", tmp_path / "stopped").status == 130
    assert sorted(path.name for path in (tmp_path / "stopped" / "shards").iterdir()) == [
        "000000.jsonl.gz", "000001.jsonl.gz",
    ]  # fmt: skip

    def go_on(self, shard, records):
        made.append(shard)
        write(self, shard, records)

    monkeypatch.setattr(GeneratedCorpus, "write", go_on)
    assert seq2seq(*command, "--output", tmp_path / "stopped").status == 0
    assert made == [0, 1, 2, 3]
    assert (tmp_path / "stopped" / "corpus.jsonl.gz").read_bytes() == whole
    # Nothing is left to be done, and nothing is done.
    assert seq2seq(*command, "--output", tmp_path / "stopped").status == 0
    assert made == [0, 1, 2, 3]

    for option, value, said in (
        ("--generation.temperature", "0.5", "its method is"),
        ("--shard-lines", "3", "its number of lines in a shard is 2, and here it would be 3"),
    ):
        refused = seq2seq(*command, "--output", tmp_path / "whole", option, value)
        assert refused.status == 2 and "holds another corpus" in refused.error_line and said in refused.error_line
    assert (tmp_path / "whole" / "corpus.jsonl.gz").read_bytes() == whole


def test_how_many_lines_are_too_long_is_said(seq2seq, trained, tmp_path):
    (tmp_path / "long.txt").write_text("two red cows\n" + "two red cows and " * 20 + "\n")
    command = ("translate-corpus", trained, "--input", tmp_path / "long.txt", "--output", tmp_path / "c")
    outcome = seq2seq(*command, "--too-long", "truncate")
    assert outcome.status == 0 and "cut 1 of 2 lines to the 24 tokens that the model takes" in outcome.errors


def test_mistakes(seq2seq, trained, sources, tmp_path):
    def refusal(*options):
        outcome = seq2seq("translate-corpus", trained, *options)
        assert outcome.status == 2
        return outcome.error_line

    given = ("--input", sources, "--output", tmp_path / "c")
    assert "needs --output" in refusal("--input", sources)
    assert "needs --input" in refusal("--output", tmp_path / "c")
    for part in ("0/2", "3/2", "1", "x/y"):
        assert "--part must be 1/N to N/N" in refusal(*given, "--part", part)
    assert "must be a file" in refusal("--input", "-", "--output", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    (tmp_path / "empty.txt").write_text("")
    assert "the file is empty: give one with text" in refusal("--input", tmp_path / "empty.txt", *given[2:])
    (tmp_path / "fields.jsonl").write_text('{"text": "two red cows", "line": 7, "log_probability": -1}\n')
    said = refusal("--input", tmp_path / "fields.jsonl", *given[2:], "--field", "text")
    assert "has a field 'line' beside the source, and the corpus writes one of that name" in said
    assert not (tmp_path / "c").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("keep")
    assert "holds other files" in refusal(*given)
    assert (tmp_path / "c" / "mine.txt").read_text() == "keep"


def test_a_shard_is_whole_or_absent(tmp_path):
    corpus = GeneratedCorpus(tmp_path / "c", {"a": 1}, num_shards=2)

    def broken():
        yield {"x": "é"}
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        corpus.write(0, broken())
    assert not corpus.has(0) and corpus.missing() == 2 and not corpus.finish()
    corpus.write(1, [{"x": 2}])
    corpus.write(0, [{"x": "é"}, {"x": "\ud800"}])
    other = GeneratedCorpus(tmp_path / "c", {"a": 1}, num_shards=2)
    assert corpus.finish() and other.finish() and other.is_finished
    assert gzip.decompress(corpus.path.read_bytes()).splitlines()[::2] == ['{"x": "é"}'.encode(), b'{"x": 2}']
    with pytest.raises(ValueError, match="its a is 1, and here it would be 2"):
        GeneratedCorpus(tmp_path / "c", {"a": 2}, num_shards=2)
