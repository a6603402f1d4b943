"""Summaries: limits, references, and the datasets of the catalogue that the config's docstring names."""

import dataclasses
import json
import shlex

import pytest
import tensorflow_datasets as tfds

from seq2seq_jax.commands.options import parse
from seq2seq_jax.data.tables import Table
from seq2seq_jax.experiment import find_config, load_config, load_config_by_name
from seq2seq_jax.run.data import RunData
from seq2seq_jax.tasks.summarisation import Summarisation


@pytest.fixture
def table(tmp_path):
    def written(*more):
        rows = [{"body": f"body {index}", "title": "title", "more": each} for index, each in enumerate(more)]
        (tmp_path / "validation.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return Table(
            directory=str(tmp_path), source="body", target="title", references="more", test=None, too_long="truncate"
        )

    return written


def test_sources_need_a_limit(table):
    tokenizer = load_config_by_name("aeslc/transformer_small").tokenizer
    with pytest.raises(ValueError, match="task Summarisation needs a limit for its sources, and data.too_long = drop"):
        Summarisation().check(dataclasses.replace(table("x"), too_long="drop"), tokenizer)
    Summarisation().check(table("x"), tokenizer)


def test_every_example_has_as_many_references(table):
    data = RunData(table(["a", "b"], ["c", "d"]), Summarisation(), splits=("validation",))
    assert [example["target"] for example in data.scored("validation")] == [["title", "a", "b"], ["title", "c", "d"]]
    data = RunData(table(["a", "b"], ["c", "d"], "e"), Summarisation(), splits=("validation",))
    with pytest.raises(ValueError, match="example 3 has 2, the target counted, where those before it have 3") as error:
        list(data.scored("validation"))
    assert "\n" not in str(error.value)


def test_outputs_are_scored_by_rouge_and_compared_with_the_source():
    experiment = load_config_by_name("aeslc/transformer_small")
    names = [name for metric in experiment.validation_metrics for name in metric.names]
    assert names[:3] == ["rouge1", "rouge2", "rougeL"] and "extractive_density" in names
    assert experiment.task.select_by(experiment.validation_metrics, [{"target": "one"}]) == "rouge1"


def test_the_pointer_generator_is_the_same_model_with_copying():
    without, with_copying = map(load_config_by_name, ("aeslc/transformer_small", "aeslc/pointer_generator"))
    model = dataclasses.replace(without.model, copying=True, copying_in_order=True)
    assert dataclasses.replace(without, model=model) == with_copying


CATALOGUE = [
    shlex.split(line.partition("#")[0])[3:]
    for line in load_config(find_config("summarisation/transformer"))[1].splitlines()
    if line.strip().startswith("seq2seq train")
]
"""Options of each command of the docstring."""


def test_the_docstring_names_datasets():
    assert len(CATALOGUE) == 4 and CATALOGUE[0] == []


@pytest.mark.parametrize("options", CATALOGUE, ids=lambda options: " ".join(options[1:2]) or "cnn_dailymail")
def test_datasets_of_the_catalogue_have_these_fields(options):
    experiment = parse("train", ["summarisation/transformer", *options]).arguments.experiment
    with tfds.testing.mock_data(num_examples=4):
        data = RunData(experiment.data, experiment.task)
        scored = list(data.scored("test"))
        assert data.corpus.splits == {"train": 4, "validation": 4, "test": 4}
    assert len(scored) == 4 and all(example["source"] and example["target"] for example in scored)
