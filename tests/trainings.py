"""Runs `seq2seq train` several times in the processes of one job, which so have only one start.

Started as: python trainings.py COORDINATOR COUNT INDEX TRAININGS.json, in the directory of the runs. What a training
says goes to NAME.INDEX.log, and the exit statuses, in their order, to TRAININGS.INDEX.json.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax

from seq2seq_jax.commands import console
from seq2seq_jax.commands.main import main
from seq2seq_jax.parallel.processes import all_gather_text
from seq2seq_jax.run.system import System
from seq2seq_jax.training.checkpoint import checksums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """One call of `seq2seq train`.

    Attributes:
        name: of its run directory and its logs.
        arguments: of all processes.
        own: further arguments of single processes, by index.
        copy_of: a run directory that this one begins as a copy of; None = as it is.
        checksums: whether to write a checksum of every global batch to batches.txt, a line a batch.
    """

    name: str
    arguments: tuple[str, ...]
    own: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    copy_of: str | None = None
    checksums: bool = False


@contextlib.contextmanager
def checksums_of_batches(path):
    """Within, a file is told what is trained on."""
    place = System.place

    def place_and_tell(system, batch):
        placed = place(system, batch)
        leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(placed))}
        line = " ".join(map(str, checksums(leaves).values()))
        if jax.process_index() == 0:
            with path.open("a") as file:
                file.write(f"{line}\n")
        return placed

    System.place = place_and_tell
    try:
        yield
    finally:
        System.place = place


@contextlib.contextmanager
def ends_are_exceptions():
    """Within, a process of several that is to end at once raises, as one that is alone does."""
    end_at_once = console.end_at_once

    def say_and_raise(message, status):
        print(f"seq2seq: {message}", file=sys.stderr, flush=True)
        raise SystemExit(status)

    console.end_at_once = say_and_raise
    try:
        yield
    finally:
        console.end_at_once = end_at_once


def status_of(training: Training, index: int) -> int:
    """The exit status of this process."""
    if training.copy_of is not None:
        if index == 0:
            shutil.copytree(training.copy_of, training.name)
        all_gather_text("")
    arguments = ["train", *training.arguments, "--run-dir", training.name, *training.own.get(str(index), [])]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Path(f"{training.name}.{index}.log").open("w"))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        if training.checksums:
            stack.enter_context(checksums_of_batches(Path(training.name) / "batches.txt"))
        stack.enter_context(ends_are_exceptions())
        try:
            main(arguments)
        except SystemExit as stop:
            return stop.code
        raise AssertionError("the command line returned instead of exiting")


if __name__ == "__main__":
    coordinator, count, index, path = sys.argv[1:]
    trainings = [Training(**training) for training in json.loads(Path(path).read_text())]
    jax.distributed.initialize(coordinator, int(count), int(index), cluster_detection_method="deactivate")
    statuses = [status_of(training, int(index)) for training in trainings]
    Path(path).with_suffix(f".{index}.json").write_text(json.dumps(statuses))
    jax.distributed.shutdown()
