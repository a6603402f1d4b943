"""Explicit collectives compute what XLA's own do, on eight devices; which parameters and devices have them."""

import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import on_eight_devices
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from seq2seq_jax.parallel.mesh import AXES
from seq2seq_jax.parallel.sharded_product import _from_tiles, _layout, _stages, _tiles, communicates_explicitly


def mesh(fsdp=8, tensor=1, *, kind="TPU v5", platform="tpu", data=1, axis_types=(AxisType.Auto,) * 4):
    """An abstract mesh of such devices."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return AbstractMesh((data, fsdp, tensor, 1), AXES, axis_types=axis_types, abstract_device=device)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Result and gradients of the same products, as XLA communicates and explicitly."""
    return on_eight_devices(tmp_path_factory, "parallel/products_on_meshes.py")


@pytest.mark.long
def test_results_and_gradients_are_those_of_xla_s_own_collectives(products):
    for case in products:
        plain, explicit = case["plain"][0], case["explicit"][0]
        assert plain.keys() == explicit.keys() and len(plain) == 12
        # Sums in another order: seven roundings of a float32, or those of sums of 24 terms in bfloat16.
        tolerance = 1e-6 if case["precision"] == "float32" else 2e-2
        for name, expected in plain.items():
            size = np.abs(expected).max()
            np.testing.assert_allclose(explicit[name], expected, rtol=0, atol=tolerance * size, err_msg=name)


@pytest.mark.long
def test_each_parameter_is_gathered_once_and_its_gradient_scattered_once(products):
    """Five parameters, in two stages where all devices hold shards; what was gathered is kept for the backward pass."""
    for case in products:
        stages = 2 if case["mesh"] == [1, 8, 1, 1] else 1
        assert case["explicit"][1] == {"all_gather": 5 * stages, "reduce_scatter": 5 * stages}
        assert case["plain"][1] == {"all_gather": 0, "reduce_scatter": 0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"kind": "TPU v5p"}, True),
        ({"kind": "TPU v5 lite"}, False),
        ({"platform": "cpu", "kind": "cpu"}, False),
        ({"platform": "gpu", "kind": "NVIDIA H200"}, False),
        ({"fsdp": 1, "data": 8}, False),
    ],
)
def test_only_tpus_of_some_kinds_communicate_explicitly(given, expected):
    assert communicates_explicitly(mesh(**given)) is expected


def test_the_layout_of_a_product():
    """Heads [model, heads, head_dim] of x [batch, length, model]."""
    layout = _layout(mesh(4, 2), (8, 6, 16), (16, 4, 32), ("model", "heads", "head_dim"), 1)
    assert layout.parameter == PartitionSpec("fsdp", "tensor", None)
    assert layout.gathered == PartitionSpec(None, "tensor", None)
    assert layout.inputs == PartitionSpec(("data", "fsdp"), "sequence", None)
    assert layout.outputs == PartitionSpec(("data", "fsdp"), "sequence", "tensor", None)
    assert (layout.dim, layout.sums_outputs, layout.sums_inputs, layout.in_two_stages) == (0, False, True, False)
    output = _layout(mesh(8), (8, 6, 4, 32), (4, 32, 16), ("heads", "head_dim", "model"), 2)
    assert (output.dim, output.sums_outputs, output.sums_inputs, output.in_two_stages) == (2, False, False, True)


@pytest.mark.parametrize(
    ("given", "x_shape", "shape", "axes"),
    [
        ({}, (8, 6, 12), (12, 16), ("model", "hidden")),
        ({}, (6, 6, 16), (16, 16), ("model", "hidden")),
        ({"tensor": 3}, (24, 6, 16), (16, 16), ("model", "hidden")),
        ({}, (8, 6, 16), (16, 16), (None, "hidden")),
        ({}, (8, 16), (16, 16), ("model", "hidden")),
        ({"axis_types": (AxisType.Manual, *(AxisType.Auto,) * 3)}, (8, 6, 16), (16, 16), ("model", "hidden")),
    ],
    ids=["model dim", "rows", "hidden dim", "no fsdp", "no length", "inside shard_map"],
)
def test_what_a_mesh_does_not_divide_is_left_to_xla(given, x_shape, shape, axes):
    assert _layout(mesh(**given), x_shape, shape, axes, 1) is None


def test_two_stages_bring_each_device_its_own_shard():
    """Scattering 8 parts among every other device, then among pairs, leaves part i on device i."""
    layout = _layout(mesh(8), (8, 6, 16), (16, 16), ("model", "hidden"), 1)
    held = {device: list(range(8)) for device in range(8)}
    for groups in _stages(layout):
        assert sorted(device for group in groups for device in group) == list(range(8))
        for group in groups:
            for place, device in enumerate(group):
                size = len(held[device]) // len(group)
                held[device] = held[device][place * size : (place + 1) * size]
    assert held == {device: [device] for device in range(8)}


@pytest.mark.parametrize(
    ("shape", "dim", "lanes"), [((4, 256), 0, 128), ((256, 4), 1, 128), ((2, 64, 4), 2, 128), ((3, 5), 1, 3)]
)
def test_tiles_are_whole_and_their_inverse_is_exact(shape, dim, lanes):
    array = jnp.arange(float(np.prod(shape))).reshape(shape)
    tiles = _tiles(array, dim)
    assert tiles.shape == (shape[dim], array.size // shape[dim] // lanes, lanes)
    np.testing.assert_array_equal(_from_tiles(tiles, list(shape), dim), array)
    # An element of the dim is whole tiles, so that a shard of the dim is too.
    np.testing.assert_array_equal(np.sort(tiles[1].ravel()), np.sort(np.asarray(array).take(1, dim).ravel()))
