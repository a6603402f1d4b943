"""Fields, values, metrics and saved states of earlier versions are read under their current names."""

import dataclasses
import json
from pathlib import Path

import pytest

from seq2seq_jax import old_names
from seq2seq_jax.data.source import PairSource
from seq2seq_jax.experiment import Experiment, dump, from_json, load_config_by_name
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.old_names import current_fields, current_loop_state, current_metrics
from seq2seq_jax.overrides import override
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.telemetry import read_records

OLD_EXPERIMENTS = sorted(Path(__file__).parent.glob("golden/*.json"))
"""Experiments of the first version, under its names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """Stands for a config with subclasses."""

    per_row: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Base):
    """Stands for a config with a renamed field and a renamed value."""

    choice: str | None = None


@pytest.fixture
def tables(monkeypatch):
    """Tables with entries for the configs above."""
    monkeypatch.setattr(old_names, "FIELDS", {"Base": {"a_row": "per_row"}})
    monkeypatch.setattr(old_names, "VALUES", {"Config": {"choice": {"likeliest": "argmax"}}})
    monkeypatch.setattr(old_names, "METRICS", {"padding_share": "padding_fraction"})
    monkeypatch.setattr(old_names, "LOOP_STATE", {"anchor": "plan_position", "slots": "positions"})


def test_old_fields_and_values_are_renamed_and_others_kept(tables):
    assert current_fields(Config, {"a_row": 3, "choice": "likeliest"}) == {"per_row": 3, "choice": "argmax"}
    current = {"per_row": 3, "choice": "argmax"}
    assert current_fields(Config, current) == current
    assert current_fields(Base, {"a_row": 3, "choice": "likeliest"}) == {"per_row": 3, "choice": "likeliest"}


def test_a_field_under_both_names_is_refused(tables):
    with pytest.raises(ValueError, match=r"^Config has a_row, an old name of per_row, and per_row itself\. [^\n]*$"):
        current_fields(Config, {"a_row": 3, "per_row": 3})


def test_old_metrics_are_renamed(tables, tmp_path):
    record = {"kind": "train", "step": 5, "padding_share": 0.5}
    assert current_metrics(record) == {"kind": "train", "step": 5, "padding_fraction": 0.5}
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record) + "\n")
    assert read_records(path) == [current_metrics(record)]


def test_scores_of_old_validations_are_described():
    old = {"kind": "validation", "step": 5, "loss": 2.0, "bleu": 3.0, "exact_match": 1.0, "best": True}
    described = current_metrics(old)
    assert {name: facts["label"] for name, facts in described.pop("metrics").items()} == {
        "bleu": "BLEU", "exact_match": "exact match",
    }  # fmt: skip
    assert described == old
    assert current_metrics({"kind": "validation", "step": 5, "loss": 2.0}).keys() == {"kind", "step", "loss"}
    new = old | {"metrics": {"bleu": {"label": "BLEU of its own"}}}
    assert current_metrics(new) == new


def test_the_loop_state_of_old_checkpoints_is_renamed(tables):
    window = {"steps": 2, "target_tokens": 60, "sums": {"padding_share": 0.5, "gradient_norm": 3.0}}
    old = {"best": 1.0, "since_best": 2, "anchor": [1, 2], "window": window | {"slots": 96}}
    current = {"steps": 2, "target_tokens": 60, "sums": {"padding_fraction": 0.5, "gradient_norm": 3.0}}
    # Means had no weights of their own: norms of gradients counted by step, all others by target tokens.
    weights = {"padding_fraction": 60, "gradient_norm": 2}
    assert current_loop_state(old) == {
        "selection": {"score": 1.0, "since_best": 2, "num_equal": None},
        "plan_position": [1, 2],
        "window": current | {"positions": 96, "weights": weights},
    }
    assert current_loop_state(current_loop_state(old)) == current_loop_state(old)
    assert current_loop_state({}) == {}


@pytest.mark.parametrize("path", OLD_EXPERIMENTS, ids=lambda path: path.stem)
def test_old_experiments_are_read_and_written_under_current_names(path):
    experiment = from_json(Experiment, json.loads(path.read_text(encoding="utf-8"))["experiment"])
    text = dump(experiment)
    assert from_json(Experiment, json.loads(text)) == experiment
    known = {field.name for field in dataclasses.fields(experiment.training)}
    assert set(json.loads(text)["training"]) == known


def test_the_tables_lead_to_current_names():
    known = (PairSource, TrainingConfig, BeamSearch, PolicyGradientConfig)
    configs = {config.__name__: config for config in known}
    assert set(old_names.FIELDS) == set(configs)
    for name, renamed in old_names.FIELDS.items():
        known = {field.name for field in dataclasses.fields(configs[name])}
        assert set(renamed.values()) <= known and not set(renamed) & known


def test_an_old_experiment_has_its_values_under_current_names():
    golden = Path(__file__).parent / "golden"
    old = json.loads((golden / "recurrent_scheduled_sampling.json").read_text(encoding="utf-8"))
    experiment = from_json(Experiment, old["experiment"])
    assert experiment.training.target_tokens_per_batch == 384 and experiment.training.num_sample_outputs == 3
    assert experiment.generation.source_tokens_per_batch == 128 and experiment.generation.max_compactions == 2
    assert experiment.objective.sampling_choice == "argmax"
    old = json.loads((golden / "policy_gradient_leave_one_out.json").read_text(encoding="utf-8"))
    assert from_json(Experiment, old["experiment"]).objective.samples_per_source == 3


def test_an_option_by_its_old_name_is_answered_with_the_current_one():
    config = load_config_by_name("dates/transformer")
    said = r"^--training\.batch_tokens is an old name: give --training\.target_tokens_per_batch\."
    with pytest.raises(ValueError, match=said):
        override(config, ["--training.batch_tokens=36"], program="seq2seq train", description="")
