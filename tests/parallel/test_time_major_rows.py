"""Recurrent layers on a mesh: their activations [length, batch, features] stay on the devices that have them."""

import pytest
from eight_devices import on_eight_devices


@pytest.mark.long
def test_gradients_of_recurrent_layers_gather_no_activations(tmp_path_factory):
    found = on_eight_devices(tmp_path_factory, "parallel/time_major_rows.py")
    for precision in ("bfloat16", "float32"):
        assert set(found[precision]) == {"all-reduce"}
    # With length and batch merged, every device gathers all rows.
    assert found["merged"]["all-gather"] > 0
