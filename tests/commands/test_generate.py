"""A line out for a line in, whatever the lines hold."""

import contextlib
import gzip
import io
import itertools
import json
import math
import os
import pathlib
import pty
import select
import subprocess
import sys

import pytest
from jax.errors import JaxRuntimeError

import seq2seq_jax
from seq2seq_jax.commands.outputs import OutputFile
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.generation.methods import Sampling
from seq2seq_jax.generation.sources import SourceEncoder
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.training.checkpoint import Checkpoints

REPOSITORY = pathlib.Path(__file__).parents[2]
SOURCES = ["two red cows", "", "seven black birds", "two red cows", "   ", "three Ω cats"]


def answer_by(monkeypatch, answer):
    """Put a function of the texts of a group, which gives a text for each, in the place of the model."""
    fit, kept = SourceEncoder.fit, []

    def keep(self, texts, **options):
        kept.append(texts)
        return fit(self, texts, **options)

    def generate_batches(self, params, sources, *, controls=None):
        answered = enumerate(answer(kept[-1]))
        yield {
            index: [Hypothesis(text=text, score=-1.0, log_probability=-1.0, num_tokens=2)] for index, text in answered
        }

    monkeypatch.setattr(SourceEncoder, "fit", keep)
    monkeypatch.setattr(Generator, "generate_batches", generate_batches)


def answer_with(monkeypatch, *answers):
    """Put these texts, over and over, in the place of what the model generates."""
    answer_by(monkeypatch, lambda texts: [text for text, _ in zip(itertools.cycle(answers), texts)])


def test_lines_of_standard_input_become_lines_of_standard_output(seq2seq, trained):
    outcome = seq2seq("generate", trained, stdin="".join(f"{line}\n" for line in SOURCES).encode())
    assert outcome.status == 0
    lines = outcome.output.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(SOURCES)
    assert lines[0] == lines[3] == "es sind zwei rote Kühe im Haus"
    assert lines[2] == "es sind sieben schwarze Vögel im Haus"
    # Python's door gives the same.
    assert seq2seq_jax.load(str(trained)).generate(SOURCES) == lines


def test_files_and_standard_streams_give_the_same(seq2seq, trained, tmp_path):
    text = "".join(f"{line}\n" for line in SOURCES)
    (tmp_path / "sources").write_text(text)
    piped = seq2seq("generate", trained, stdin=text.encode())
    filed = seq2seq("generate", trained, "--input", tmp_path / "sources", "--output", tmp_path / "texts")
    assert filed.status == 0
    assert filed.output == ""
    assert (tmp_path / "texts").read_bytes() == piped.output.encode()


@pytest.mark.parametrize(
    ("data", "sources"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"two red cows", ["two red cows"]),
        (b"two red cows\r\n\r\nsix white dogs\r\n", ["two red cows", "", "six white dogs"]),
        ("\ufefftwo red cows\n".encode(), ["two red cows"]),
        # What other programs take for line ends belongs to the line.
        ("two\u2028red\x0bcows\x85\nsix".encode(), ["two\u2028red\x0bcows\x85", "six"]),
    ],
    ids=["nothing", "an empty line", "no last newline", "CRLF", "byte order mark", "other separators"],
)
def test_only_a_newline_ends_a_line(seq2seq, trained, tmp_path, monkeypatch, data, sources):
    answer_with(monkeypatch, "one")
    outcome = seq2seq("generate", trained, "--json", tmp_path / "n_best", stdin=data)
    assert outcome.status == 0
    assert outcome.output.count("\n") == len(sources)
    records = [json.loads(line) for line in (tmp_path / "n_best").read_bytes().split(b"\n")[:-1]]
    assert [record["source"] for record in records] == sources


@pytest.mark.long
def test_samples_of_a_line_are_the_same_wherever_it_stands_and_however_many_are_drawn(seq2seq, trained, tmp_path):
    """A draw depends on the seed, the line, the sample and the position alone; lines are counted over all batches."""

    def samples(stdin, number, *settings):
        path = tmp_path / "samples"
        arguments = ["--generation", "sampling", "--generation.samples", number, *settings]
        outcome = seq2seq("generate", trained, "--json", path, *arguments, stdin=stdin.encode())
        assert outcome.status == 0, outcome.errors
        return [
            [each["text"] for each in json.loads(line)["hypotheses"]]
            for line in path.read_text(encoding="utf-8").splitlines()
        ]

    whole = samples("two red cows\none cow\n\nred cows\n", 4)
    assert [len(texts) for texts in whole] == [4, 4, 1, 4] and len(set(whole[0])) > 1
    small = ["--generation.source_tokens_per_batch", "1"]
    more = samples("two red cows\none cow\n \nred cows\n", 7, *small)
    assert [texts[:4] for texts in more] == whole
    assert samples("red cows\n" * 2, 4)[0] != whole[3]
    assert samples("two red cows\n", 4, "--generation.seed", "1") != whole[:1]
    assert set(samples("two red cows\n", 4, "--generation.top_k", "1")[0]) == {
        samples("two red cows\n", 1, "--generation.temperature", "1e-3")[0][0]
    }


def test_json_holds_the_n_best(seq2seq, trained, tmp_path):
    path = tmp_path / "n_best"
    settings = ["--generation.beam_size", "3", "--generation.n_best", "3", "--generation.length_penalty", "0.5"]
    outcome = seq2seq(
        "generate", trained, "--json", path, *settings, stdin="".join(f"{line}\n" for line in SOURCES).encode()
    )
    assert outcome.status == 0
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["source"] for record in records] == SOURCES
    assert [record["hypotheses"][0]["text"] for record in records] == outcome.output.splitlines()
    tokenizer = Tokenizer.load(trained)
    for record in records:
        best = record["hypotheses"]
        if not record["source"].strip():
            assert best == [{"text": "", "score": 0.0, "log_probability": 0.0, "num_tokens": 1}]
            continue
        assert len(best) == 3
        scores = [hypothesis["score"] for hypothesis in best]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in best:
            length = hypothesis["num_tokens"]
            penalty = ((5 + length) / 6) ** 0.5
            assert hypothesis["score"] == pytest.approx(hypothesis["log_probability"] / penalty, rel=1e-5)
            assert hypothesis["log_probability"] < 0 and math.isfinite(hypothesis["score"])
    [ids] = tokenizer.encode_target([records[0]["hypotheses"][0]["text"]])
    assert records[0]["hypotheses"][0]["num_tokens"] == len(ids)


def test_a_newline_in_a_generated_text_ends_no_line(seq2seq, trained, tmp_path, monkeypatch):
    """Bytes are tokens, so that a model can write any character."""
    texts = ["one\ntwo", "\n", "three\r\nfour", "five"]
    answer_with(monkeypatch, *texts)
    outcome = seq2seq("generate", trained, "--json", tmp_path / "n_best", stdin=b"a\nb\nc\nd\n")
    assert outcome.status == 0
    assert outcome.output == "one two\n \nthree four\nfive\n"
    records = [json.loads(line) for line in (tmp_path / "n_best").read_text().splitlines()]
    assert [record["hypotheses"][0]["text"] for record in records] == texts, "JSON can hold a newline"


@pytest.mark.long
def test_a_chosen_checkpoint_is_used(seq2seq, trained, tmp_path):
    run = Inference.open(trained)
    best = Checkpoints(trained / "checkpoints", read_only=True).best_first()[0]
    assert [run.parameters(which)[1] for which in ("best", "latest", "90")] == [best, 120, 90]
    scores = {}
    for which in ("90", "120"):
        path = tmp_path / "n_best"
        outcome = seq2seq("generate", trained, "--checkpoint", which, "--json", path, stdin=b"two cows\n")
        assert outcome.status == 0
        scores[which] = json.loads(path.read_text())["hypotheses"][0]["score"]
    [[hypothesis]] = run.system.generator.generate(run.parameters("90")[0], ["two cows"])
    assert hypothesis.score == scores["90"] != scores["120"]


@pytest.mark.long
def test_a_process_writes_lines_and_progress_and_nothing_else(process, trained):
    outcome = process("generate", trained, stdin=b"two red cows\n")
    assert outcome.status == 0
    assert outcome.output == "es sind zwei rote Kühe im Haus\n"
    assert [line for line in outcome.errors.splitlines() if not line.startswith("generating: ")] == []


@pytest.mark.long
def test_output_is_utf8_in_any_locale(process, trained):
    outcome = process("generate", trained, stdin=b"two red cows\n", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (outcome.status, outcome.output) == (0, "es sind zwei rote Kühe im Haus\n")


def test_blank_lines_stay_blank_and_change_no_other_line(seq2seq, trained):
    blanks = [b"", b"  ", b"\t", "\u00a0".encode(), "\u200b\u200b".encode(), "\ufeff".encode(), b"\x0c"]
    lines = [b"two red cows", *blanks, b"six white dogs"]
    outcome = seq2seq("generate", trained, stdin=b"\n".join(lines))
    assert outcome.status == 0
    alone = seq2seq("generate", trained, stdin=b"two red cows\nsix white dogs\n").output.splitlines()
    assert outcome.output.split("\n") == [alone[0], *[""] * len(blanks), alone[1], ""]
    assert "7 of 9 sources are blank, and so are their outputs" in outcome.errors
    assert seq2seq("generate", trained, stdin=b" \n").output == "\n"


@pytest.mark.parametrize("bad", ["--output", "--json"])
def test_outputs_are_refused_before_the_work(seq2seq, trained, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(Inference, "parameters", lambda *arguments: pytest.fail("worked"))
    good = {"--output": "--json", "--json": "--output"}[bad]
    outcome = seq2seq(
        "generate", trained, bad, tmp_path / "none" / "file", good, tmp_path / "good", stdin=b"two red cows\n"
    )
    assert outcome.status == 2
    assert f"{bad} {tmp_path / 'none' / 'file'} cannot be written (No such file or directory)" in outcome.error_line
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_not_overwritten_while_it_is_read(seq2seq, trained, tmp_path):
    path = tmp_path / "sources"
    path.write_text("two red cows\n")
    outcome = seq2seq("generate", trained, "--input", path, "--output", path)
    assert outcome.status == 2
    assert "is the file that is read" in outcome.error_line
    assert path.read_text() == "two red cows\n"


def numbered(monkeypatch, *, until=None, error=None):
    """In place of the model: each source in brackets; after `until` groups an error instead."""
    groups = []

    def answer(texts):
        if len(groups) == until:
            raise error
        groups.append(texts)
        return [f"<{text}>" for text in texts]

    answer_by(monkeypatch, answer)
    return groups


LINES = [f"{number} cows" for number in range(40)]
SMALL_GROUPS = ("--generation.source_tokens_per_batch", "1")
"""Groups of 4, 8, 16, ... characters."""


@pytest.mark.parametrize("where", ["file", "pipe"])
def test_a_long_input_is_answered_group_after_group(seq2seq, trained, tmp_path, monkeypatch, where):
    groups = numbered(monkeypatch)
    path = tmp_path / "sources"
    path.write_text("\n".join(LINES))
    if where == "pipe":
        reader, writer = os.pipe()
        # In one piece, since a group ends where nothing more comes.
        os.write(writer, path.read_bytes())
        os.close(writer)
        path = f"/dev/fd/{reader}"
    outcome = seq2seq("generate", trained, "--input", path, *SMALL_GROUPS)
    assert outcome.status == 0
    assert outcome.output.splitlines() == [f"<{line}>" for line in LINES]
    assert [line for group in groups for line in group] == LINES
    # Of 7 or 8 characters each, the line's end counted: the first that reach 4, 8, 16, 32, 64 and 128.
    assert [len(group) for group in groups] == [1, 2, 3, 5, 8, 16, 5]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted."),
        (OSError(5, "no more"), 2, "no more"),
        (MemoryError(), 2, "too little memory"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), 2, "too little memory"),
        (ValueError("no such thing."), 2, "no such thing."),
    ],
    ids=["interrupt", "system", "memory", "device memory", "value"],
)
def test_what_was_done_before_an_end_is_kept(seq2seq, trained, tmp_path, monkeypatch, error, status, said):
    numbered(monkeypatch, until=2, error=error)
    outcome = seq2seq(
        "generate", trained, *SMALL_GROUPS, "--output", tmp_path / "texts", "--json", tmp_path / "n_best",
        stdin="\n".join(LINES).encode(),
    )  # fmt: skip
    assert outcome.status == status
    assert said in outcome.errors.splitlines()[-1]
    assert outcome.errors.endswith(" The outputs of the first 3 sources are written.\n")
    assert "Traceback" not in outcome.errors
    assert (tmp_path / "texts").read_text().splitlines() == [f"<{line}>" for line in LINES[:3]]
    assert [json.loads(line)["source"] for line in (tmp_path / "n_best").read_text().splitlines()] == LINES[:3]


def test_a_refused_line_late_in_a_pipe_keeps_what_came_before(seq2seq, trained, monkeypatch):
    numbered(monkeypatch)
    reader, writer = os.pipe()
    os.write(writer, "\n".join([*LINES[:30], "cows " * 30]).encode())
    os.close(writer)
    outcome = seq2seq("generate", trained, "--input", f"/dev/fd/{reader}", "--too-long", "refuse", *SMALL_GROUPS)
    assert outcome.status == 2
    assert outcome.output.splitlines() == [f"<{line}>" for line in LINES[:19]]
    last = outcome.errors.splitlines()[-1]
    assert "line 31 has" in last and "The outputs of the first 19 sources are written." in last


def test_a_line_late_in_a_pipe_that_cannot_be_read_keeps_what_came_before(seq2seq, trained, monkeypatch):
    numbered(monkeypatch)
    reader, writer = os.pipe()
    os.write(writer, "\n".join([*LINES[:30], ""]).encode() + b"\xff\n")
    os.close(writer)
    outcome = seq2seq("generate", trained, "--input", f"/dev/fd/{reader}", *SMALL_GROUPS)
    assert outcome.status == 2
    assert outcome.output.splitlines() == [f"<{line}>" for line in LINES[:19]]
    last = outcome.errors.splitlines()[-1]
    assert "line 31 of" in last and "not UTF-8" in last
    assert last.endswith("The outputs of the first 19 sources are written.")


TABLE_ROWS = [{"body": "two\nred\tcows", "id": 1}, {"body": "six white dogs", "id": 2}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows", None])
def test_a_field_of_json_lines_is_read_with_its_line_breaks(seq2seq, trained, tmp_path, monkeypatch, name):
    numbered(monkeypatch)
    data = "".join(f"{json.dumps(row)}\n" for row in TABLE_ROWS).encode() + b"\n"
    path = tmp_path / (name or "unused")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    given = [] if name is None else ["--input", path]
    outcome = seq2seq("generate", trained, *given, "--field", "body", "--json", tmp_path / "n_best", stdin=data)
    assert outcome.status == 0
    assert outcome.output == "<two red\tcows>\n<six white dogs>\n"
    records = [json.loads(line) for line in (tmp_path / "n_best").read_text().splitlines()]
    hypotheses = [each | {"text": f"<{row['body']}>"} for row in TABLE_ROWS for each in records[0]["hypotheses"]]
    assert records == [
        {"id": row["id"], "source": row["body"], "parts": 1, "hypotheses": [each]}
        for row, each in zip(TABLE_ROWS, hypotheses, strict=True)
    ]
    asked = seq2seq("generate", trained, *given, stdin=data)
    assert asked.status == 2
    assert "looks like JSON lines with the fields body, id" in asked.error_line
    assert "--field body" in asked.error_line
    as_it_is = seq2seq("generate", trained, *given, "--field", "", "--generation.maximum_length_extra", "1", stdin=data)
    assert "looks like" not in as_it_is.errors


def test_several_fields_make_a_source(seq2seq, trained, tmp_path, monkeypatch):
    numbered(monkeypatch)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 7, "body": "cows", "counts": ["two", "red"]}\n')
    settings = ["--input", path, "--field", "{counts} {body}", "--json", tmp_path / "out"]
    outcome = seq2seq("generate", trained, *settings)
    assert (outcome.status, outcome.output) == (0, "<two red cows>\n")
    record = json.loads((tmp_path / "out").read_text())
    assert (record["source"], record["id"], "body" in record) == ("two red cows", 7, False)
    mistake = seq2seq("generate", trained, "--input", path, "--field", "{counts")
    assert mistake.status == 2 and "expected names of fields in braces" in mistake.error_line


def test_a_field_of_a_tab_separated_file_is_read(seq2seq, trained, tmp_path, monkeypatch):
    numbered(monkeypatch)
    path = tmp_path / "rows.tsv"
    path.write_text("id\tbody\n1\ttwo cows\n2\t\n\n")
    outcome = seq2seq("generate", trained, "--input", path, "--field", "body")
    assert (outcome.status, outcome.output) == (0, "<two cows>\n<>\n")
    assert "looks like a table with the fields id, body" in seq2seq("generate", trained, "--input", path).error_line
    assert "names the fields id, body" in seq2seq("generate", trained, "--input", path, "--field", "text").error_line


def test_where_the_other_texts_are_is_said(seq2seq, trained, tmp_path, monkeypatch):
    answer_with(monkeypatch, "one")
    settings = ["--generation.beam_size", "3", "--generation.n_best", "3"]
    said = "the first of 3 texts for each line is written; --n 3 writes all of them, --json FILE with their scores"
    assert said in seq2seq("generate", trained, *settings, stdin=b"a\n").errors
    outcome = seq2seq("generate", trained, *settings, "--json", tmp_path / "n_best", stdin=b"a\n")
    assert "the first of" not in outcome.errors


def test_a_reader_that_has_gone_ends_it_quietly(seq2seq, trained, monkeypatch):
    numbered(monkeypatch)

    def write(self, text):
        self.failure = BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(OutputFile, "write", write)
    # Standard output of this process is still needed.
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    outcome = seq2seq("generate", trained, *SMALL_GROUPS, stdin="\n".join(LINES).encode())
    assert outcome.status == 141
    assert outcome.errors == ""


def test_help_into_a_closed_pipe_ends_quietly(seq2seq, monkeypatch):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    outcome = seq2seq("--help")
    assert (outcome.status, outcome.errors) == (141, "")


LONG = "two red cows, six white dogs. " * 3 + "four black birds"
"""Four sentences, which are parts of their own."""


def test_a_source_that_is_too_long_is_split_and_its_outputs_joined(seq2seq, trained, tmp_path):
    path = tmp_path / "n_best"
    settings = ["--json", path, "--generation.n_best", "2"]
    outcome = seq2seq("generate", trained, *settings, stdin=f"two red cows\n{LONG}\n\n".encode())
    assert outcome.status == 0
    generator = Inference.open(trained).system.generator
    num_tokens = len(generator.tokenizer.encode_source([LONG])[0])
    [parts] = generator.sources.fit([LONG]).parts
    assert len(parts) > 1 and max(map(len, parts)) <= 24 < num_tokens
    named, counted, blank = [line for line in outcome.errors.splitlines() if not line.startswith("generating: ")]
    assert named == f"line 2 has {num_tokens} tokens, and the model takes 24: split in {len(parts)} parts"
    assert counted.startswith(f"split 1 of 3 lines in {len(parts)} parts of at most 24 tokens")
    assert blank.startswith("1 of 3 sources is blank")
    texts = [generator.tokenizer.decode_source(ids) for ids in parts]
    alone = tmp_path / "alone"
    lines = "".join(f"{text}\n" for text in texts).encode()
    of_parts = seq2seq("generate", trained, "--json", alone, "--generation.n_best", "2", stdin=lines).output
    assert outcome.output.splitlines()[1] == " ".join(of_parts.splitlines())
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["parts"] for record in records] == [1, len(parts), 1]
    for rank, joined in enumerate(records[1]["hypotheses"]):
        joined_of = [json.loads(line)["hypotheses"][rank] for line in alone.read_text(encoding="utf-8").splitlines()]
        assert joined["text"] == " ".join(each["text"] for each in joined_of)
        total = sum(each["log_probability"] for each in joined_of)
        assert joined["score"] == joined["log_probability"] == pytest.approx(total, rel=1e-5)
        assert joined["num_tokens"] == sum(each["num_tokens"] for each in joined_of)
    # Python's door gives the same.
    assert seq2seq_jax.load(str(trained)).generate([LONG]) == outcome.output.splitlines()[1:2]


@pytest.mark.long
def test_a_source_that_is_too_long_is_cut_where_that_is_asked_for(seq2seq, trained, copy_of_run):
    stdin = f"{LONG}\ntwo red cows\n".encode()
    outcome = seq2seq("generate", trained, "--too-long", "truncate", stdin=stdin)
    assert outcome.status == 0
    first, *_, last = outcome.errors.splitlines()
    assert first.endswith(", and the model takes 24: cut")
    assert last == "cut 1 of 2 lines to the 24 tokens that the model takes"
    # A run that cut in training does so unless the command line says otherwise.
    path = copy_of_run / "experiment.json"
    path.write_text(path.read_text().replace('"too_long": "drop"', '"too_long": "truncate"'))
    assert seq2seq("generate", copy_of_run, stdin=stdin).output == outcome.output
    split = seq2seq("generate", copy_of_run, "--too-long", "split", stdin=stdin)
    assert split.output == seq2seq("generate", trained, stdin=stdin).output != outcome.output


def test_ten_lines_that_are_too_long_are_named_and_all_are_counted(seq2seq, trained, monkeypatch):
    answer_with(monkeypatch, "one")
    outcome = seq2seq("generate", trained, *SMALL_GROUPS, stdin=f"{LONG}\ntwo cows\n".encode() * 13)
    assert outcome.status == 0
    assert outcome.output == "one\n" * 26
    errors = outcome.errors.splitlines()
    assert [line.split()[1] for line in errors if line.startswith("line ")] == [str(2 * n + 1) for n in range(10)]
    assert errors.count("further lines that are too long are counted, and not named") == 1
    assert errors[-1].startswith("split 13 of 26 lines in ")


def test_a_longer_source_is_taken_as_a_whole_where_that_is_asked_for(seq2seq, trained, tmp_path):
    """The positions of this model are sines, of which there is one for every position."""
    path = tmp_path / "whole"
    outcome = seq2seq("generate", trained, "--max-source-length", "100", "--json", path, stdin=LONG.encode())
    assert outcome.status == 0
    assert "line" not in outcome.errors
    assert json.loads(path.read_text(encoding="utf-8"))["parts"] == 1
    outcome = seq2seq("generate", trained, "--max-source-length", "2000000", stdin=LONG.encode())
    assert outcome.status == 2
    assert "max_source_length must be 1 to 1,048,576 tokens" in outcome.error_line


@pytest.mark.long
def test_n_texts_are_written_below_each_other(seq2seq, trained, tmp_path):
    stdin = b"two red cows\n\nsix white dogs\n"
    path = tmp_path / "n_best"
    outcome = seq2seq("generate", trained, "--n", "2", "--json", path, stdin=stdin)
    assert outcome.status == 0
    lines = outcome.output.split("\n")
    assert lines.pop() == "" and len(lines) == 6 and lines[2:4] == ["", ""]
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for index in (0, 2):
        assert lines[2 * index : 2 * index + 2] == [each["text"] for each in records[index]["hypotheses"]]
    drawn = seq2seq("generate", trained, "--generation", "sampling", "--n", "3", stdin=stdin).output
    assert drawn.count("\n") == 9
    as_before = ["--generation", "sampling", "--generation.samples", "3", "--json", path]
    seq2seq("generate", trained, *as_before, stdin=stdin)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert drawn.splitlines()[:3] == [each["text"] for each in records[0]["hypotheses"]]
    # A limit of one token leaves one text.
    limits = ["--generation.maximum_length_ratio", "0", "--generation.maximum_length_extra", "1"]
    assert seq2seq("generate", trained, "--n", "2", *limits, stdin=stdin).output == "\n" * 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--generation", "greedy", "--n", "2"], "Greedy gives one text for each source, not 2"),
        (["--n", "3"], "n_best must be at most beam_size, got n_best 3 and beam_size 2"),
        (["--n", "0"], "--n must be at least 1, not 0"),
        (["--output", "-", "--json", "-"], "--output and --json are both standard output"),
        (["--line-field", "id"], "--line-field has no effect without --field"),
        (["--interactive"], "--interactive needs a terminal as standard input"),
        (["--interactive", "--input", "-"], "has no effect with --input, --field"),
        (["--too-long", "drop"], "Expected one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused(seq2seq, trained, arguments, said):
    outcome = seq2seq("generate", trained, *arguments, stdin=b"two red cows\n")
    assert outcome.status == 2
    assert said in outcome.error_line


def test_json_lines_are_written_to_standard_output(seq2seq, trained, tmp_path, monkeypatch):
    answer_with(monkeypatch, "one\ntwo")
    stdin = "".join(f"{json.dumps(row)}\n" for row in TABLE_ROWS).encode()
    outcome = seq2seq("generate", trained, "--field", "body", "--json", "-", stdin=stdin)
    assert outcome.status == 0
    records = [json.loads(line) for line in outcome.output.splitlines()]
    assert [(record["id"], record["source"]) for record in records] == [(row["id"], row["body"]) for row in TABLE_ROWS]
    assert [record["hypotheses"][0]["text"] for record in records] == ["one\ntwo"] * 2
    path = tmp_path / "texts"
    both = seq2seq("generate", trained, "--field", "body", "--json", "-", "--output", path, stdin=stdin)
    assert (both.output, path.read_text()) == (outcome.output, "one two\n" * 2)
    half = seq2seq("generate", trained, "--field", "body", "--json", "-", stdin=b'{"body": "a", "id": "\\ud800"}\n')
    assert json.loads(half.output)["id"] == "\ud800"
    stdin = b'{"body": "two cows", "parts": 3}\n'
    taken = seq2seq("generate", trained, "--field", "body", "--json", "-", stdin=stdin)
    assert taken.status == 2 and "has a field 'parts' beside the source" in taken.error_line
    assert seq2seq("generate", trained, "--field", "body", stdin=stdin).status == 0


@pytest.mark.long
def test_lines_have_the_samples_of_the_numbers_that_a_field_gives(seq2seq, trained):
    sampling = ["--generation", "sampling", "--n", "3"]
    texts = ["two red cows", "six white dogs", "four grey cats"]
    whole = seq2seq("generate", trained, *sampling, stdin="".join(f"{text}\n" for text in texts).encode()).output
    rows = [{"text": texts[number], "number": number + 1} for number in (2, 0)]
    stdin = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    numbered = [*sampling, "--field", "text", "--line-field", "number"]
    lines = whole.splitlines()
    assert seq2seq("generate", trained, *numbered, stdin=stdin).output.splitlines() == [*lines[6:], *lines[:3]]
    # Python's door takes the numbers as they are.
    found = seq2seq_jax.load(str(trained)).hypotheses(texts[2], method=Sampling(samples=3), lines=[3])
    assert [each.text for each in found[0]] == lines[6:]
    for bad in ("x", 0, None, True, 1.5):
        outcome = seq2seq("generate", trained, *numbered, stdin=json.dumps({"text": "a", "number": bad}).encode())
        assert outcome.status == 2 and "expected the number of a line, 1 or more" in outcome.error_line


IN_ITS_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
# Tests that a shell runs in the background begin with interrupts ignored.
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "seq2seq_jax", *sys.argv[1:]])
"""
"""A program whose terminal sends it signals."""


@contextlib.contextmanager
def typing(*arguments):
    """A process that is typed into: (type, wait for a text that the terminal shows, standard output).

    While nothing is shown for some seconds, waiting types what it is given as `again`.
    """
    typed, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_ITS_TERMINAL, *map(str, arguments)],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "dumb"},
    )  # fmt: skip
    os.close(terminal)
    shown = b""

    def wait_for(text, again=None):
        nonlocal shown
        while text not in shown:
            if again is not None and not select.select([typed], [], [], 5)[0]:
                os.write(typed, again)
            assert select.select([typed], [], [], 240)[0], shown
            shown += os.read(typed, 4096)
        before, shown = shown.split(text, 1)
        return before.decode()

    try:
        yield lambda data: os.write(typed, data), wait_for, process.stdout
        assert process.wait(240) == 0
    finally:
        process.kill()
        process.communicate()
        os.close(typed)


@pytest.mark.long
def test_a_terminal_is_a_conversation(trained):
    """Each line is answered before the next is typed; Ctrl-C cancels a line, and Ctrl-D ends."""
    with typing("generate", trained, "--n", "2") as (write, wait_for, output):
        assert "One source per line. Ctrl-C cancels a line, Ctrl-D ends." in wait_for(b"> ")
        write(b"two red cows\n")
        assert output.readline() == "es sind zwei rote Kühe im Haus\n"
        assert output.readline().startswith("es sind ")
        wait_for(b"> ")
        write(b"six white")
        wait_for(b"six white")
        write(b"\x03")
        # Python's readline misses an interrupt that arrives between a character and its waiting for the next one.
        wait_for(b"> ", again=b"\x03")
        write(LONG.encode() + b"\n")
        assert output.readline().count("Haus") > 1 and output.readline()
        # The cancelled line is none.
        assert "line 2 has" in wait_for(b"> ")
        write(b"\n")
        assert [output.readline(), output.readline()] == ["\n", "\n"]
        wait_for(b"> ")
        write(b"\x04")
        assert output.read() == ""


@pytest.mark.long
def test_a_terminal_can_be_read_as_a_pipe_is(trained):
    with typing("generate", trained, "--interactive", "False") as (write, _, output):
        write(b"two red cows\n")
        assert output.readline() == "es sind zwei rote Kühe im Haus\n"
        write(b"\x04")
        assert output.read() == ""
