"""What a run says about itself, and how it is read."""

import json
import subprocess

from seq2seq_jax.experiment import load_config_by_name, to_json
from seq2seq_jax.run import description
from seq2seq_jax.run.inference import Inference


def test_code_without_git_has_no_commit(monkeypatch, tmp_path):
    """As in an image that holds the code and no git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert description.commit_of_code() is None


def test_code_in_an_environment_inside_another_project_has_no_commit(monkeypatch, tmp_path):
    """As in a .venv of a project with a commit of its own, where git would find that."""
    package = tmp_path / ".venv" / "seq2seq_jax"
    package.mkdir(parents=True)
    (package / "description.py").touch()
    (tmp_path / "other.py").touch()
    author = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for command in (["init", "--quiet"], ["add", "other.py"], [*author, "commit", "--quiet", "-m", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(description, "__file__", str(package / "description.py"))
    assert description.commit_of_code() is None
    subprocess.run(["git", "-C", str(tmp_path), "add", str(package / "description.py")], check=True)
    assert description.commit_of_code().endswith("-dirty")


def test_a_run_of_a_seed_that_is_too_large_now_can_be_used(tmp_path):
    """Such seeds were taken once. To train it on, its seed would have to be given, and is refused."""
    values = to_json(load_config_by_name("dates/transformer"))
    values["training"]["seed"] = 2**32 + 5
    (tmp_path / "experiment.json").write_text(
        json.dumps({"experiment": values, "fingerprints": {"data": "d", "tokenizer": "t"}})
    )
    assert Inference.open(tmp_path).experiment.training.seed == 5
