"""Products of rows on a mesh: their activations stay on the devices that have them, and gradients are those of one."""

import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_eight_devices(tmp_path_factory, "parallel/products_of_rows.py")


def test_gradients_of_recurrent_layers_gather_no_activations(found):
    for precision in ("bfloat16", "float32"):
        assert set(found[precision]) == {"all-reduce"}
    # With length and batch merged, every device gathers all rows.
    assert found["merged"]["all-gather"] > 0


def test_gradients_of_two_products_on_all_dims_of_a_mesh(found):
    assert max(found["errors"]["float32"]) < 1e-5
    assert max(found["errors"]["bfloat16_products"]) < 1e-2
