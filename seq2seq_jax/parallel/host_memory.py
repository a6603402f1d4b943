"""How the C library manages the memory in which a CPU computes."""

import ctypes
import glob
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt, from malloc.h."""

ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")
"""What Linux shows of GPUs and TPUs."""


def keep_memory_between_steps() -> bool:
    """Let this process keep what a step frees for the next one; returns whether it does.

    By default glibc gives large blocks back to the system at once. A training step then gets its temporaries as new
    pages, which the system clears and maps again, on one core while the others wait. From here on the process holds
    the most that it ever needed. Where there are accelerators, or another C library, nothing changes.

    Must come before JAX starts its backend: threads that have a heap of their own keep it. So it looks at the machine
    instead of asking JAX for its devices.

    Source: mallopt(3).
    """
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(glob.glob, ACCELERATORS))
    if not on_cpu or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks that are mapped one by one, and heaps of single threads, go back whatever the threshold.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
    return all([mallopt(*setting) for setting in settings.items()])  # noqa: C419 - all are called
