"""`seq2seq filter`: what is kept, what is not and why, counts and examples, and judging by two models."""

import gzip
import json
import types

import pytest

from seq2seq_jax.commands.filter import DUAL, TOO_LONG, Judged, dual_judged, run, write
from seq2seq_jax.commands.options import parse
from seq2seq_jax.data.cleaning import Pair
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.run.inference import Inference

PAIRS = [
    ("one house", "ein Haus"),
    ("two houses", ""),
    ("one house", "ein Haus"),
    ("the tree", "the tree"),
    ("page 12", "Seite 21"),
    ("page 13", "Seite 31"),
]


@pytest.fixture
def directory(tmp_path):
    for side, extension in enumerate(("en", "de")):
        (tmp_path / f"train.{extension}").write_text("".join(f"{pair[side]}\n" for pair in PAIRS))
    return tmp_path


def filtered(directory, *arguments):
    arguments = [
        "own_text/transformer", "--data.directory", str(directory), "--data.source", "en", "--data.target", "de",
        "--output", str(directory / "kept"), *arguments,
    ]  # fmt: skip
    run(arguments, parse("filter", arguments))
    return directory / "kept"


def lines(path):
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def test_what_is_kept_and_what_is_not(directory, capsys):
    kept = filtered(directory, "--examples", "1", "--rules.language", "None")
    assert lines(kept / "corpus.jsonl.gz") == [{"source": "one house", "target": "ein Haus"}]
    # A pair without text on a side is left out of every training, and so of what is filtered.
    assert [(each["number"], each["rule"]) for each in lines(kept / "removed.jsonl.gz")] == [
        (2, "duplicate"), (3, "copy_of_source"), (4, "digits"), (5, "digits"),
    ]  # fmt: skip
    report = json.loads((kept / "filter.json").read_text())
    assert (report["pairs"], report["kept"]) == (5, 1)
    assert report["rules"]["digits"] == {
        "removed": 2,
        "examples": [{"number": 4, "rule": "digits", "source": "page 12", "target": "Seite 21"}],
    }
    shown = capsys.readouterr().out
    assert "digits" in shown and "page 12" in shown and "1 (20.00%)" in shown
    with pytest.raises(ValueError, match="is not empty. Name a new directory"):
        filtered(directory)


def test_pairs_of_a_mixture_have_the_name_of_their_part_and_no_tag(directory, tmp_path):
    config = tmp_path / "mixed.py"
    config.write_text(
        "import dataclasses\n"
        "from seq2seq_jax.data.mixture import Mixture, Part\n"
        "from seq2seq_jax.data.text_files import ParallelText\n"
        "from seq2seq_jax.experiment import load_config_by_name\n\n\n"
        "def experiment():\n"
        f"    files = {{'directory': {str(directory)!r}}}\n"
        "    there = Part(name='there', source=ParallelText(source='en', target='de', **files), tag='<2de>')\n"
        "    back = Part(name='back', source=ParallelText(source='de', target='en', **files), tag='<2en>')\n"
        "    base = load_config_by_name('own_text/transformer')\n"
        "    tokenizer = dataclasses.replace(base.tokenizer, special_tokens=('<2de>', '<2en>'))\n"
        "    return dataclasses.replace(base, data=Mixture(parts=(there, back)), tokenizer=tokenizer)\n"
    )
    arguments = [str(config), "--output", str(tmp_path / "kept"), "--rules.language", "None"]
    run(arguments, parse("filter", arguments))
    assert lines(tmp_path / "kept" / "corpus.jsonl.gz") == [
        {"source": "one house", "target": "ein Haus", "part": "there"},
        {"source": "ein Haus", "target": "one house", "part": "back"},
    ]


def test_mistakes(directory):
    for arguments, message in (
        (("--forward", "a"), "--forward and --backward go together"),
        (("--max-dual-cross-entropy", "3"), "no effect without --forward and --backward"),
        (("--rules.ratio", "0"), "ratio must be at least 1"),
        (("--data.train", "nothing"), "there is no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            filtered(directory, *arguments)
    assert not (directory / "kept").exists()


def test_what_was_interrupted_leaves_no_file(tmp_path):
    def judged():
        yield Judged(1, Pair("one house", "ein Haus"), None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, judged(), lambda number: None, 1)
    assert not list(tmp_path.iterdir())


def test_runs_of_the_same_direction_are_refused(directory, monkeypatch):
    run = types.SimpleNamespace(experiment=load_config_by_name("multi30k/transformer_small"))
    monkeypatch.setattr(Inference, "open", lambda path, progress: run)
    with pytest.raises(ValueError, match="--backward b translates from en to de, and --forward from en to de"):
        filtered(directory, "--forward", "a", "--backward", "b")


def test_two_models_judge_what_no_rule_has_left_out():
    entropies = {"good": (1.0, 1.5), "odd": (1.0, 5.0), "bad": (6.0, 6.0), "long": (None, 2.0)}
    asked = []

    def direction(side):
        def score(pairs):
            asked.append([pair.source for pair in pairs])
            return [entropies[pair.source][side] for pair in pairs]

        return score

    judged = [Judged(1, Pair("left out", "x"), "ratio")]
    judged += [Judged(number, Pair(name, "x"), None) for number, name in enumerate(entropies, 2)]
    found = list(dual_judged(judged, (direction(0), direction(1)), limit=5.0))
    assert [(each.number, each.rule, each.score) for each in found] == [
        (1, "ratio", None), (2, None, 0.5 + 1.25), (3, DUAL, 4.0 + 3.0), (4, DUAL, 6.0), (5, TOO_LONG, None),
    ]  # fmt: skip
    assert asked == [["good", "odd", "bad", "long"]] * 2
