"""Tasks: what they need of the data, how references are read, and what an older experiment says without one."""

import dataclasses
import json

import pytest

from seq2seq_jax.commands.train import limit_rows
from seq2seq_jax.data.batch_maker import SelectionCounts
from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import DocumentFiles
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.data.transforms.span_corruption import SpanCorruption
from seq2seq_jax.evaluation.metric import references
from seq2seq_jax.evaluation.metrics import DEFAULT_METRICS
from seq2seq_jax.experiment import Experiment, default_task, find_config, from_json, load_config, to_json
from seq2seq_jax.overrides import override
from seq2seq_jax.run.data import RunData
from seq2seq_jax.tasks.denoising import Denoising
from seq2seq_jax.tasks.dialogue_response import ResponseFromActs
from seq2seq_jax.tasks.dialogue_state import DialogueState
from seq2seq_jax.tasks.translation import Translation


def config(name):
    return load_config(find_config(name))[0]


def test_the_task_follows_the_columns_of_the_data():
    assert config("multi30k/transformer_small").task == Translation()
    assert config("multi30k/denoising_small").task == Denoising()
    assert config("sgd/state_tracking").task == DialogueState()
    assert config("sgd/response_from_acts").task == ResponseFromActs()
    assert default_task(config("sgd/response").data) == Translation()


def test_data_that_lacks_a_column_of_the_task_is_one_line():
    pairs = config("multi30k/transformer_small")
    with pytest.raises(ValueError) as error:
        dataclasses.replace(pairs, data=DocumentFiles(directory="text"))
    assert str(error.value) == (
        "task Translation needs data with the column source, and DocumentFiles has text. Use other data, or set task "
        "to another."
    )
    with pytest.raises(ValueError, match="Denoising needs data with the column text, and ParallelText has source, t"):
        dataclasses.replace(pairs, task=Denoising())


def test_an_experiment_from_before_there_were_tasks_reads_as_before():
    experiment = config("multi30k/denoising_small")
    corruption = SpanCorruption(density=0.2)
    expected = dataclasses.replace(
        experiment,
        task=Denoising(corruption=corruption),
        training=dataclasses.replace(experiment.training, target_tokens_per_batch=32 * 40),
    )
    old = to_json(expected)
    old["data"]["corruption"] = old.pop("task")["corruption"]
    assert from_json(Experiment, json.loads(json.dumps(old))) == expected
    pairs = config("multi30k/transformer_small")
    old = {name: values for name, values in to_json(pairs).items() if name != "task"}
    assert from_json(Experiment, old) == pairs


def test_the_old_place_of_the_corruption_is_answered_with_the_current_one():
    with pytest.raises(ValueError, match="--data.corruption.density is an old name: give --task.corruption.density"):
        override(config("multi30k/denoising_small"), ["--data.corruption.density", "0.3"], program="train")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"num_sentinels": 3},
            "num_sentinels must be at least 7, the spans that task.corruption takes out of a row",
        ),
        ({"joint": False}, "Set tokenizer.joint to True"),
    ],
)
def test_denoising_needs_a_joint_tokenizer_with_sentinels(changed, message):
    experiment = config("multi30k/denoising_small")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(experiment, tokenizer=dataclasses.replace(experiment.tokenizer, **changed))


def write_table(directory, **rows):
    for name, values in rows.items():
        (directory / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in values))


@pytest.fixture
def table(tmp_path):
    write_table(
        tmp_path,
        train=[{"body": "a b", "title": "A"}, {"body": "c", "title": "C"}],
        validation=[
            {"body": "d", "title": "D", "more": ["E", "F"]},
            {"body": "g", "title": "G", "more": []},
            {"body": "h", "title": "H", "more": "I"},
        ],
    )
    return Table(directory=str(tmp_path), source="body", target="title", test=None)


def test_further_references_are_scored_with_and_not_trained_on(table):
    data = RunData(dataclasses.replace(table, references="more"), Translation(), splits=("train", "validation"))
    scored = list(data.scored("validation"))
    assert [example["target"] for example in scored] == [["D", "E", "F"], "G", ["H", "I"]]
    assert [example["source"] for example in scored] == ["d", "g", "h"]
    assert list(map(references, scored)) == [["D", "E", "F"], ["G"], ["H", "I"]]
    assert list(data.tokenized("train")) == [("a b", "A"), ("c", "C")]
    alone = table.open(("train",))
    assert data.corpus.split_fingerprint("train") == alone.split_fingerprint("train"), "its token ids are found again"


def test_a_reference_that_is_no_text_is_one_line(table, tmp_path):
    write_table(tmp_path, validation=[{"body": "d", "title": "D", "more": ["E", 3]}])
    with pytest.raises(ValueError, match=r"a string as 'more' in line 1 of .*validation.jsonl; got a int: name a"):
        dataclasses.replace(table, references="more").open(("validation",))
    with pytest.raises(ValueError, match=r"a string as 'title' in line 1 of .*; got a list"):
        write_table(tmp_path, validation=[{"body": "d", "title": ["D"], "more": []}])
        dataclasses.replace(table, references="more").open(("validation",))


def test_cutting_off_the_left_needs_cutting(table):
    with pytest.raises(ValueError, match="data.truncate has no effect where longer examples are dropped"):
        dataclasses.replace(table, truncate="left")
    columns = Translation().columns(dataclasses.replace(table, truncate="left", too_long="truncate"))
    assert [column.truncate for column in columns.values()] == ["left", "left"]
    assert [column.truncate for column in Translation().columns(table).values()] == [None, None]


def test_the_best_checkpoint_is_chosen_by_what_suits_the_references():
    long, short = [{"target": "one two three four five"}], [{"target": ["ab"]}]
    assert Translation().select_by(DEFAULT_METRICS, long) == "bleu"
    assert Translation().select_by(DEFAULT_METRICS, short) == "chrf"
    assert Translation().select_by(DEFAULT_METRICS, []) == "bleu"
    assert Denoising().select_by((), []) == "loss"


def test_the_table_at_the_end_says_what_limits_did_to_each_split():
    counts = SelectionCounts(total=1000, too_long={"source": 12, "target": 1}, dropped=0, truncated=12)
    whole = SelectionCounts(total=50, too_long={"source": 0, "target": 0}, dropped=0, truncated=0)
    assert limit_rows({"train": counts, "test": whole}) == [
        (
            "limits",
            "truncated as too long: train 12 of 1,000 (1.2%), test 0 of 50 (0.0%) (data.max_source_length, "
            "max_target_length, too_long)",
        )
    ]
    assert limit_rows({"train": whole, "test": whole}) == []


def test_a_tokenizer_of_documents_is_trained_on_them(tmp_path):
    (tmp_path / "train.txt").write_text("one\n\ntwo\n")
    data = RunData(DocumentFiles(directory=str(tmp_path)), Denoising(), splits=("train",))
    assert list(data.tokenized("train")) == [("one",), ("two",)]
    assert TokenizerConfig().joint
