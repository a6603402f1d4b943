"""Which experiments continue a run, and which start from one."""

import dataclasses

import pytest

from seq2seq_jax.experiment import from_json, load_config_by_name, to_json
from seq2seq_jax.run.continuation import refuse_another_model, refuse_differences


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


def test_a_model_of_the_same_parameters_can_be_started_from():
    """As one that is compiled, dropped out or rounded otherwise."""
    new = changed(model={"precision": "bfloat16"})
    encoder = dataclasses.replace(new.model.encoder, scan_layers=True, hidden_dropout=0.3, remat="full")
    new = dataclasses.replace(new, model=dataclasses.replace(new.model, encoder=encoder))
    refuse_another_model(changed(), new, "--init-from x")
    with pytest.raises(ValueError, match=r"another architecture: model\.encoder\.num_layers is \d there and 9 here"):
        deeper = dataclasses.replace(new.model, encoder=dataclasses.replace(encoder, num_layers=9))
        refuse_another_model(changed(), dataclasses.replace(new, model=deeper), "--init-from x")


def test_a_mixture_may_start_from_a_model_with_one_expert():
    one, three, two = (
        changed(model={"num_experts": number}, objective={"class": "MixtureOfExpertsConfig"}) for number in (1, 3, 2)
    )
    refuse_another_model(one, three, "--init-from x", may_be_extended=True)
    message = r"x has another architecture: model\.num_experts is \d there and \d here"
    for old, new in ((two, three), (three, one)):
        with pytest.raises(ValueError, match=message):
            refuse_another_model(old, new, "x", may_be_extended=True)
    with pytest.raises(ValueError, match=message):
        refuse_another_model(one, three, "x")
