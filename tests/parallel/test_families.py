"""Every encoder, every decoder and every attention, on a mesh of 2 x 2 x 2 and on one device, dropout on."""

import numpy as np
import pytest
from architectures import FAMILIES, MORE_FAMILIES
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long
deep = pytest.mark.deep("seq2seq_jax.decoders.recurrent", "seq2seq_jax.parallel.mesh")
every_family = pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=deep) for name in MORE_FAMILIES)])


@pytest.fixture
def found(name, tmp_path_factory):
    """What families_on_meshes.py prints, of the family and those that run with it."""
    families = FAMILIES if name in FAMILIES else MORE_FAMILIES
    return on_eight_devices(tmp_path_factory, "parallel/families_on_meshes.py", *families)[name]


@every_family
def test_a_mesh_has_the_losses_of_one_device(found):
    assert len(set(found["one"])) == 3
    np.testing.assert_allclose(found["all"], found["one"], rtol=1e-5)


@every_family
def test_a_run_that_stopped_goes_on_to_the_last_bit_and_on_another_mesh(found):
    assert found["resumed"]
    np.testing.assert_allclose(found["moved"], found["one"][-1:], rtol=1e-5)
