"""A config with parts from another package (objective, encoder, data, task, optimizer, generation) trains, goes on,
evaluates and generates like ours; what a run names is imported only where a person allows it.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from command_line import call
from saved_arrays import saved_arrays

import seq2seq_jax
from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.compilation.programs import build_step
from seq2seq_jax.experiment import Experiment, differences, from_json, load_config, to_json
from seq2seq_jax.outside import Trust
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.system import System
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.telemetry import read_records

pytestmark = pytest.mark.long

OUTSIDE = Path(__file__).parents[1] / "outside"
CONFIG = OUTSIDE / "hide_length.py"
CLASSES = {
    "data": "tandem.data:Twice",
    "objective": "tandem.objective:HideLengthConfig",
    "task": "tandem.task:Gaps",
    "optimizer": "tandem.optimizer:LionConfig",
    "generation": "tandem.method:Shortest",
}


@pytest.fixture(scope="module")
def on_path():
    """The other package can be imported. The checks of types that the tests turn on know the classes of a field that
    are listed there, and no others.
    """
    sys.path.insert(0, str(OUTSIDE))
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    sys.path.remove(str(OUTSIDE))


@pytest.fixture(scope="module")
def place(on_path, tmp_path_factory):
    """A directory in which the config has been trained to its end, as run/."""
    directory = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert call("train", CONFIG, "--run_dir", "run") == 0
    return directory


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_its_classes_stand_in_the_description_by_module_and_name(here):
    values = json.loads((here / "run" / "experiment.json").read_text())["experiment"]
    assert {part: values[part]["class"] for part in CLASSES} == CLASSES
    assert values["model"]["encoder"]["class"] == "tandem.encoder:ScaledEncoderConfig"
    assert values["model"]["encoder"]["scale"] == 0.5 and values["objective"]["critic_optimizer"]["ema_decay"] == 0.5
    assert values["model"]["decoder"]["class"] == "TransformerDecoderConfig"
    experiment = load_config(CONFIG)[0]
    assert from_json(Experiment, to_json(experiment), trust=Trust.of(["tandem"])) == experiment


def test_records_have_what_each_player_logs_when_it_has_turns(here):
    records = read_records(here / "run" / "metrics.jsonl")
    training = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in training] == [3, 6, 9, 12]
    assert ["loss" in record for record in training] == [False, False, True, True]
    assert all("critic_loss" in record and "critic_gradient_norm" in record for record in training)
    # The schedule of each follows its own updates: the model has had none until step 6.
    schedule = load_config(CONFIG)[0].optimizer.learning_rate_schedule(6)
    expected = [float(schedule(count)) for count in (0, 0, 2, 5)]
    assert [record["learning_rate"] for record in training] == pytest.approx(expected)
    assert [record["critic_learning_rate"] for record in training] == pytest.approx([0.02] * 4)
    [validation] = [record for record in records if record["kind"] == "validation"]
    # Evaluation sees all players.
    assert np.isfinite(validation["guess_error"]) and np.isfinite(validation["nll"])


@pytest.mark.parametrize("command", ["generate", "evaluate", "average", "score"])
def test_a_run_is_opened_by_whom_its_code_is_trusted_by(here, tmp_path, capfd, monkeypatch, command):
    """One line says which class is meant; the name of the package is enough, as is True."""
    options = {"average": ["--output", tmp_path / "mean"], "generate": ["--input", here / "sources"]}.get(command, [])
    if command == "score":
        options = ["--input", here / "pairs.tsv"]
    (here / "sources").write_text("a b\n")
    (here / "pairs.tsv").write_text("a b\ta a b b\n")
    for given in ([], ["--trust-code", "another"]):
        capfd.readouterr()
        assert call(command, "run", *options, *given) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("seq2seq: run: data names the class tandem.data:Twice, which would be imported")
        assert line.endswith("--trust-code True.")
    assert not (tmp_path / "mean").exists()
    if command in ("generate", "average"):
        assert call(command, "run", *options, "--trust-code", "tandem" if command == "generate" else "True") == 0


def test_it_generates_and_is_evaluated(here, capfd):
    assert call("evaluate", "run", "--trust-code", "tandem", "--json", "scores.json") == 0
    scores = json.loads((here / "scores.json").read_text())
    assert np.isfinite(scores["guess_error"])
    with pytest.raises(ValueError, match="names the class tandem.data:Twice"):
        seq2seq_jax.load("run")
    run = seq2seq_jax.load("run", trust_code=["tandem"])
    [texts] = run.hypotheses(["a b"])
    lengths = [each.num_tokens for each in texts]
    assert len(texts) == 3 and lengths == sorted(lengths) and [each.score for each in texts] == [-n for n in lengths]
    assert run.generate("a b") == [texts[0].text]


def test_any_player_can_be_loaded_by_name(here):
    run = Inference.open("run", trust_code=True)
    critic, step = run.parameters("latest", player="critic")
    assert step == 12 and critic["kernel"].shape == (16,)
    saved = saved_arrays(here / "run", 12)
    # The average, which the critic has as its own optimizer says.
    assert np.asarray(critic["kernel"]).tobytes() == saved["['players']['critic']['average']['kernel']"][2]
    with pytest.raises(ValueError, match=r"has no player 'poet'; it has critic, model\."):
        run.parameters(player="poet")


class Killed(BaseException):
    """Ends a training at once, as a signal would."""


def test_a_run_killed_where_the_second_player_begins_and_continued_is_the_same_bit_by_bit(here, monkeypatch):
    """The checkpoint is that of step 6, after which the model's turns begin; step 7 is lost."""
    build_update, calls = System.build_update, []

    def build_and_be_killed(self):
        update = build_update(self)
        compiled = update._compiled

        def count(*arguments):
            calls.append(1)
            if len(calls) == 8:
                raise Killed
            return compiled(*arguments)

        update._compiled = count
        return update

    with monkeypatch.context() as patch:
        patch.setattr(System, "build_update", build_and_be_killed)
        with pytest.raises(Killed):
            call("train", CONFIG, "--run_dir", "killed")
    assert sorted(path.name for path in Path("killed/checkpoints").iterdir()) == ["00000003", "00000006"]
    before = saved_arrays(here / "killed", 6)
    counts = {name: int(np.frombuffer(before[f"['players']['{name}']['updates']"][2], np.int32)[0]) for name in PLAYERS}
    assert counts == {"critic": 18, "model": 0}

    assert call("train", CONFIG, "--run_dir", "killed") == 0
    after, whole = saved_arrays(here / "killed", 12), saved_arrays(here / "run", 12)
    assert after.keys() == whole.keys()
    assert [name for name, value in after.items() if value != whole[name]] == []


PLAYERS = ("model", "critic")


def test_a_new_run_starts_from_every_player_that_its_origin_has(here):
    experiment = load_config(CONFIG)[0]
    experiment = dataclasses.replace(experiment, init_from="run:latest")
    run = TrainingRun(here / "next", experiment)
    run.directory = Inference.open("run", trust_code=True).directory
    state, saved = run.initial_state(), saved_arrays(here / "run", 12)
    for name in PLAYERS:
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.players[name].params):
            key = f"['players']['{name}']['average']{jax.tree_util.keystr(path)}"
            assert np.asarray(leaf).tobytes() == saved[key][2], key
        assert int(state.players[name].updates) == 0


def test_a_step_of_its_objective_is_compiled_for_chips_with_the_flops_that_it_states(on_path):
    experiment = load_config(CONFIG)[0]
    program = build_step("train", experiment, jax.devices()[:1])
    vocabulary = Vocabulary(source_size=40, target_size=40, joint=True, pad_id=0, bos_id=2, eos_id=3)
    pair = experiment.model.forward_flops(8, 16, vocabulary=vocabulary)
    assert program.model_flops == 8 * (3 * pair + 3 * experiment.model.encoder.forward_flops(8))
    assert program.work == "8 pairs of 8 + 16 tokens, 3 guesses of each length"


def test_a_class_that_no_command_could_import_later_is_refused_before_training(on_path, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import dataclasses\n\nfrom hide_length import experiment as base\n"
        "from tandem.objective import HideLengthConfig\n\n\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Own(HideLengthConfig):\n    pass\n\n\n"
        "def experiment():\n    return dataclasses.replace(base(), objective=Own())\n"
    )
    assert call("train", "own.py", "--run_dir", "run") == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "objective is of the class Own, which cannot be imported as config_own:Own" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("schedule", "changed"), [("constant", set()), ("cosine", {"training.steps"})])
def test_more_steps_continue_a_run_unless_the_schedule_of_a_player_ends_with_them(on_path, schedule, changed):
    base = load_config(CONFIG)[0]
    critic = dataclasses.replace(base.objective.critic_optimizer, schedule=schedule)
    old = dataclasses.replace(base, objective=dataclasses.replace(base.objective, critic_optimizer=critic))
    new = dataclasses.replace(old, training=dataclasses.replace(old.training, steps=24))
    assert differences(old, new, continuing=True).keys() == changed


def test_what_is_no_config_is_refused(here):
    values = to_json(load_config(CONFIG)[0])
    for name, message in (
        ("tandem.objective:CRITIC", "which is no dataclass"),
        ("tandem.objective:Missing", "cannot be imported (AttributeError"),
        ("tandem.nowhere:Missing", "cannot be imported (ModuleNotFoundError"),
    ):
        values["objective"]["class"] = name
        with pytest.raises(ValueError) as raised:
            from_json(Experiment, values, trust=Trust.of(True))
        assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_changed_name_in_a_description_imports_nothing(here, tmp_path, monkeypatch):
    """A module that leaves a file behind when it is imported; the run that names it is refused."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Config: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = shutil.copytree(here / "run", tmp_path / "run")
    path = run / "experiment.json"
    path.write_text(path.read_text().replace("tandem.optimizer:LionConfig", "planted:Config"))
    with pytest.raises(ValueError, match="optimizer names the class planted:Config"):
        Inference.open(run, trust_code=["tandem"])
    assert not (tmp_path / "executed").exists() and "planted" not in sys.modules
