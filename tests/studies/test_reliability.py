"""The campaigns of studies/reliability, small; and that they see what they are to see."""

import random
import shutil
import sys

import pytest

from studies.reliability import damage, kills, server, writers
from studies.reliability.damage import DAMAGES, classify, commands_that_read, damage_file
from studies.reliability.workplace import Outcome, Server, different, has_traceback, is_one_line, left_behind

pytestmark = pytest.mark.long

TRACEBACK = 'Traceback (most recent call last):\n  File "x"\nTypeError: 1\n'
LINE = "seq2seq: expected a run.\n"


@pytest.mark.parametrize(
    ("outcome", "found", "result"),
    [
        (Outcome(0, "", "generating: 3 of 3\n"), {"a": 1}, "the same"),
        (Outcome(0, "", "generating: 3 of 3\n"), {"a": 2}, "silent"),
        (Outcome(0, "", "generating: 3 of 3\n"), {"a": 1, "b": 2}, "silent"),
        (Outcome(0, "", "Checkpoint 3 is damaged.\n"), {"a": 1}, "said, the same"),
        (Outcome(0, "", "Checkpoint 3 is damaged.\n"), {"a": 2}, "said, other"),
        (Outcome(2, "", LINE), None, "refused"),
        (Outcome(2, "", "Checkpoint 3 is damaged.\n" + LINE), None, "refused"),
        (Outcome(1, "", LINE), None, "traceback"),
        (Outcome(2, "", "KeyError\n"), None, "traceback"),
        (Outcome(2, "", TRACEBACK + LINE), None, "traceback"),
        (Outcome(0, "", TRACEBACK), {"a": 1}, "traceback"),
        (Outcome(None, "", ""), None, "crash or hang"),
    ],
)
def test_what_a_damage_comes_to(outcome, found, result):
    assert classify(outcome, found, {"a": 1}) == result
    assert result in (*damage.GOOD, *damage.BAD)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 5])
def test_every_damage_changes_a_file(tmp_path, name, content):
    path = tmp_path / "file"
    for seed in range(20):
        path.write_bytes(content)
        damage_file(path, name, random.Random(seed))
        changed = path.exists() and path.read_bytes()
        # A block that is zero already stays as it is.
        assert changed != content or (name == "zero a block" and not any(content))
        assert (changed is False) == (name == "gone")


def test_a_file_is_met_by_the_commands_that_read_it():
    assert commands_that_read("run/tokenizer.model") == ("generate", "evaluate", "train")
    assert commands_that_read("run/metrics.jsonl") == ("train",)
    assert commands_that_read("cache/token_stores/0/header.json") == ("evaluate", "train")


def test_facts_that_differ_are_named():
    assert different({"a": 1, "b": [1]}, {"b": [1], "a": 1}) == []
    assert different({"a": 1, "b": [1], "c": 0}, {"a": 2, "b": [1], "d": 0}) == ["a", "c", "d"]


def test_only_a_line_of_seq2seq_with_status_2_is_one_line():
    assert is_one_line(Outcome(2, "", LINE))
    assert not is_one_line(Outcome(1, "", LINE))
    assert not is_one_line(Outcome(2, "", LINE + "and more\n"))
    assert not is_one_line(Outcome(2, "", TRACEBACK + LINE))
    assert not is_one_line(Outcome(2, "", ""))
    assert has_traceback(TRACEBACK) and not has_traceback(LINE)


def test_what_unfinished_writes_leave_is_found(tmp_path):
    names = ("a.unfinished.0", "7.orbax-checkpoint-tmp", "incomplete.x", ".b.0.unfinished", "c.tmp", "kept")
    for name in names:
        (tmp_path / "d" / name).mkdir(parents=True)
    assert left_behind(tmp_path) == sorted(f"d/{name}" for name in names if name != "kept")


@pytest.mark.parametrize(
    ("log", "phase"),
    [
        (b"", "imports"),
        (b"writing 4 pairs of train to cache\n", "preparing the data"),
        (b"writing \nrun directory: run\n", "tokenizer, encoding, compiling"),
        (b"run directory: run\n16,832 parameters, 400 training examples\nstep 2 of 12\n", "training"),
        (b"400 training examples\ntest: 8 of 8\n", "after the last step"),
        (b"400 training examples\ntest: 8 of 8\n| use it | seq2seq |\n", "finished"),
    ],
)
def test_the_phase_of_a_kill(log, phase):
    assert kills.phase(log) == phase


def test_the_judge_of_two_writers(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "facts_of_run", lambda run: {"a": 1})
    good = [(0, ""), (2, LINE)]
    assert writers.judge_one_directory(good, tmp_path, {"a": 1}) == "one refused, one the same"
    assert writers.judge_one_directory([(0, ""), (0, "")], tmp_path, {"a": 1}) == "one after the other, the same"
    assert writers.judge_one_directory(good, tmp_path, {"a": 2}) == "differs in ['a']"
    assert writers.judge_one_directory([(2, ""), (2, "")], tmp_path, {"a": 1}) == "statuses [2, 2]"
    assert writers.judge_one_directory([(0, ""), (None, "")], tmp_path, {"a": 1}) == "statuses [-1, 0]"
    assert writers.judge_one_directory([(0, ""), (2, TRACEBACK)], tmp_path, {"a": 1}) == "traceback"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The reference of a damage campaign, and the process that serves it."""
    directory = tmp_path_factory.mktemp("reliability")
    with pytest.MonkeyPatch.context() as monkeypatch, Server() as served:
        monkeypatch.setenv("HOME", str(directory / "home"))
        yield damage.Reference(directory, served)


def test_differences_that_are_planted_are_found(reference):
    """The negative controls of the damage and of the kill campaign."""

    def older_parameters(trial):
        """The older checkpoint under the step of the newer one, which nothing in the run contradicts."""
        older, newer = sorted((trial / "run" / "checkpoints").iterdir())
        shutil.rmtree(newer)
        older.rename(newer)

    assert reference.use("generate", lambda trial: None)[0] == "the same"
    assert reference.use("generate", older_parameters)[0] == "silent"
    assert all(kills.controls(reference.whole).values())


@pytest.mark.parametrize(
    ("file", "damaged", "command", "expected"),
    [
        ("source.values", "flip a bit", "train", {"said, the same"}),
        ("target.offsets", "zero a block", "train", {"said, the same"}),
        ("header.json", "cut", "train", {"said, the same"}),
        ("run/tokenizer.model", "change a character", "generate", {"refused"}),
        ("run/experiment.json", "change a character", "generate", {"said, the same", "said, other", "refused"}),
        ("run/metrics.jsonl", "cut", "train", {"said, other"}),
    ],
)  # fmt: skip
def test_damage_is_said_or_refused(reference, file, damaged, command, expected):
    paths = [path for path in reference.files() if file in path]
    assert paths

    def damage_all(trial):
        for path in paths:
            damage_file(trial / path, damaged, random.Random(1))

    result, outcome = reference.use(command, damage_all)
    assert result in expected, outcome


def test_a_call_that_dies_or_hangs_is_told_apart(tmp_path, monkeypatch):
    """With a command line that does what it is told, in the place of seq2seq's."""
    import seq2seq_jax.commands.main as command

    def main(arguments):
        if arguments == ["raise"]:
            raise KeyError("x")
        while arguments == ["hang"]:
            pass
        print("done")
        raise SystemExit(3)

    monkeypatch.setattr(command, "main", main)
    monkeypatch.chdir(tmp_path)
    # As they are in a process of its own: pytest's write elsewhere.
    for number, name in ((1, "stdout"), (2, "stderr")):
        monkeypatch.setattr(sys, name, open(number, "w", closefd=False))
    settings = {"cwd": str(tmp_path), "stdin": "", "timeout": 1.0}
    assert server.call(["fine"], **settings) == {"status": 3, "output": "done\n", "errors": ""}
    raised = server.call(["raise"], **settings)
    assert raised["status"] == 1 and has_traceback(raised["errors"])
    assert server.call(["hang"], **settings)["status"] is None
