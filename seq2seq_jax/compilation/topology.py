"""Devices that are not attached: TPU slices through libtpu, hosts of GPUs through jax's CUDA plugin, and without it as
simulated CPU devices.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.gpu_targets import GPUS_PER_HOST
from seq2seq_jax.modules.fused_attention import compiling_for
from seq2seq_jax.parallel import gpu_flags
from seq2seq_jax.parallel.chips import CHIPS, Chip

TORUS_DIMS = {"v5e": 2, "v5p": 3, "v6e": 2}
"""Dims of the torus of the supported TPUs."""

LARGEST_SLICE = {"v5e": (16, 16), "v5p": (16, 16, 24), "v6e": (16, 16)}
"""Chips along each dim of the largest slice (docs.cloud.google.com/tpu/docs)."""

ACCELERATOR_TYPE = {"v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4"}
"""Cloud TPU's accelerator type of one host of each."""

MAX_GPUS = 512
"""This many can be simulated on the CPU."""

HINT = (
    "Give a TPU slice as v5e:4x4 or v6e:16x16 (each dim a power of 2, up to 16x16) or v5p:4x4x8 (2x2x1 to 16x16x24, "
    "dims multiples of 4 above 4), or a number of GPUs as h100:8 (a100, h100, h200 and b200; 1 to 8, or whole hosts of "
    f"8 up to {MAX_GPUS})."
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips and their arrangement.

    Attributes:
        name: as given ("v5p:4x4x8").
        chip: the kind of chip.
        dims: chips along each dim of the torus; for GPUs their number.
    """

    name: str
    chip: Chip
    dims: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """The topology of a name.

        Raises:
            ValueError: there is no such topology; the message lists the valid ones.
        """
        kind, _, size = name.partition(":")
        dims = tuple(int(dim) for dim in size.split("x")) if re.fullmatch(r"\d+(x\d+)*", size) else ()
        if kind in TORUS_DIMS:
            exists = len(dims) == TORUS_DIMS[kind] and _slice_exists(kind, dims)
        else:
            exists = (
                kind in CHIPS
                and CHIPS[kind].network_bandwidth is not None
                and len(dims) == 1
                and 1 <= dims[0] <= MAX_GPUS
                and (dims[0] <= GPUS_PER_HOST or dims[0] % GPUS_PER_HOST == 0)
            )
        if not exists:
            raise ValueError(f"there is no topology {name!r}. {HINT}")
        return cls(name, CHIPS[kind], dims)

    @property
    def is_gpu(self) -> bool:
        """Whether the chips are GPUs in hosts."""
        return self.chip.name not in TORUS_DIMS

    @property
    def is_simulated(self) -> bool:
        """Whether the CPU compiler replaces that of the chip: that of GPUs comes with jax's CUDA plugin."""
        return self.is_gpu and gpu_targets.installed_plugin() is None

    @property
    def compiler(self) -> str:
        """Whose compiler it is, in a word or two."""
        return "CPU, as a simulation" if self.is_simulated else "GPU" if self.is_gpu else "TPU"

    @property
    def torus_dims(self) -> int:
        """Dims of the torus; 0 = GPUs in hosts."""
        return TORUS_DIMS.get(self.chip.name, 0)

    @property
    def num_chips(self) -> int:
        """Total number of chips."""
        return math.prod(self.dims)

    def prepare(self) -> None:
        """Set the options that jax reads when it initialises its devices.

        Raises:
            ValueError: libtpu is not installed.
        """
        jax.config.update("jax_platforms", "cpu")
        if self.is_simulated:
            flag = f"--xla_force_host_platform_device_count={self.num_chips}"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
            return
        if self.is_gpu:
            gpu_flags.add_flags(os.environ)
            return
        if importlib.util.find_spec("libtpu") is None:
            raise ValueError(
                f"compiling for {self.name} needs the TPU compiler, which is not installed: pip install "
                f"'{_suitable_libtpu()}'"
            )
        # There is no TPU metadata server. libtpu is configured as the only host of a small slice, which does not change
        # the programs that it compiles for a named topology.
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
        os.environ["TPU_WORKER_ID"] = "0"
        os.environ["TPU_ACCELERATOR_TYPE"] = ACCELERATOR_TYPE[self.chip.name]
        os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")

    def target(self) -> contextlib.AbstractContextManager[None]:
        """The context in which programs for the devices are traced and lowered."""
        is_target = self.is_gpu and not self.is_simulated
        return compiling_for(gpu_targets.attention_target(self.chip.name) if is_target else None)

    def devices(self) -> list[Any]:
        """The devices, for a mesh.

        Raises:
            ValueError: libtpu or the CUDA plugin fails, as when another process uses libtpu, or jax was initialised
                before `prepare`.
        """
        if self.is_simulated:
            devices = jax.devices("cpu")
            if len(devices) != self.num_chips:
                raise ValueError(
                    f"{self.name} is simulated by {self.num_chips} devices of the CPU, and jax has started with "
                    f"{len(devices)}. Leave xla_force_host_platform_device_count out of XLA_FLAGS."
                )
            return devices
        try:
            if self.is_gpu:
                return gpu_targets.devices(self.chip.name, self.num_chips)
            return list(topologies.get_topology_desc(platform="tpu", topology_name=self.name).devices)
        except Exception as error:  # jax passes on any error of libtpu or the plugin.
            described_by = gpu_targets.installed_plugin() if self.is_gpu else "libtpu"
            raise ValueError(f"{described_by} cannot describe {self.name}: {' '.join(str(error).split())}") from error


def _suitable_libtpu() -> str:
    """The requirement of the libtpu that matches the installed jax: programs of other versions may be refused."""
    requirements = importlib.metadata.requires("jax") or []
    return next(each.partition(";")[0].strip() for each in requirements if each.startswith("libtpu"))


def _slice_exists(kind: str, dims: tuple[int, ...]) -> bool:
    if any(dim > largest for dim, largest in zip(dims, LARGEST_SLICE[kind], strict=True)):
        return False
    if len(dims) == 2:
        return all(dim & (dim - 1) == 0 for dim in dims) and math.prod(dims) > 0
    if max(dims) <= 4:
        return dims in ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4))
    return all(dim % 4 == 0 for dim in dims)
