"""Meshes: what is refused, and eight devices in a process of their own, which compute what one device does."""

import jax
import numpy as np
import pytest
from eight_devices import on_eight_devices

from seq2seq_jax.parallel.mesh import MeshConfig, batch_shards


@pytest.mark.parametrize("sizes", [(0, 1, 1), (-1, -1, 1), (1, -2, 1), (-1, 1, -1)])
def test_sizes_that_make_no_sense_are_refused(sizes):
    data, fsdp, tensor = sizes
    with pytest.raises(ValueError, match=r"^mesh sizes must be at least 1, one of them may be -1 [^\n]*$"):
        MeshConfig(data=data, fsdp=fsdp, tensor=tensor)


@pytest.mark.parametrize(
    ("sizes", "num_devices", "message"),
    [
        ((2, 2, 2), 7, r"mesh \(2, 2, 2\) [^\n]*needs 8 devices, and there are 7"),
        ((-1, 3, 1), 8, r"mesh \(-1, 3, 1\) [^\n]*cannot be made of 8 devices"),
        ((1, -1, 16), 8, r"mesh \(1, -1, 16\) [^\n]*cannot be made of 8 devices"),
    ],
)
def test_a_mesh_that_the_devices_do_not_make_up_is_refused(sizes, num_devices, message):
    data, fsdp, tensor = sizes
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[:1] * num_devices)


def test_a_mesh_of_one_device():
    mesh = MeshConfig().build(jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert batch_shards(mesh) == 1


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What on_meshes.py prints."""
    return on_eight_devices("on_meshes.py", str(tmp_path_factory.mktemp("checkpoints")))


@pytest.mark.parametrize("mesh", ["data", "fsdp", "all"])
def test_every_mesh_has_the_losses_of_one_device(found, mesh):
    losses = found["losses"]["one"]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2
    np.testing.assert_allclose(found["losses"][mesh], losses, rtol=1e-5)


@pytest.mark.parametrize("way", ["data to all", "all to fsdp", "fsdp to one"])
def test_a_run_goes_on_on_another_mesh_with_the_same_losses(found, way):
    np.testing.assert_allclose(found["continued"][way], found["losses"]["one"][10:], rtol=1e-5)


def test_a_device_holds_its_share_of_the_parameters(found):
    """All of them with data; with fsdp an eighth of what has a model dim; with fsdp and tensor of 2, a quarter."""
    assert found["shares"]["one"] == found["shares"]["data"] == 1.0
    assert 1 / 8 <= found["shares"]["fsdp"] < 0.25
    assert 1 / 4 <= found["shares"]["all"] < 0.4


def test_rows_are_divided_over_data_and_fsdp(found):
    assert found["batch_shards"] == {"one": 1, "data": 8, "fsdp": 8, "all": 4}


def test_the_rest_of_the_devices_goes_where_the_size_is_open(found):
    assert found["meshes"] == {
        "(-1, 1, 1)": {"data": 8, "fsdp": 1, "tensor": 1},
        "(2, -1, 2)": {"data": 2, "fsdp": 2, "tensor": 2},
        "(1, 1, -1)": {"data": 1, "fsdp": 1, "tensor": 8},
        "(1, 1, 2)": {"data": 1, "fsdp": 1, "tensor": 2},
    }


def test_generation_on_a_mesh_equals_that_on_one_device(found):
    on_one, on_all = found["generated"]["one"], found["generated"]["all"]
    assert [len(best) for best in on_one] == [2] * 5
    assert len({text for best in on_one for text, _ in best}) > 3
    for expected, best in zip(on_one, on_all, strict=True):
        assert [text for text, _ in best] == [text for text, _ in expected]
        np.testing.assert_allclose([value for _, value in best], [value for _, value in expected], rtol=1e-4)


def test_logical_axes_decide_how_parameters_lie(found):
    """Model dim 18, 3 heads, 32 hidden, 21 ids on a mesh of 2 x 2 x 2: 3 and 21 cannot be divided, so are whole."""
    layout = found["layouts"]
    feed_forward = "params/decoder/layer/feed_forward"
    assert layout[f"{feed_forward}/expand/kernel"] == [[2, 18, 32], [None, "fsdp", "tensor"]]
    assert layout[f"{feed_forward}/contract/kernel"] == [[2, 32, 18], [None, "tensor", "fsdp"]]
    assert layout[f"{feed_forward}/expand/bias"] == [[2, 32], [None, "tensor"]]
    assert layout["params/decoder/layer/cross_attention/query/kernel"] == [[2, 18, 3, 6], [None, "fsdp", None, None]]
    assert layout["params/target_embedding/table"] == [[21, 18], [None, "fsdp"]]
    assert layout["params/encoder/frame/norm/scale"] == [[18], [None]]


def test_factored_moments_lie_as_the_dims_that_they_keep(found):
    """Of the table [21, 18] Adafactor keeps [18], of the model dim, and [21], of the ids, which 2 does not divide."""
    moments = {path.removeprefix("moments/0/"): layout for path, layout in found["layouts"].items()}
    assert moments["v_row/target_embedding/table"] == [[18], ["fsdp"]]
    assert moments["v_col/target_embedding/table"] == [[21], [None]]
    feed_forward = "decoder/layer/feed_forward"
    assert moments[f"v_row/{feed_forward}/expand/kernel"] == [[2, 18], [None, "fsdp"]]
    assert moments[f"v_col/{feed_forward}/expand/kernel"] == [[2, 32], [None, "tensor"]]
    # A bias is not factored: its moments lie as it does, and there is one number in the place of rows and columns.
    assert moments[f"v/{feed_forward}/expand/bias"] == [[2, 32], [None, "tensor"]]
    assert moments[f"v_row/{feed_forward}/expand/bias"] == [[1], [None]]
