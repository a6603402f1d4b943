"""Which meshes a system refuses."""

import dataclasses

import pytest
from devices import hosts

from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.run.system import check_mesh


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
