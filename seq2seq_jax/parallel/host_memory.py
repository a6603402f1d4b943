"""Memory management of the C library, for computation on CPUs."""

import ctypes
import glob
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt, from malloc.h."""

ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")
"""Device files of GPUs and TPUs on Linux."""


def keep_memory_between_steps() -> bool:
    """Let this process keep memory that a step frees for the next step; returns whether it does.

    By default glibc returns large blocks to the system at once. The temporaries of the next training step are then new
    pages, which the system clears and maps on one core while the others wait. After this call the process keeps its
    peak memory. If there are accelerators, or another C library, nothing changes.

    Must be called before JAX starts its backend, as threads keep the heaps that they already have. It therefore looks
    for device files instead of asking JAX for its devices.

    Source: mallopt(3).
    """
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(glob.glob, ACCELERATORS))
    if not on_cpu or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks with their own mapping, and heaps of single threads, are returned whatever the threshold.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
    return all([mallopt(*setting) for setting in settings.items()])  # noqa: C419 - all are called
