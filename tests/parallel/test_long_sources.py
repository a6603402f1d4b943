"""A sequence axis changes no number, and takes memory off each device."""

import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What long_sources_on_meshes.py prints."""
    return on_eight_devices(tmp_path_factory, "parallel/long_sources_on_meshes.py")


@pytest.mark.parametrize("model", ["transformer", "blocked", "relative", "recurrent", "convolutional"])
def test_outputs_and_gradients_are_those_of_one_device(found, model):
    """Of a Transformer with 4,096 source tokens, plain and in blocks, others with fewer, on the mesh (1, 1, 2, 4)."""
    for part, difference in found[model]["differences"]["sequence"].items():
        assert difference < 1e-5 * max(1.0, found[model]["largest"][part]), part
        assert found[model]["largest"][part] > 0.01, part


def test_four_parts_of_the_length_take_a_quarter_of_the_memory(found):
    """Measured, on all scores at once: 1,088 MiB a device on (1, 1, 2, 1), 250 MiB on (1, 1, 2, 4)."""
    memory = found["transformer"]["memory"]
    assert memory["sequence"] < 0.3 * memory["tensor"]


def test_blocks_of_queries_take_less_on_every_mesh(found):
    """Measured: 90 MiB a device on (1, 1, 2, 1), 50 MiB on (1, 1, 2, 4)."""
    for mesh, divisor in (("one", 8), ("tensor", 8), ("sequence", 4)):
        assert divisor * found["blocked"]["memory"][mesh] < found["transformer"]["memory"][mesh]
    assert found["blocked"]["memory"]["sequence"] < 0.7 * found["blocked"]["memory"]["tensor"]
