"""What a field says it changes is what it changes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.compilation.programs import stand_in_tokenizer
from seq2seq_jax.effects import changes, effects
from seq2seq_jax.experiment import differences, flatten, load_config_by_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    plain: int = 0
    speed: int = dataclasses.field(default=0, metadata=changes("nothing"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    plain: int = 0
    sizes: Inner = dataclasses.field(default=Inner(), metadata=changes("parameters"))


def test_a_field_changes_what_it_says_or_what_its_config_does():
    assert effects(Outer()) == {
        "plain": "numbers",
        "sizes": "parameters",
        "sizes.class": "parameters",
        "sizes.plain": "parameters",
        "sizes.speed": "nothing",
    }


CONFIGS = ["dates/transformer", "wmt14_de_en/gnmt", "multi30k/convolutional", "c4_span_corruption/t5_large"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_an_experiment_has_an_effect(name):
    experiment = load_config_by_name(name)
    assert set(flatten(experiment)) <= set(effects(experiment))


def shapes(model, tokenizer):
    array = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    rows = TokenRows(tokens=array, segment_ids=array, positions=array)
    built = model.build(tokenizer.vocabulary)
    return jax.eval_shape(lambda batch: built.init(jax.random.key(0), batch, deterministic=True), Batch(rows, rows))


def other(value):
    """Another value of the same type."""
    choices = {"none": "full", "auto": "plain", "float32": "bfloat16", "bfloat16": "float32"}
    return not value if isinstance(value, bool) else choices[value] if isinstance(value, str) else value / 2 + 0.05


@pytest.mark.parametrize("name", CONFIGS[:3])
def test_what_changes_numbers_alone_leaves_the_parameters(name):
    experiment = load_config_by_name(name)
    model, tokenizer = experiment.model, stand_in_tokenizer(experiment.tokenizer)
    expected = shapes(model, tokenizer)
    for side in ("encoder", "decoder"):
        stack = getattr(model, side)
        for field, effect in effects(stack).items():
            if effect == "numbers" and field in {each.name for each in dataclasses.fields(stack) if each.metadata}:
                changed = dataclasses.replace(stack, **{field: other(getattr(stack, field))})
                assert shapes(dataclasses.replace(model, **{side: changed}), tokenizer) == expected, field


def test_a_run_continues_where_nothing_changes():
    experiment = load_config_by_name("dates/transformer")
    changed = dataclasses.replace(
        experiment,
        training=dataclasses.replace(experiment.training, log_every=7, seed=3),
        mesh=dataclasses.replace(experiment.mesh, fsdp=2),
        data=dataclasses.replace(experiment.data, workers=2),
    )
    assert set(differences(experiment, changed)) == {"training.log_every", "training.seed", "mesh.fsdp", "data.workers"}
    assert set(differences(experiment, changed, continuing=True)) == {"training.seed"}
