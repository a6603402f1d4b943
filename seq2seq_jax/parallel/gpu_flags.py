"""XLA flags for NVIDIA GPUs, set before JAX starts, if this version of XLA knows them."""

import glob
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, MutableMapping

FLAGS = {
    # Collectives between GPUs overlap with computation.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
    # Two iterations of a loop over layers at a time, so that the next layer's parameters are gathered during this one.
    "xla_gpu_enable_while_loop_double_buffering": "true",
}
"""Name -> value of the flags to set."""

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")

PROBE_TIMEOUT = 120
"""Seconds."""


def is_for_gpu(environment: Mapping[str, str]) -> bool:
    """Whether JAX will run on NVIDIA GPUs, as far as can be determined without starting it."""
    platforms = environment.get("JAX_PLATFORMS", "")
    requested = not platforms or bool({"cuda", "gpu"} & set(platforms.split(",")))
    plugin = any(importlib.util.find_spec(name) for name in PLUGINS)
    return requested and plugin and bool(glob.glob("/dev/nvidia[0-9]*"))


def known(flags: Iterable[str], environment: Mapping[str, str]) -> bool:
    """Whether XLA accepts flags: an unknown flag aborts the process, so a subprocess tries them."""
    tried = {**environment, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"],
            env=tried,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def set_flags(environment: MutableMapping[str, str] = os.environ, *, wanted: Mapping[str, str] = FLAGS) -> list[str]:
    """`add_flags`, if there are GPUs."""
    return add_flags(environment, wanted=wanted) if is_for_gpu(environment) else []


def add_flags(environment: MutableMapping[str, str], *, wanted: Mapping[str, str] = FLAGS) -> list[str]:
    """Add to XLA_FLAGS the wanted flags that this XLA knows and the user has not set.

    Must be called before the first use of a device. Takes one to two seconds.

    Returns:
        The added flags.
    """
    given = environment.get("XLA_FLAGS", "")
    names = set(re.findall(r"--(\w+)", given))
    new = [f"--{name}={value}" for name, value in wanted.items() if name not in names]
    if new and not known(new, environment):
        new = [flag for flag in new if known([flag], environment)]
    if new:
        environment["XLA_FLAGS"] = " ".join([given, *new]).strip()
    return new
