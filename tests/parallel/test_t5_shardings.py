"""What the compiled programs of the large configs hold whole on every device."""

import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long


CONFIGS = ("c4_span_corruption/t5_large", "c4_span_corruption/t5_3b", "c4_span_corruption/t5_11b")


@pytest.mark.parametrize("config", CONFIGS)
def test_fsdp_divides_every_large_parameter_and_moment(config, tmp_path_factory):
    """Over a mebibyte; the factored moments of Adafactor are among them."""
    found = on_eight_devices(tmp_path_factory, "parallel/t5_shardings.py", *CONFIGS)[config]
    assert found["whole"] == []
    assert found["large"] > 20
