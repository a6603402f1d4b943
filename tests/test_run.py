"""What a run writes about itself, and which meshes it refuses."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest
from devices import hosts

from seq2seq_jax import run
from seq2seq_jax.experiment import from_json, load_config_by_name, to_json
from seq2seq_jax.generation.generator import Hypothesis
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.run import Run, refuse_another_model, refuse_differences


def test_code_without_git_has_no_commit(monkeypatch, tmp_path):
    """As in an image that holds the code and no git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.commit_of_code() is None


class Echo:
    """In place of a generator: each text as its own best."""

    def generate(self, params, texts):
        return [[Hypothesis(text=text, score=0.0, log_probability=0.0, num_tokens=1)] for text in texts]


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(run.Run, "generator", Echo())
    monkeypatch.setattr(run.Run, "_best_parameters", None)
    return run.Run.__new__(run.Run)


@pytest.mark.parametrize(
    "texts",
    [["a", "bc"], ("a", "bc"), np.array(["a", "bc"]), (text for text in ("a", "bc")), {"a": 1, "bc": 2}.keys()],
    ids=["list", "tuple", "array", "generator", "keys"],
)
def test_texts_may_come_in_anything_that_gives_strings(echo, texts):
    texts = echo.generate(texts)
    assert texts == ["a", "bc"]
    assert all(type(text) is str for text in texts)


def test_one_string_is_one_text(echo):
    assert echo.generate("one text") == ["one text"]
    assert echo.generate(np.array(["one text"])[0]) == ["one text"]
    assert [best[0].text for best in echo.hypotheses("")] == [""]
    assert echo.generate([]) == []


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (None, "sources must be strings, in a list or another iterable, not a NoneType"),
        (b"bytes", "not a bytes"),
        ({"text": "a"}, "not a dict"),
        (3, "not a int"),
        (["a", None], r"sources\[1\] must be a string, not a NoneType"),
        ([["a"]], r"sources\[0\] must be a string, not a list"),
        (np.array([1.5]), r"sources\[0\] must be a string, not a float64"),
    ],
)
def test_what_is_no_text_is_named(texts, said):
    """Without the checks of signatures, which the tests alone have."""
    with pytest.raises(TypeError, match=said):
        run.list_of_texts(texts, "sources")


def test_code_in_an_environment_inside_another_project_has_no_commit(monkeypatch, tmp_path):
    """As in a .venv of a project with a commit of its own, where git would find that."""
    package = tmp_path / ".venv" / "seq2seq_jax"
    package.mkdir(parents=True)
    (package / "run.py").touch()
    (tmp_path / "other.py").touch()
    author = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for command in (["init", "--quiet"], ["add", "other.py"], [*author, "commit", "--quiet", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(run, "__file__", str(package / "run.py"))
    assert run.commit_of_code() is None
    subprocess.run(["git", "-C", str(tmp_path), "add", str(package / "run.py")], check=True)
    assert run.commit_of_code().endswith("-dirty")


def test_a_run_of_a_seed_that_is_too_large_now_can_be_used(tmp_path):
    """Such seeds were taken once. To train it on, its seed would have to be given, and is refused."""
    values = to_json(load_config_by_name("dates/transformer"))
    values["training"]["seed"] = 2**32 + 5
    (tmp_path / "experiment.json").write_text(
        json.dumps({"experiment": values, "fingerprints": {"data": "d", "tokenizer": "t"}})
    )
    assert Run.open(tmp_path).experiment.training.seed == 5


def changed(**parts):
    """dates/transformer with fields of its parts replaced."""
    values = to_json(load_config_by_name("dates/transformer"))
    for part, fields in parts.items():
        values[part] |= fields
    return from_json(type(load_config_by_name("dates/transformer")), values)


@pytest.mark.parametrize(
    ("fields", "can_start_from_it"),
    [
        ({"optimizer": {"learning_rate": 1e-4}}, True),
        ({"training": {"seed": 1}}, True),
        ({"tokenizer": {"vocabulary_size": 900}}, False),
    ],
)
def test_a_config_that_changes_numbers_is_told_how_to_start_from_the_run(tmp_path, fields, can_start_from_it):
    """Of another tokenizer or architecture no parameters can be taken."""
    with pytest.raises(ValueError, match="holds a run with another config: .* there and .* here") as error:
        refuse_differences(changed(), changed(**fields), tmp_path)
    assert (f"--init-from {tmp_path}" in str(error.value)) == can_start_from_it


def test_what_changes_no_number_is_accepted(tmp_path):
    new = changed(training={"patience": 3, "checkpoint_every": 7, "log_every": 1}, tokenizer={"vocabulary_size": None})
    refuse_differences(changed(), new, tmp_path)
    refuse_another_model(changed(), new, "--init-from x")


@pytest.mark.parametrize(
    ("mesh", "num_devices", "target_tokens_per_batch", "said"),
    [
        (
            {"data": 2},
            2,
            3 * 36,
            r"^a batch of 3 rows \(training\.target_tokens_per_batch / data\.max_target_length / "
            r"training\.accumulation\) cannot be divided over data x fsdp = 2 devices\. Set "
            r"training\.target_tokens_per_batch to a multiple of 72, or [^\n]*$",
        ),
        (
            {"data": 1, "tensor": 3},
            3,
            32 * 36,
            r"^mesh\.tensor = 3 must divide model\.encoder\.num_heads = 4, and does not\. Change either\.$",
        ),
    ],
    ids=["rows", "heads"],
)
def test_a_mesh_that_the_batch_or_the_model_cannot_be_divided_by_is_refused(
    mesh, num_devices, target_tokens_per_batch, said
):
    experiment = load_config_by_name("dates/transformer")
    experiment = dataclasses.replace(
        experiment, training=dataclasses.replace(experiment.training, target_tokens_per_batch=target_tokens_per_batch)
    )
    with pytest.raises(ValueError, match=said):
        run.check_mesh(experiment, MeshConfig(**mesh).build(hosts(1, num_devices)))
