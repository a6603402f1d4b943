"""Peak rates and memory of chips: published values of accelerators, measured FLOPs per second of CPUs."""

import dataclasses
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Published specifications of one chip. Rates are peaks, which no program reaches.

    Attributes:
        name: as in a topology ("v5p").
        device_kinds: `device_kind` of all jax devices with this peak rate.
        flops: bfloat16 floating-point operations per second, without sparsity.
        memory: bytes of high-bandwidth memory.
        memory_bandwidth: bytes per second.
        interconnect_bandwidth: bytes per second that it can send over all of its links to neighbours (TPU), or to the
            other chips of its host (GPU).
        network_bandwidth: bytes per second that it can send to chips of other hosts, if these are reached over another
            network; None = over the same links.
        source: where the values are published.
    """

    name: str
    device_kinds: tuple[str, ...]
    flops: float
    memory: float
    memory_bandwidth: float
    interconnect_bandwidth: float
    network_bandwidth: float | None = None
    source: str


GIBIBYTE = 2.0**30

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            device_kinds=("TPU v4",),
            flops=275e12,
            memory=32 * GIBIBYTE,
            memory_bandwidth=1.2e12,
            interconnect_bandwidth=300e9,
            source="docs.cloud.google.com/tpu/docs/v4; Jouppi et al. 2023, table 4 (6 links of 50 GB/s)",
        ),
        Chip(
            name="v5e",
            device_kinds=("TPU v5 lite", "TPU v5e"),
            flops=197e12,
            memory=16e9,
            memory_bandwidth=819e9,
            interconnect_bandwidth=200e9,
            source="docs.cloud.google.com/tpu/docs/v5e (400 GB/s in both directions together)",
        ),
        Chip(
            name="v5p",
            device_kinds=("TPU v5", "TPU v5p"),
            flops=459e12,
            memory=95 * GIBIBYTE,
            memory_bandwidth=2.765e12,
            interconnect_bandwidth=600e9,
            source="docs.cloud.google.com/tpu/docs/v5p (1,200 GB/s in both directions together)",
        ),
        Chip(
            name="v6e",
            device_kinds=("TPU v6 lite", "TPU v6e"),
            flops=918e12,
            memory=32e9,
            memory_bandwidth=1.638e12,
            interconnect_bandwidth=400e9,
            source="docs.cloud.google.com/tpu/docs/v6e (800 GB/s in both directions together)",
        ),
        Chip(
            name="a100",
            device_kinds=(
                "NVIDIA A100-SXM4-40GB",
                "NVIDIA A100-SXM4-80GB",
                "NVIDIA A100-PCIE-40GB",
                "NVIDIA A100 80GB PCIe",
            ),
            flops=312e12,
            memory=80e9,
            memory_bandwidth=2.039e12,
            interconnect_bandwidth=300e9,
            network_bandwidth=25e9,
            source="NVIDIA A100 80GB SXM datasheet (NVLink 600 GB/s in both directions together); DGX A100 datasheet "
            "(8 compute adapters of 200 Gb/s for 8 GPUs)",
        ),
        Chip(
            name="h100",
            device_kinds=("NVIDIA H100 80GB HBM3",),
            flops=989e12,
            memory=80e9,
            memory_bandwidth=3.35e12,
            interconnect_bandwidth=450e9,
            network_bandwidth=50e9,
            source="NVIDIA H100 SXM datasheet (1,979 TFLOP/s with sparsity; NVLink 900 GB/s in both directions "
            "together); DGX H100 datasheet (8 compute adapters of 400 Gb/s for 8 GPUs)",
        ),
        Chip(
            name="h200",
            device_kinds=("NVIDIA H200",),
            flops=989e12,
            memory=141e9,
            memory_bandwidth=4.8e12,
            interconnect_bandwidth=450e9,
            network_bandwidth=50e9,
            source="NVIDIA H200 SXM datasheet (1,979 TFLOP/s with sparsity; NVLink 900 GB/s in both directions "
            "together); DGX H200 datasheet (8 compute adapters of 400 Gb/s for 8 GPUs)",
        ),
        Chip(
            name="b200",
            device_kinds=("NVIDIA B200",),
            flops=2.25e15,
            memory=180e9,
            memory_bandwidth=8e12,
            interconnect_bandwidth=900e9,
            network_bandwidth=50e9,
            source="NVIDIA HGX B200 datasheet (36 PFLOP/s for 8 GPUs with sparsity; NVLink 1.8 TB/s in both directions "
            "together); DGX B200 datasheet (1,440 GB and 64 TB/s for 8 GPUs, adapters of 400 Gb/s)",
        ),
    )
}
"""All known chips, by name."""

MEASURED_SIZE = 1024
"""Rows and columns of the matrices in the measurement of a CPU's peak."""

MEASURED_SECONDS = 0.3


def peak_flops(device: Any, dtype: DTypeLike, *, reached: float = 0.0) -> float | None:
    """Floating-point operations per second that a device can do at most in products of matrices; None = not known.

    Of an accelerator the published rate of dense bfloat16 products, whatever the dtype, so that measurements of all
    precisions can be compared. Of a CPU what a product of matrices of the dtype reaches on all cores, measured once a
    process, and again when a program has reached more: others had the cores then. Devices that are simulated on one
    CPU share it.

    Args:
        device: jax.Device, or what describes one.
        reached: what a program has reached on the device; the peak is no less.
    """
    if device.platform == "cpu":
        dtype, devices = jnp.dtype(dtype), jax.local_device_count()
        if _measured.get(dtype, 0.0) < reached * devices or dtype not in _measured:
            _measured[dtype] = max(_measure_flops(dtype), reached * devices, _measured.get(dtype, 0.0))
        return _measured[dtype] / devices
    for chip in CHIPS.values():
        if device.device_kind in chip.device_kinds:
            return max(chip.flops, reached)
    return None


_measured: dict[Any, float] = {}
"""Dtype to what a CPU has been measured to reach with it."""


def _measure_flops(dtype: jnp.dtype) -> float:
    """The best rate of the products that fit into MEASURED_SECONDS."""
    product = jax.jit(lambda left, right: jnp.matmul(left, right, preferred_element_type=jnp.float32))
    matrix = jax.device_put(jnp.ones((MEASURED_SIZE, MEASURED_SIZE), dtype), jax.local_devices()[0])
    jax.block_until_ready(product(matrix, matrix))
    seconds, deadline = float("inf"), time.perf_counter() + MEASURED_SECONDS
    while (start := time.perf_counter()) < deadline:
        jax.block_until_ready(product(matrix, matrix))
        seconds = min(seconds, time.perf_counter() - start)
    return 2.0 * MEASURED_SIZE**3 / seconds


def memory_limit(device: Any) -> int | None:
    """Bytes of a device of this process that JAX may use; None = it does not say."""
    return (device.memory_stats() or {}).get("bytes_limit")


def device_memory(device: Any) -> int | None:
    """Bytes that arrays can take on a device of this process; None = not known.

    The CPU devices of a process share the memory of the machine.
    """
    limit = memory_limit(device)
    if limit is None and device.platform == "cpu":
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    return limit
