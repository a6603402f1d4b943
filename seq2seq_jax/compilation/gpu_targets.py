"""NVIDIA GPUs that are not attached, as XLA's GPU compiler is told of them."""

import dataclasses
import importlib.metadata
import importlib.util
from typing import Any

from jax.experimental import topologies

from seq2seq_jax.modules.fused_attention import Target
from seq2seq_jax.parallel.chips import CHIPS
from seq2seq_jax.parallel.gpu_flags import PLUGINS

GPUS_PER_HOST = 8

DEFAULT_CUDNN = 91_900
"""The version that is assumed where cuDNN is not a package of Python."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Properties:
    """Device properties of a GPU, in the words of CUDA (cudaDeviceProp); see `seq2seq_jax.parallel.chips` for rates.

    Attributes:
        description: the device's name.
        capability: compute capability, (major, minor).
        multiprocessors: number of streaming multiprocessors.
        float_units: float32 units per multiprocessor.
        shared_memory_per_block: bytes that a block may opt in to.
        shared_memory_per_multiprocessor: bytes.
        l2_cache: bytes.
        clock: boost clock of a multiprocessor, in GHz.
        memory: bytes that the driver reports; a little less or more than the datasheet's.
    """

    description: str
    capability: tuple[int, int]
    multiprocessors: int
    float_units: int
    shared_memory_per_block: int
    shared_memory_per_multiprocessor: int
    l2_cache: int
    clock: float
    memory: int

    @property
    def compute_capability(self) -> str:
        """Such as "9.0"."""
        return "{}.{}".format(*self.capability)


HOPPER = {
    "capability": (9, 0),
    "multiprocessors": 132,
    "float_units": 128,
    "shared_memory_per_block": 232_448,
    "shared_memory_per_multiprocessor": 233_472,
    "l2_cache": 52_428_800,
    "clock": 1.98,
}

PROPERTIES = {
    # NVIDIA A100 whitepaper (108 multiprocessors of 64 float32 units, L2 of 40 MiB, 1,410 MHz); CUDA C++ programming
    # guide, technical specifications by compute capability (8.0: 164 KiB per multiprocessor, 163 KiB per block).
    "a100": Properties(
        description="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        multiprocessors=108,
        float_units=64,
        shared_memory_per_block=166_912,
        shared_memory_per_multiprocessor=167_936,
        l2_cache=41_943_040,
        clock=1.41,
        memory=80 * 10**9,
    ),
    # NVIDIA H100 whitepaper (SXM5: 132 multiprocessors of 128 float32 units, L2 of 50 MiB); CUDA C++ programming guide
    # (9.0: 228 KiB per multiprocessor, 227 KiB per block); memory and clock as the drivers of an H100 and an H200
    # report.
    "h100": Properties(description="NVIDIA H100 80GB HBM3", memory=84_942_979_072, **HOPPER),
    "h200": Properties(description="NVIDIA H200", memory=151_397_597_184, **HOPPER),
    # NVIDIA HGX B200 datasheet (180 GB); CUDA C++ programming guide (10.0: 228 KiB per multiprocessor, 227 KiB per
    # block); 148 multiprocessors, an L2 of about 132 MB and 1,965 MHz as devices report them.
    "b200": Properties(
        description="NVIDIA B200",
        capability=(10, 0),
        multiprocessors=148,
        float_units=128,
        shared_memory_per_block=232_448,
        shared_memory_per_multiprocessor=233_472,
        l2_cache=132_000_000,
        clock=1.965,
        memory=180 * 10**9,
    ),
}
"""By the chip's name."""


def installed_plugin() -> str | None:
    """The module of jax's CUDA plugin, with which XLA's GPU compiler comes; None = it is not installed."""
    return next((name for name in PLUGINS if importlib.util.find_spec(name)), None)


def installation() -> str:
    """The command that installs the plugin of the installed jax."""
    return f'pip install "jax[cuda13]=={importlib.metadata.version("jax")}"'


def devices(name: str, count: int) -> list[Any]:
    """GPUs of one kind, in whole hosts or in one that is partly used.

    Raises:
        RuntimeError: the compiler does not accept the description.
    """
    hosts = -(-count // GPUS_PER_HOST)
    description = topologies.get_topology_desc(
        platform="cuda",
        topology_name=name,
        topology=f"{hosts}x1x{count // hosts}",
        target_config=target_config(name),
    )
    return list(description.devices)


def attention_target(name: str) -> Target:
    """What the bindings of cuDNN's attention ask of a device."""
    return Target(capability=PROPERTIES[name].compute_capability, cudnn_version=_cudnn_version())


def target_config(name: str) -> str:
    """XLA's GpuTargetConfigProto of a GPU, in text form (xla/stream_executor/device_description.proto)."""
    gpu = PROPERTIES[name]
    major, minor = gpu.capability
    # Instructions of one architecture alone (wgmma, tcgen05), which XLA assumes from Hopper on.
    accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    cuda = 13 if installed_plugin() == "jax_cuda13_plugin" else 12
    cudnn_major, cudnn_minor = divmod(_cudnn_version() // 100, 100)
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_memory_per_multiprocessor}
  shared_memory_per_block_optin: {gpu.shared_memory_per_block}
  threads_per_core_limit: 2048
  core_count: {gpu.multiprocessors}
  fpus_per_core: {gpu.float_units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {int(CHIPS[name].memory_bandwidth)}
  l2_cache_size: {gpu.l2_cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn_major} minor: {cudnn_minor} }}
runtime_version {{ major: {cuda} minor: 0 patch: 0 }}
device_description_str: "{gpu.description}"
"""


def _cudnn_version() -> int:
    """Of the installed cuDNN, as it counts itself: 91900 is 9.19.0."""
    for package in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"):
        try:
            major, minor, patch = importlib.metadata.version(package).split(".")[:3]
        except importlib.metadata.PackageNotFoundError:
            continue
        return 10_000 * int(major) + 100 * int(minor) + int(patch)
    return DEFAULT_CUDNN
