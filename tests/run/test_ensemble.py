"""Which runs make an ensemble, and in which direction a run goes."""

import dataclasses
import functools
from pathlib import Path

import pytest

from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.run.data import RunData
from seq2seq_jax.run.direction import direction, is_reverse
from seq2seq_jax.run.directory import RunDirectory
from seq2seq_jax.run.ensemble import EnsembleInference
from seq2seq_jax.run.inference import Inference

EN_DE = ParallelText(directory="text", source="en", target="de")
DE_EN = ParallelText(directory="text", source="de", target="en")


def experiment(data=EN_DE, config="multi30k/transformer_small", length=64):
    base = load_config_by_name(config)
    data = dataclasses.replace(data, max_source_length=length, max_target_length=length)
    training = dataclasses.replace(base.training, target_tokens_per_batch=8 * length, accumulation=1)
    return dataclasses.replace(base, data=data, training=training)


@functools.cache
def tokenizer(text):
    return Tokenizer.train([(text, text)], TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False))


def run(name, *, text="ab", **settings):
    directory = RunDirectory(Path(name))
    directory.tokenizer = tokenizer(text)
    made = experiment(**settings)
    return Inference(directory, made, data=RunData(made.data, made.task))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (DE_EN, True),
        (EN_DE, False),
        (dataclasses.replace(EN_DE, source="fr"), False),
        (Table(directory="t", source="de", target="en"), True),
        (Table(directory="t", source="german", target="english"), None),
        (load_config_by_name("dates/transformer").data, None),
    ],
)
def test_which_run_is_the_reverse_of_another(data, expected):
    assert is_reverse(experiment(data), experiment()) is expected
    assert direction(experiment()) == ("en", "de")


def test_a_run_with_the_same_name_on_both_sides_has_no_reverse():
    data = ParallelText(directory="text", source="txt", target="txt")
    assert is_reverse(experiment(data), experiment(data)) is False


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"text": "abc"}, "b has another tokenizer than a, "),
        ({"data": DE_EN}, "b goes from de to en, the reverse of a"),
        ({"config": "multi30k/convolutional"}, "b has 96 learned positions, and a takes data.max_source_length = 128"),
    ],
)
def test_runs_that_do_not_fit_are_refused(other, said):
    first = run("a", length=128)
    with pytest.raises(ValueError, match=said) as error:
        EnsembleInference([first, run("b", **other)])
    assert "\n" not in str(error.value)


def test_runs_of_any_family_fit_together():
    runs = [run("a"), run("b", config="multi30k/recurrent_additive"), run("c")]
    assert len(EnsembleInference(runs, weights=[1.0, 2.0, 3.0]).others) == 2
