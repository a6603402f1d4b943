"""Where a process stands in its job, as a config or a launcher says it. Imports nothing heavy: any help asks for it."""

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """The processes that train together.

    By default they are detected: from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; otherwise from the
    tasks of a Slurm step or the hosts of a TPU slice; otherwise there is a single process.
    """

    coordinator: str | None = None
    """HOST:PORT at which all processes reach process 0."""
    count: int | None = None
    """Number of processes."""
    index: int | None = None
    """Index of this process, from 0."""
    start_timeout: int = 300
    """Seconds that processes wait for each other at the start."""
    heartbeat_timeout: int = 100
    """Seconds without a heartbeat after which a process is considered dead, and all others end."""
    stall_timeout: float = 1800.0
    """Seconds without a finished step (or validation batch) after which a process ends, whether it waits for others or
    hangs itself; must exceed the longest compilation. Time in which the process was suspended does not count. 0 =
    never."""

    def __post_init__(self):
        check_values(self, "processes")
        given = [self.coordinator is not None, self.count is not None, self.index is not None]
        if any(given) and not all(given):
            raise ValueError(
                "processes.coordinator, count and index must be set together: give all three, or none to detect them."
            )
        for name in ("start_timeout", "heartbeat_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"processes.{name} must be at least 1 second, not {getattr(self, name)}.")
        if self.stall_timeout < 0:
            raise ValueError(f"processes.stall_timeout must be at least 0 seconds, not {self.stall_timeout}.")
        if self.coordinator is not None:
            _check(self.coordinator, self.count, self.index, origin="processes")

    def placement(self, environment: Mapping[str, str] = os.environ) -> "Placement | None":
        """The place of this process in its job; None = a single process.

        Raises:
            ValueError: the launcher's environment variables are incomplete.
        """
        if self.coordinator is not None:
            return Placement("flags", self.coordinator, self.count, self.index)
        names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        given = [environment.get(name) for name in names]
        if any(given[1:]):
            if not all(given):
                missing = ", ".join(name for name, value in zip(names, given, strict=True) if not value)
                raise ValueError(f"{', '.join(names)} must be set together, and {missing} is not set.")
            coordinator, *numbers = given
            if not all(number.isdecimal() and len(number) < 10 for number in numbers):
                raise ValueError(f"JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers, not {numbers}.")
            count, index = map(int, numbers)
            _check(coordinator, count, index, origin="environment")
            return Placement("environment", coordinator, count, index)
        tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
        if not tasks.isdecimal() or len(tasks) >= 10:
            raise ValueError(f"SLURM_STEP_NUM_TASKS must be a whole number, not {tasks[:100]!r}.")
        if int(tasks) > 1:
            return Placement("Slurm", None, None, None)
        if environment.get("TPU_WORKER_HOSTNAMES", "").count(",") or environment.get("MEGASCALE_NUM_SLICES"):
            return Placement("TPU metadata", None, None, None)
        return None


class Placement(NamedTuple):
    """The place of a process in its job; None = jax.distributed detects it."""

    origin: str
    """Where it was found: flags, environment, Slurm or TPU metadata."""
    coordinator: str | None
    count: int | None
    index: int | None


def _check(coordinator: str, count: int, index: int, *, origin: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 2**16:
        raise ValueError(f"{origin}: the coordinator must be HOST:PORT, such as node1:12345, not {coordinator!r}.")
    if not 0 <= index < count:
        raise ValueError(f"{origin}: the index must be 0 to {count - 1} among {count} processes, and is {index}.")
