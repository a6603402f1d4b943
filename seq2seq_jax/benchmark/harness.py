"""Timing side by side: what is compared takes turns in one process, so that a slow moment of the machine meets all."""

import dataclasses
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from seq2seq_jax.benchmark import MIN_ROUNDS
from seq2seq_jax.run.description import commit_of_code

Name = TypeVar("Name", bound=Hashable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some measurements, and their spread."""

    median: float
    """Half of the measurements lie below."""
    lower_quartile: float
    """A quarter of the measurements lie below."""
    upper_quartile: float
    """Three quarters of the measurements lie below."""

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Quartiles, interpolated linearly between measurements."""
        lower, median, upper = np.quantile(figures, (0.25, 0.5, 0.75)).tolist()
        return cls(median=median, lower_quartile=lower, upper_quartile=upper)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How long calls of one contender took."""

    first_call: float
    """Seconds of the very first call, in which it was compiled."""
    seconds: tuple[float, ...]
    """Seconds a call, one figure a round."""

    @property
    def spread(self) -> Spread:
        """Over the rounds."""
        return Spread.of(self.seconds)


def take_turns(
    contenders: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Timing]:
    """Time the contenders in turns: A B A B ...

    Each is called once for its compilation, then `warm_up` times, before any is timed.

    Args:
        contenders: each does one unit of work, and returns when it is done on the device too.
        rounds: turns that each contender has, MIN_ROUNDS at least.
        calls: calls in a turn; several, where a call is short beside what a change of turns costs (threads of the one
            that spin for a while, caches full of the other's data).
        warm_up: calls before the first turn.
        clock: seconds.

    Raises:
        ValueError: too few rounds, or no calls.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds must be at least {MIN_ROUNDS}, for a median that means something, not {rounds}.")
    if calls < 1 or warm_up < 0:
        raise ValueError(f"calls must be at least 1 and warm_up at least 0, not {calls} and {warm_up}.")
    first_calls = {name: _seconds(contender, 1, clock) for name, contender in contenders.items()}
    for contender in contenders.values():
        for _ in range(warm_up):
            contender()
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(_seconds(contender, calls, clock))
    return {name: Timing(first_call=first_calls[name], seconds=tuple(seconds[name])) for name in contenders}


def _seconds(contender: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        contender()
    return (clock() - start) / calls


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The ratio of two measurements of one round, over the rounds.

    What slows a whole round leaves it as it is, unlike a quotient of two medians.

    Args:
        numerator: one figure a round.
        denominator: those of the same rounds.
    """
    return Spread.of([above / below for above, below in zip(numerator, denominator, strict=True)])


def environment() -> dict[str, Any]:
    """What a figure of speed depends on beside the model: machine, versions, flags, threads, load."""
    variables = (
        "XLA_FLAGS", "LIBTPU_INIT_ARGS", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE",
        "JAX_PLATFORMS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    )  # fmt: skip
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "num_devices": jax.device_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "variables": {name: os.environ[name] for name in variables if name in os.environ},
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "commit": commit_of_code(),
        "load_average": os.getloadavg()[0],
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = {line.partition(":")[2].strip() for line in file if line.startswith("model name")}
    except OSError:
        models = set()
    return ", ".join(sorted(models)) or platform.processor() or platform.machine()
