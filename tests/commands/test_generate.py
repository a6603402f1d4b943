"""A line out for a line in, whatever the lines hold."""

import itertools
import json
import math

import pytest

import seq2seq_jax
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.run import Run
from seq2seq_jax.training.checkpoint import Checkpoints

SOURCES = ["two red cows", "", "seven black birds", "two red cows", "   ", "three Ω cats"]


def answers(*texts):
    """In place of `Generator.generate`: these texts, over and over."""

    def generate(self, params, sources, *, progress=None):
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
    run = Run.open(trained)
    best = Checkpoints(trained / "checkpoints", read_only=True).best_first()[0]
    assert [run.parameters(which)[1] for which in ("best", "latest", "90")] == [best, 120, 90]
    scores = {}
    for which in ("90", "120"):
        path = tmp_path / "n_best"
        outcome = seq2seq("generate", trained, "--checkpoint", which, "--json", path, stdin=b"two cows\n")
        assert outcome.status == 0
        scores[which] = json.loads(path.read_text())["hypotheses"][0]["score"]
    [[hypothesis]] = run.generator.generate(run.parameters("90")[0], ["two cows"])
    assert hypothesis.score == scores["90"] != scores["120"]


def test_a_process_writes_lines_and_progress_and_nothing_else(process, trained):
    outcome = process("generate", trained, stdin=b"two red cows\n")
    assert outcome.status == 0
    assert outcome.output == "es sind zwei rote Kühe im Haus\n"
    assert [line for line in outcome.errors.splitlines() if not line.startswith("generating: ")] == []


def test_output_is_utf8_in_any_locale(process, trained):
    outcome = process(
        "generate", trained, stdin="two red cows\n".encode(), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert (outcome.status, outcome.output) == (0, "es sind zwei rote Kühe im Haus\n")
