"""Devices that are not there, for meshes that nothing runs on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "H100"


def hosts(num_hosts: int, devices_each: int) -> list[Device]:
    """The devices of several hosts, as many in each."""
    return [Device(id=index, process_index=index // devices_each) for index in range(num_hosts * devices_each)]
