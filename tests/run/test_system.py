"""What a system refuses."""

import dataclasses
from types import SimpleNamespace

import pytest
from devices import hosts

from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.run.system import System, check_mesh


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
        check_mesh(experiment, MeshConfig(**mesh).build(hosts(1, num_devices)))


class Longest(Generator):
    """A generator that knows how long its sources may be."""

    def __init__(self, *_, source, **options):
        self.sources = source


def test_a_longer_source_needs_positions(monkeypatch):
    experiment = load_config_by_name("dates/transformer")
    monkeypatch.setattr("seq2seq_jax.run.system.Generator", Longest)
    monkeypatch.setattr(System, "model", SimpleNamespace(source_position_limit=120))
    system = object.__new__(System)
    system.__dict__ |= {"experiment": experiment, "tokenizer": None, "mesh": None, "_generators": {}}
    method = experiment.generation
    assert system.generator_by(method).max_source_length == experiment.max_source_length
    assert system.generator_by(method, max_source_length=120).max_source_length == 120
    with pytest.raises(ValueError, match="max_source_length must be 1 to 120 tokens, the positions that the encoder"):
        system.generator_by(method, max_source_length=121)
