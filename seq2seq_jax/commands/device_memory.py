"""What `seq2seq train` says of the memory of GPUs and TPUs: the peak before the first step, and what to do without."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax

from seq2seq_jax.commands.console import Display
from seq2seq_jax.compilation.memory import OUT_OF_MEMORY, MemoryUse, tensor_groups
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.parallel.chips import memory_limit
from seq2seq_jax.parallel.mesh import JittedOnMesh
from seq2seq_jax.run.system import System, check_mesh

GIGABYTE = 1e9

FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
"""The part of a GPU's memory that JAX takes; 0.75 unless it is set."""

NUM_SETTINGS = 3
"""Settings that an error names."""


class DeviceMemory:
    """Peak memory of a run's update, as the compiler reports it.

    Attributes:
        use: of the update that was compiled last; None = none was.
    """

    def __init__(self, system: Callable[[], System], display: Display):
        """Args:
        system: the run's, which needs its tokenizer.
        """
        self.system = system
        self.display = display
        self.use: MemoryUse | None = None

    def compile(self, update: JittedOnMesh, *arguments: Any) -> None:
        """Compile the update for its arguments, and show what it needs of a GPU or TPU; nothing on CPUs, which share
        their memory with all programs.
        """
        device = device_of(self.system())
        if device.platform == "cpu":
            return
        self.use = MemoryUse.of(update.compile(*arguments))
        self.display.line(describe(self.use, memory_limit(device)))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Devices that run out of memory inside end in a table of what takes it, and in one line.

        Raises:
            ValueError: with settings that help, in place of jax's error.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            device = device_of(self.system())
            groups = groups_of(self.system(), self.use)
            self.display.line("memory of each device, as far as it is known:")
            for group, size in groups.items():
                self.display.line(f"  {group:<40}{size / GIGABYTE:10,.2f} GB")
            reason = " ".join(str(error).removeprefix(f"{OUT_OF_MEMORY}: ").split())[:200]
            there = memory_limit(device)
            best = settings(self.system(), groups, there)[:NUM_SETTINGS]
            of_them = "" if there is None else f" of {there / GIGABYTE:,.1f} GB each"
            raise ValueError(
                f"the {device.platform.upper()}s{of_them} have too little memory for this run ({reason}); the table "
                f"above says what takes it. Try {'; or '.join(best)}."
            ) from error


def device_of(system: System) -> Any:
    """One of a run's devices, which are all of one kind."""
    return system.mesh.devices.flat[0]


def describe(use: MemoryUse, there: int | None) -> str:
    """Peak memory of a program in a line.

    Args:
        there: bytes that JAX may use.
    """
    of_them = "" if there is None else f" of {there / GIGABYTE:,.2f} GB"
    return (
        f"the update needs {use.peak / GIGABYTE:,.2f} GB{of_them} of each device, as its compiler reports: "
        f"{use.arguments / GIGABYTE:,.2f} GB of state and batch, {use.temporaries / GIGABYTE:,.2f} GB of gradients, "
        "activations and other temporaries" + ("" if there is None or use.peak <= there else "; IT WILL NOT FIT")
    )


def groups_of(system: System, use: MemoryUse | None) -> dict[str, int]:
    """Bytes per device of each group of an update's arrays, the largest first; without a program's report, of those
    whose size follows from the config.
    """
    groups = tensor_groups(system)
    if use is not None:
        of_temporaries = sum(size for group, size in groups.items() if group.endswith("of the temporaries"))
        groups["activations and other temporaries"] = max(use.temporaries - of_temporaries, 0)
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


def settings(system: System, groups: dict[str, int], there: int | None) -> list[str]:
    """Settings with which a run takes less memory, the best first; at least three.

    Those that change no loss come before those that do, and what divides the state comes first where the state takes
    most of a device.
    """
    experiment, mesh = system.experiment, system.mesh
    state = sum(size for group, size in groups.items() if group != "activations and other temporaries")
    in_chunks, by_fsdp = _loss_chunk(experiment, groups), fsdp_setting(mesh.devices.size, mesh.shape["fsdp"])
    options = [_accumulation(system), _remat(experiment), in_chunks]
    most = there if there is not None else 2 * sum(groups.values())
    options = [by_fsdp, *options] if state > most / 2 else [*options, by_fsdp]
    if device_of(system).platform in ("gpu", "cuda") and FRACTION not in os.environ:
        options.append(f"{FRACTION}=0.92 in the environment (JAX takes 0.75 of a GPU by default)")
    batch = experiment.training.target_tokens_per_batch
    options += [
        f"--training.target_tokens_per_batch {batch // 2} (half of the batch: training is another)",
        "shorter rows by --data.max_source_length and --data.max_target_length",
        "a smaller model",
    ]
    return [option for option in options if option is not None]


def _accumulation(system: System) -> str | None:
    """A batch in twice as many parts, if its rows can be divided so."""
    training = system.experiment.training
    doubled = dataclasses.replace(training, accumulation=2 * training.accumulation)
    try:
        check_mesh(dataclasses.replace(system.experiment, training=doubled), system.mesh)
    except ValueError:
        return None
    return f"--training.accumulation {doubled.accumulation} (half of the activations at a time, the same result)"


def _remat(experiment: Experiment) -> str | None:
    """Layers computed again in the backward pass, in stacks that can and do not yet."""
    stacks = [
        f"--model.{side}.remat full"
        for side, stack in (("encoder", experiment.model.encoder), ("decoder", experiment.model.decoder))
        if getattr(stack, "remat", "full") != "full"
    ]
    return f"{' '.join(stacks)} (activations of layers are computed again, the same result)" if stacks else None


def _loss_chunk(experiment: Experiment, groups: dict[str, int]) -> str | None:
    """Fewer logits at a time, where they take a tenth of what is known, or more."""
    logits = groups.get("logits (float32), of the temporaries", 0)
    positions = experiment.max_target_length
    chunk = getattr(experiment.objective, "loss_chunk", None) or positions
    if 10 * logits < sum(groups.values()) or chunk % 2:
        return None
    return f"--objective.loss_chunk {chunk // 2} (half of the logits at a time, the same result)"


def fsdp_setting(devices: int, fsdp: int) -> str:
    """The state divided over the devices, or over more of them."""
    if fsdp < devices:
        return (
            "--mesh.data 1 --mesh.fsdp -1 (parameters and optimizer's state divided over the devices, the same result)"
        )
    return "more devices, over which --mesh.fsdp -1 divides parameters and optimizer's state"
