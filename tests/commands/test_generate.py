"""A line out for a line in, whatever the lines hold."""

import gzip
import io
import itertools
import json
import math
import os
import pathlib
import pty
import subprocess
import sys

import pytest
from jax.errors import JaxRuntimeError

import seq2seq_jax
from seq2seq_jax.commands.outputs import OutputFile
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.training.checkpoint import Checkpoints

REPOSITORY = pathlib.Path(__file__).parents[2]
SOURCES = ["two red cows", "", "seven black birds", "two red cows", "   ", "three Ω cats"]


def answers(*texts):
    """In place of `Generator.generate`: these texts, over and over."""

    def generate(self, params, sources, *, first_line=1, progress=None):
        return [
            [Hypothesis(text=text, score=-1.0, log_probability=-1.0, num_tokens=2)]
            for text, _ in zip(itertools.cycle(texts), sources)
        ]

    return generate


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
    monkeypatch.setattr(Generator, "generate", answers("one"))
    outcome = seq2seq("generate", trained, "--json", tmp_path / "n_best", stdin=data)
    assert outcome.status == 0
    assert outcome.output.count("\n") == len(sources)
    records = [json.loads(line) for line in (tmp_path / "n_best").read_bytes().split(b"\n")[:-1]]
    assert [record["source"] for record in records] == sources


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
    monkeypatch.setattr(Generator, "generate", answers(*texts))
    outcome = seq2seq("generate", trained, "--json", tmp_path / "n_best", stdin=b"a\nb\nc\nd\n")
    assert outcome.status == 0
    assert outcome.output == "one two\n \nthree four\nfive\n"
    records = [json.loads(line) for line in (tmp_path / "n_best").read_text().splitlines()]
    assert [record["hypotheses"][0]["text"] for record in records] == texts, "JSON can hold a newline"


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


def test_a_process_writes_lines_and_progress_and_nothing_else(process, trained):
    outcome = process("generate", trained, stdin=b"two red cows\n")
    assert outcome.status == 0
    assert outcome.output == "es sind zwei rote Kühe im Haus\n"
    assert [line for line in outcome.errors.splitlines() if not line.startswith("generating: ")] == []


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
    """In place of `Generator.generate`: each source in brackets; after so many groups an error instead."""
    groups = []

    def generate(self, params, sources, *, first_line=1, progress=None):
        if len(groups) == until:
            raise error
        groups.append(sources)
        return [[Hypothesis(text=f"<{source}>", score=-1.0, log_probability=-1.0, num_tokens=2)] for source in sources]

    monkeypatch.setattr(Generator, "generate", generate)
    return groups


LINES = [f"{number} cows" for number in range(40)]
SMALL_GROUPS = ("--generation.source_tokens_per_batch", "1")
"""Groups of 16, 32, 64, ... characters."""


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
    # Of 7 or 8 characters each, the line's end counted: the first that reach 16, 32, 64 and 128.
    assert [len(group) for group in groups] == [3, 5, 9, 16, 7]


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
    assert outcome.errors.endswith(" The outputs of the first 8 sources are written.\n")
    assert "Traceback" not in outcome.errors
    assert (tmp_path / "texts").read_text().splitlines() == [f"<{line}>" for line in LINES[:8]]
    assert [json.loads(line)["source"] for line in (tmp_path / "n_best").read_text().splitlines()] == LINES[:8]


def test_a_long_line_late_in_a_pipe_keeps_what_came_before(seq2seq, trained, monkeypatch):
    numbered(monkeypatch)
    reader, writer = os.pipe()
    os.write(writer, "\n".join([*LINES[:30], "cows " * 30]).encode())
    os.close(writer)
    outcome = seq2seq("generate", trained, "--input", f"/dev/fd/{reader}", *SMALL_GROUPS)
    assert outcome.status == 2
    assert outcome.output.splitlines() == [f"<{line}>" for line in LINES[:17]]
    last = outcome.errors.splitlines()[-1]
    assert "line 31 has" in last and "The outputs of the first 17 sources are written." in last


def test_a_line_late_in_a_pipe_that_cannot_be_read_keeps_what_came_before(seq2seq, trained, monkeypatch):
    numbered(monkeypatch)
    reader, writer = os.pipe()
    os.write(writer, "\n".join([*LINES[:30], ""]).encode() + b"\xff\n")
    os.close(writer)
    outcome = seq2seq("generate", trained, "--input", f"/dev/fd/{reader}", *SMALL_GROUPS)
    assert outcome.status == 2
    assert outcome.output.splitlines() == [f"<{line}>" for line in LINES[:17]]
    last = outcome.errors.splitlines()[-1]
    assert "line 31 of" in last and "not UTF-8" in last
    assert last.endswith("The outputs of the first 17 sources are written.")


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
    assert [record["source"] for record in records] == [row["body"] for row in TABLE_ROWS]
    asked = seq2seq("generate", trained, *given, stdin=data)
    assert asked.status == 2
    assert "looks like JSON lines with the fields body, id" in asked.error_line
    assert "--field body" in asked.error_line
    as_it_is = seq2seq("generate", trained, *given, "--field", "", "--generation.maximum_length_extra", "1", stdin=data)
    assert "looks like" not in as_it_is.errors


def test_a_field_of_a_tab_separated_file_is_read(seq2seq, trained, tmp_path, monkeypatch):
    numbered(monkeypatch)
    path = tmp_path / "rows.tsv"
    path.write_text("id\tbody\n1\ttwo cows\n2\t\n\n")
    outcome = seq2seq("generate", trained, "--input", path, "--field", "body")
    assert (outcome.status, outcome.output) == (0, "<two cows>\n<>\n")
    assert "looks like a table with the fields id, body" in seq2seq("generate", trained, "--input", path).error_line
    assert "names the fields id, body" in seq2seq("generate", trained, "--input", path, "--field", "text").error_line


def test_where_the_other_texts_are_is_said(seq2seq, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "generate", answers("one"))
    settings = ["--generation.beam_size", "3", "--generation.n_best", "3"]
    said = "the first of 3 texts for each line is written; --json FILE has all of them"
    assert said in seq2seq("generate", trained, *settings, stdin=b"a\n").errors
    outcome = seq2seq("generate", trained, *settings, "--json", tmp_path / "n_best", stdin=b"a\n")
    assert "--json FILE" not in outcome.errors


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


def test_a_terminal_is_told_that_input_is_waited_for(trained):
    """A conversation, each line answered before the next is typed."""
    typed, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "seq2seq_jax", "generate", trained],
        stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as process:  # fmt: skip
        for line, answer in (("two red cows", "es sind zwei rote Kühe im Haus"), ("", "")):
            os.write(typed, f"{line}\n".encode())
            assert process.stdout.readline().decode() == f"{answer}\n"
        os.write(typed, b"\x04")
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert errors.splitlines()[0] == "reading sources from the terminal, one per line; end with Ctrl-D"
