"""Policy gradients on meshes of eight devices: the samples, rewards and updates of one device."""

import numpy as np
import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long
CASES = ("self-critical transformer", "moving average", "leave one out LSTM", "adversarial")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What policy_gradient_on_meshes.py prints."""
    return on_eight_devices(tmp_path_factory, "parallel/policy_gradient_on_meshes.py")


@pytest.mark.parametrize("name", CASES)
def test_a_mesh_has_the_numbers_of_one_device(found, name):
    """A mesh of (2, 2, 2), dropout on, two micro-batches."""
    one, many = found[name]["one"], found[name]["all"]
    assert len(set(one["reward"])) == 3 and np.ptp(one["sample_length"]) > 0
    assert one.keys() == many.keys() >= {"reward", "reward_chrf", "entropy", "sampled_tokens", "gradient_norm"}
    for figure, values in one.items():
        np.testing.assert_allclose(many[figure], values, rtol=1e-5, atol=1e-5, err_msg=figure)
