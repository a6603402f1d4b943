"""How tests compile: fast, not well. Most of their time goes to compiling small programs, each run once or twice."""

import importlib.metadata
import os
import tempfile

FAST_FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older way to compile what XLA fuses takes half the time; later versions have the newer one alone.
    FAST_FLAGS += " --xla_cpu_use_fusion_emitters=false"

FAST = {
    "XLA_FLAGS": FAST_FLAGS,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
CACHE = "JAX_COMPILATION_CACHE_DIR"


def compile_fast() -> tempfile.TemporaryDirectory | None:
    """Set it for this process and those that it starts, which share what they have compiled; before jax is imported.

    Returns:
        Where that is kept, for the first process that calls this: it goes with the object.
    """
    if FAST.items() <= os.environ.items():
        return None
    directory = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ.update(FAST, **{CACHE: directory.name})
    return directory


def compiling_as_usual() -> dict[str, str]:
    """The environment of a process that compiles as users' do, where what the compiler makes is measured."""
    return {name: value for name, value in os.environ.items() if name not in {*FAST, CACHE}}


def flags_for_devices(count: int) -> str:
    """XLA_FLAGS of a process that has so many devices, and else compiles as this one."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
