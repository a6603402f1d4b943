"""How much memory this process and its devices have taken at most."""

import resource
import sys
from typing import Any

import jax


def peak_memory() -> dict[str, Any]:
    """Peaks since this process began, bytes.

    Returns:
        `device_peak_bytes`, the most of any device, or None where devices do not tell (CPUs); and
        `process_peak_bytes`, resident memory of the process, data, compiler and programs together.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if each and "peak_bytes_in_use" in each]
    # Linux tells kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "device_peak_bytes": max(peaks, default=None),
        "process_peak_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
