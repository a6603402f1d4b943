"""What the compiled programs of the large configs hold whole on every device."""

import pytest
from eight_devices import on_eight_devices


@pytest.mark.parametrize("size", ["large", "3b", "11b"])
def test_fsdp_divides_every_large_parameter_and_moment(size):
    """Over a mebibyte; the factored moments of Adafactor are among them."""
    found = on_eight_devices("t5_shardings.py", f"c4_span_corruption/t5_{size}")
    assert found["whole"] == []
    assert found["large"] > 20
