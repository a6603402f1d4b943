"""A mixture of experts on eight devices and in micro-batches: the responsibilities and numbers of one device."""

import numpy as np
import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Mesh and number of micro-batches -> metrics and start tokens; mesh -> texts."""
    return on_eight_devices(tmp_path_factory, "parallel/mixture_of_experts_on_meshes.py")


@pytest.mark.parametrize("other", ["one 2", "all 1", "all 2"])
def test_meshes_and_micro_batches_change_no_number(trained, other):
    expected, found = trained["one 1"], trained[other]
    for left, right in zip(found["metrics"], expected["metrics"], strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    np.testing.assert_allclose(found["offsets"], expected["offsets"], rtol=1e-3, atol=1e-6)
    fractions = [expected["metrics"][-1][f"expert_{expert}_fraction"] for expert in range(3)]
    assert sum(fraction > 0.05 for fraction in fractions) >= 2


def test_every_mesh_generates_the_same_texts(trained):
    assert trained["one"] == trained["all"]
    assert all(len(texts) == 3 for texts in trained["one"])
