"""Every encoder, every decoder and every attention, on a mesh of 2 x 2 x 2 and on one device, dropout on."""

import numpy as np
import pytest
from architectures import FAMILIES
from eight_devices import on_eight_devices


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What families_on_meshes.py prints."""
    return on_eight_devices("families_on_meshes.py", str(tmp_path_factory.mktemp("checkpoints")), timeout=900.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mesh_has_the_losses_of_one_device(found, name):
    assert len(set(found[name]["one"])) == 3
    np.testing.assert_allclose(found[name]["all"], found[name]["one"], rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_that_stopped_goes_on_to_the_last_bit_and_on_another_mesh(found, name):
    assert found[name]["resumed"]
    np.testing.assert_allclose(found[name]["moved"], found[name]["one"][-1:], rtol=1e-5)
