"""Training and using a run from Python, against the commands."""

import dataclasses
import json

import pytest

import seq2seq_jax
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.generation.methods import Sampling

SOURCES = ["two red cows", "one cow"]


@pytest.mark.long
def test_a_run_is_used_as_by_the_commands(seq2seq, trained, tmp_path):
    run = seq2seq_jax.load(str(trained))
    assert seq2seq("evaluate", trained, "--json", tmp_path / "figures").status == 0
    figures = json.loads((tmp_path / "figures").read_text())
    found = run.evaluate("test")
    assert found == {name: figures[name] for name in found} and {"loss", "bleu", "metrics", "step"} <= set(found)
    with pytest.raises(ValueError, match="no split 'other'"):
        run.evaluate("other")
    settings = ["--generation.beam_size", "3", "--generation.n_best", "3", "--json", tmp_path / "n_best"]
    outcome = seq2seq("generate", trained, *settings, stdin="".join(f"{line}\n" for line in SOURCES).encode())
    assert run.generate(SOURCES, beam_size=3) == outcome.output.splitlines()
    records = [json.loads(line) for line in (tmp_path / "n_best").read_text(encoding="utf-8").splitlines()]
    found = run.hypotheses(SOURCES, beam_size=3, n_best=3)
    assert [[each.text for each in best] for best in found] == [
        [each["text"] for each in record["hypotheses"]] for record in records
    ]
    drawn = run.hypotheses(SOURCES, method=Sampling(samples=5, seed=2), temperature=1.5)
    assert [len(texts) for texts in drawn] == [5, 5] and len({each.text for each in drawn[0]}) > 1
    with pytest.raises(TypeError, match="beam"):
        run.generate(SOURCES, method=Sampling(), beam_size=2)


@pytest.mark.long
def test_an_experiment_is_trained_as_by_the_command(seq2seq, workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    experiment = load_config_by_name("tiny/transformer")
    arguments = ["train", "tiny/transformer", "--training.steps", "4", "--run-dir", tmp_path / "command"]
    assert seq2seq(*arguments).status == 0
    experiment = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, steps=4))
    run = seq2seq_jax.train(experiment, str(tmp_path / "python"), json=str(tmp_path / "figures"), writers=())
    assert run.generate(SOURCES) == seq2seq_jax.load(str(tmp_path / "command")).generate(SOURCES)
    assert json.loads((tmp_path / "figures").read_text())["steps"] == 4
    description = json.loads((tmp_path / "python" / "experiment.json").read_text())
    assert description["config"] == "python"
