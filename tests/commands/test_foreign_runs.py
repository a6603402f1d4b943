"""A run that comes from somebody else, or was damaged: nothing of it is believed, imported or written to unasked."""

import contextlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from logged import own_messages

from seq2seq_jax.run.description import read_description
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.long

TEXT = b"two red cows\nsix white dogs\n"
TRAIN = ("train", "tiny/transformer", "--training.seed", "3")


def edit(run, change):
    """Change experiment.json as a person or a disk would, its digest left as it is."""
    path = run / "experiment.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description["experiment"])
    path.write_text(json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8")


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["generate", "evaluate", "align", "average", "train"])
def test_a_tokenizer_that_was_changed_is_refused_wherever_the_run_is_opened(seq2seq, copy_of_run, tmp_path, command):
    path = copy_of_run / "tokenizer.model"
    # A letter of a piece: SentencePiece reads the model as before.
    flip(path, path.read_bytes().rindex(b"\xc3\xbc"[:1]))
    arguments = TRAIN if command == "train" else (command, copy_of_run)
    options = {"train": ("--run_dir", copy_of_run), "average": ("--output", tmp_path / "new")}.get(command, ())
    outcome = seq2seq(*arguments, *options, stdin=TEXT)
    assert outcome.status == 2
    assert f"tokenizer.model in {copy_of_run} was changed or damaged" in outcome.error_line


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_an_experiment_that_was_edited_is_used_and_said(seq2seq, copy_of_run, command):
    edit(copy_of_run, lambda experiment: experiment["generation"].update(beam_size=1))
    outcome = seq2seq(command, copy_of_run, stdin=TEXT)
    assert outcome.status == 0
    said = [line for line in outcome.errors.splitlines() if "was edited or damaged after it was written" in line]
    assert len(said) == 1 and str(copy_of_run / "experiment.json") in said[0]
    assert Inference.open(copy_of_run).experiment.generation.beam_size == 1


def test_an_experiment_of_a_version_without_digests_is_read_in_silence(copy_of_run, caplog):
    path = copy_of_run / "experiment.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    del description["sha256"]
    path.write_text(json.dumps(description), encoding="utf-8")
    assert Inference.open(copy_of_run).experiment.training.seed == 3
    assert not own_messages(caplog)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e["model"]["encoder"].update(norm_position="pr%"), "model.encoder.norm_position must be one of"),
        (lambda e: e["model"].update(precision="floqt32"), "model.precision must be one of"),
        (
            lambda e: e["training"].update(target_tokens_per_batch="480"),
            "training.target_tokens_per_batch must be a whole number",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_file(seq2seq, copy_of_run, change, said):
    edit(copy_of_run, change)
    outcome = seq2seq("generate", copy_of_run, stdin=TEXT)
    assert outcome.status == 2
    assert said in outcome.errors.splitlines()[-1] and "experiment.json" in outcome.errors.splitlines()[-1]
    assert "Traceback" not in outcome.errors


def test_no_flipped_bit_of_an_experiment_is_believed_without_a_word(copy_of_run, caplog):
    """One bit of each fifth byte: refused, said, or nothing that the run is has changed."""
    path = copy_of_run / "experiment.json"
    whole = path.read_bytes()
    description = json.loads(whole)
    del description["sha256"]
    results = Counter()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        caplog.clear()
        try:
            found = read_description(copy_of_run)
            Inference.open(copy_of_run)
        except ValueError:
            results["refused"] += 1
            continue
        results["said" if caplog.messages else "the same"] += 1
        # In the name of the digest a flipped bit takes the digest away, and nothing else.
        assert caplog.messages or all(found[name] == description[name] for name in description)
    assert results["refused"] > 10 * results["the same"] and results["said"] > results["the same"]


@pytest.mark.parametrize("name", ["data", "tokenizer"])
def test_a_damaged_fingerprint_is_one_line(seq2seq, copy_of_run, name):
    path = copy_of_run / "experiment.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["fingerprints"]["x" + name] = description["fingerprints"].pop(name)
    path.write_text(json.dumps(description), encoding="utf-8")
    outcome = seq2seq("generate", copy_of_run, stdin=TEXT)
    assert outcome.status == 2
    assert "experiment.json cannot be read" in outcome.error_line


@pytest.fixture
def with_code(copy_of_run, tmp_path, monkeypatch):
    """A run that names a function in a module which leaves a file behind when it is imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "planted.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n"
        "def score(hypotheses, references):\n    return [0.0] * len(hypotheses)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def change(experiment):
        experiment["objective"] = {
            "class": "PolicyGradientConfig",
            "reward": {"function": "planted:score", "function_weight": 1.0},
        }
        experiment["data"]["packing"] = False
        experiment["data"]["max_examples_per_row"] = None

    edit(copy_of_run, change)
    # Another test may have trained with it.
    sys.modules.pop("planted", None)
    yield copy_of_run
    sys.modules.pop("planted", None)


@pytest.mark.parametrize("command", ["generate", "evaluate", "align"])
def test_using_a_run_imports_nothing_that_it_names(seq2seq, with_code, tmp_path, command):
    outcome = seq2seq(command, with_code, stdin=TEXT)
    assert outcome.status == 0, outcome.errors
    assert not (tmp_path / "executed").exists() and "planted" not in sys.modules


def test_starting_from_a_run_imports_nothing_that_it_names(with_code, workplace, tmp_path):
    with contextlib.chdir(workplace):
        origin = Inference.open(with_code)
        run = TrainingRun(tmp_path / "new", Inference.open(with_code).experiment)
        params, _ = origin.parameters("best")
    assert params and run.experiment.objective.foreign_code == "planted:score"
    assert not (tmp_path / "executed").exists()


def test_averaging_asks_before_it_imports(seq2seq, with_code, tmp_path):
    refused = seq2seq("average", with_code, "--output", tmp_path / "new")
    assert refused.status == 2
    assert "the function planted:score" in refused.errors.splitlines()[-1]
    assert "--trust-code True" in refused.errors.splitlines()[-1]
    assert not (tmp_path / "executed").exists()
    assert seq2seq("average", with_code, "--output", tmp_path / "new", "--trust-code", "True").status == 0
    assert (tmp_path / "executed").exists()


def test_the_directories_that_a_run_names_are_read_and_not_written(seq2seq, copy_of_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    theirs = tmp_path / "theirs"
    edit(copy_of_run, lambda experiment: experiment["data"].update(cache_directory=str(theirs)))
    first = seq2seq("evaluate", copy_of_run, "--json", tmp_path / "first.json")
    assert first.status == 0 and not theirs.exists()
    assert list((tmp_path / "home" / ".cache" / "seq2seq_jax" / "token_stores").iterdir())

    # Given on the command line it is written to, and found afterwards without being given.
    given = seq2seq("evaluate", copy_of_run, "--data.cache_directory", theirs, "--json", tmp_path / "given.json")
    assert given.status == 0 and list((theirs / "token_stores").iterdir())
    shutil.rmtree(tmp_path / "home")
    assert seq2seq("evaluate", copy_of_run, "--json", tmp_path / "found.json").status == 0
    assert not (tmp_path / "home").exists()
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "given", "found")]
    assert found[0] == found[1] == found[2]


def test_links_planted_in_a_run_are_not_written_through(seq2seq, copy_of_run, tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    names = ("experiment.json.tmp", "metrics.tmp", "plots/learning_curves.png", "samples/step=00000120.txt")
    for name in names:
        path = copy_of_run / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    # The last validation, so that samples are written again.
    for path in (copy_of_run / "checkpoints").glob("*120"):
        shutil.rmtree(path)
    outcome = seq2seq(*TRAIN, "--run_dir", copy_of_run)
    assert outcome.status == 0
    assert target.read_text() == "precious"
    assert not Path(copy_of_run / "plots" / "learning_curves.png").is_symlink()


@pytest.mark.parametrize("damage", ["a lost quote", "a damaged key", "gone"])
def test_records_that_are_lost_are_said_when_a_run_goes_on(seq2seq, copy_of_run, damage):
    path = copy_of_run / "metrics.jsonl"
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(text.replace('"target_tokens":', '"target_tokens:' if damage == "a lost quote" else '"t":', 1))
    outcome = seq2seq(*TRAIN, "--run_dir", copy_of_run)
    assert outcome.status == 0
    assert f"lacks {8 if damage == 'gone' else 1} of its 8 records up to step 120" in outcome.errors


def test_a_checkpoint_that_a_training_removes_meanwhile_is_not_called_damaged(copy_of_run, monkeypatch, caplog):
    """The reader chooses the newest; before it is read, it is gone and a newer one is there."""
    checkpoints = copy_of_run / "checkpoints"
    newer = shutil.copytree(checkpoints / "00000120", copy_of_run / "newer")
    restore, asked = Checkpoints.restore, []

    def restore_late(self, step, layout, **options):
        asked.append(step)
        if len(asked) == 1:
            newer.rename(checkpoints / "00000150")
            shutil.rmtree(checkpoints / "00000120")
        return restore(self, step, layout, **options)

    monkeypatch.setattr(Checkpoints, "restore", restore_late)
    assert Inference.open(copy_of_run).parameters("latest")[1] == 150
    assert asked == [120, 150] and not own_messages(caplog)
