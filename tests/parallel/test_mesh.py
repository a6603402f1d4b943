"""Meshes: what is refused, and eight devices in a process of their own, which compute what one device does."""

import jax
import numpy as np
import pytest
from devices import Device, hosts
from eight_devices import on_eight_devices
from jax.sharding import Mesh

from seq2seq_jax.parallel.mesh import AXES, MeshConfig, batch_shards, rows_of_process


def mesh_of(*sizes):
    return MeshConfig(**dict(zip(AXES, sizes, strict=True)))


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (-1, -1, 1, 1), (1, -2, 1, 1), (-1, 1, 1, -1)])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(ValueError, match=r"^mesh sizes must be at least 1, one of them may be -1 [^\n]*$"):
        mesh_of(*sizes)


@pytest.mark.parametrize(
    ("sizes", "num_devices", "message"),
    [
        ((2, 2, 2, 1), 7, r"mesh \(2, 2, 2, 1\) [^\n]*needs 8 devices, and there are 7"),
        ((1, 2, 1, 2), 8, r"mesh \(1, 2, 1, 2\) [^\n]*needs 4 devices, and there are 8"),
        ((-1, 3, 1, 1), 8, r"mesh \(-1, 3, 1, 1\) [^\n]*cannot be made of 8 devices"),
        ((1, -1, 16, 1), 8, r"mesh \(1, -1, 16, 1\) [^\n]*cannot be made of 8 devices"),
    ],
)
def test_a_mesh_that_the_devices_do_not_make_up_is_refused(sizes, num_devices, message):
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        mesh_of(*sizes).build(jax.devices()[:1] * num_devices)


def test_a_mesh_of_one_device():
    mesh = MeshConfig().build(jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert batch_shards(mesh) == 1


@pytest.mark.parametrize(
    ("sizes", "within"),
    [((4, 8, 1, 1), ("fsdp",)), ((4, 2, 4, 1), ("fsdp", "tensor")), ((16, 1, 1, 2), ("sequence",))],
)
def test_data_goes_across_hosts_and_the_rest_stays_within(sizes, within):
    mesh = mesh_of(*sizes).build(hosts(4, 8))
    hosts_of = np.vectorize(lambda device: device.process_index)(mesh.devices)
    for dim, axis in enumerate(AXES):
        constant = (hosts_of == np.take(hosts_of, [0], axis=dim)).all()
        assert constant == (axis != "data"), axis
    assert set(within) <= {axis for axis, size in mesh.shape.items() if size > 1}


def test_fsdp_goes_across_hosts_where_data_does_not():
    mesh = mesh_of(1, 16, 2, 1).build(hosts(4, 8))
    hosts_of = np.vectorize(lambda device: device.process_index)(mesh.devices)[0, :, :, 0]
    assert (hosts_of[:, 0] == hosts_of[:, 1]).all()
    assert [len(set(hosts_of[start : start + 4, 0])) for start in range(0, 16, 4)] == [1] * 4


def test_hosts_that_no_axis_can_go_across_are_refused():
    with pytest.raises(ValueError, match=r"^mesh \(1, 1, 24, 1\) [^\n]*over 5 hosts or slices[^\n]*multiple of 5\.$"):
        mesh_of(1, 1, 24, 1).build([*hosts(4, 5), *(Device(id=20 + index, process_index=4) for index in range(4))])


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ((4, 8, 1, 1), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 1, 16, 1), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 1, 32, 1), [(0, 1)] * 4),
        ((1, 2, 1, 16), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_processes_share_the_rows_as_their_devices_do(monkeypatch, sizes, shares):
    mesh = mesh_of(*sizes).build(hosts(4, 8))
    found = []
    for index in range(4):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        found.append(rows_of_process(mesh))
    assert found == shares


def test_a_process_whose_rows_lie_apart_makes_the_share_that_holds_them(monkeypatch):
    """Of 8 shards of rows, process 0 has the 0th and the 2nd: both lie in the first half."""
    order = [0, 2, 1, 3, 4, 5, 6, 7]
    devices = [hosts(4, 2)[index] for index in order]
    mesh = Mesh(np.array(devices).reshape(8, 1, 1, 1), AXES)
    found = []
    for index in range(4):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        found.append(rows_of_process(mesh))
    assert found == [(0, 2), (0, 2), (2, 4), (3, 4)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What on_meshes.py prints."""
    return on_eight_devices(tmp_path_factory, "parallel/on_meshes.py")


@pytest.mark.long
@pytest.mark.parametrize("mesh", ["data", "fsdp", "all"])
def test_every_mesh_has_the_losses_of_one_device(found, mesh):
    losses = found["losses"]["one"]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2
    np.testing.assert_allclose(found["losses"][mesh], losses, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("way", ["data to all", "all to fsdp", "fsdp to one"])
def test_a_run_goes_on_on_another_mesh_with_the_same_losses(found, way):
    np.testing.assert_allclose(found["continued"][way], found["losses"]["one"][10:], rtol=1e-5)


@pytest.mark.long
def test_a_device_holds_its_share_of_the_parameters(found):
    """All of them with data; with fsdp an eighth of what has a model dim; with fsdp and tensor of 2, a quarter."""
    assert found["shares"]["one"] == found["shares"]["data"] == 1.0
    assert 1 / 8 <= found["shares"]["fsdp"] < 0.25
    assert 1 / 4 <= found["shares"]["all"] < 0.4


@pytest.mark.long
def test_rows_are_divided_over_data_and_fsdp(found):
    assert found["batch_shards"] == {"one": 1, "data": 8, "fsdp": 8, "all": 4}


@pytest.mark.long
def test_the_rest_of_the_devices_goes_where_the_size_is_open(found):
    assert found["meshes"] == {
        "(-1, 1, 1, 1)": [8, 1, 1, 1],
        "(2, -1, 2, 1)": [2, 2, 2, 1],
        "(1, 1, -1, 1)": [1, 1, 8, 1],
        "(1, 2, 1, -1)": [1, 2, 1, 4],
    }


@pytest.mark.long
@pytest.mark.parametrize(("what", "num_texts"), [("beam", 2), ("sampling", 2), ("diverse", 2), ("together", 1)])
def test_generation_on_a_mesh_equals_that_on_one_device(found, what, num_texts):
    """By several methods, and by an ensemble."""
    on_one, on_all = (found["generated"][mesh][what] for mesh in ("one", "all"))
    assert [len(best) for best in on_one] == [num_texts] * 5
    assert len({text for best in on_one for text, _ in best}) > 3
    for expected, best in zip(on_one, on_all, strict=True):
        assert [text for text, _ in best] == [text for text, _ in expected]
        np.testing.assert_allclose([value for _, value in best], [value for _, value in expected], rtol=1e-4)


@pytest.mark.long
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


@pytest.mark.long
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
