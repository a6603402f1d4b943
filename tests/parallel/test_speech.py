"""Models of speech train alike on every mesh, dropout and SpecAugment on."""

import numpy as np
import pytest
from eight_devices import on_eight_devices
from speech import MODELS

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    return on_eight_devices(tmp_path_factory, "parallel/speech_on_meshes.py")


@pytest.mark.parametrize("mesh", ["fsdp and tensor", "data, fsdp and tensor"])
@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_one_device(losses, name, mesh):
    np.testing.assert_allclose(losses[f"{name} {mesh}"], losses[f"{name} one"], rtol=1e-5)
    assert len(set(losses[f"{name} one"])) == 4
