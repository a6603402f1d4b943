"""Published peak rates and memory of accelerator chips."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What the maker says of one chip. Rates are peaks, which no program reaches.

    Attributes:
        name: as in a topology ("v5p").
        flops: bfloat16 floating-point operations a second, without sparsity.
        memory: bytes of high-bandwidth memory.
        memory_bandwidth: bytes a second.
        interconnect_bandwidth: bytes a second that it can send over all of its links to neighbours (TPU), or to the
            other chips of its host (GPU).
        network_bandwidth: bytes a second that it can send to chips of other hosts, where these are reached by another
            network; None = by the same links.
        source: where the figures are published.
    """

    name: str
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
            flops=275e12,
            memory=32 * GIBIBYTE,
            memory_bandwidth=1.2e12,
            interconnect_bandwidth=300e9,
            source="docs.cloud.google.com/tpu/docs/v4; Jouppi et al. 2023, table 4 (6 links of 50 GB/s)",
        ),
        Chip(
            name="v5e",
            flops=197e12,
            memory=16e9,
            memory_bandwidth=819e9,
            interconnect_bandwidth=200e9,
            source="docs.cloud.google.com/tpu/docs/v5e (400 GB/s in both directions together)",
        ),
        Chip(
            name="v5p",
            flops=459e12,
            memory=95 * GIBIBYTE,
            memory_bandwidth=2.765e12,
            interconnect_bandwidth=600e9,
            source="docs.cloud.google.com/tpu/docs/v5p (1,200 GB/s in both directions together)",
        ),
        Chip(
            name="v6e",
            flops=918e12,
            memory=32e9,
            memory_bandwidth=1.638e12,
            interconnect_bandwidth=400e9,
            source="docs.cloud.google.com/tpu/docs/v6e (800 GB/s in both directions together)",
        ),
        Chip(
            name="a100",
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
"""Every chip that is known, by name."""
