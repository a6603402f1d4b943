"""Reading another project's checkpoint onto a mesh."""

import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long


def test_devices_read_each_byte_once_and_exchange_what_others_hold(tmp_path_factory):
    """What a device holds of a transposed kernel lies all over the file."""
    found = on_eight_devices(tmp_path_factory, "parallel/reading_on_meshes.py")
    assert found["equal"]
    assert found["read"] == found["size"]
