"""Starts `seq2seq train` as several processes of one job on this machine."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compiling import flags_for_devices
from trainings import Training

REPOSITORY = Path(__file__).parents[1]
TIMEOUT = 400.0
"""Seconds."""


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment_of(devices: int) -> dict[str, str]:
    """The environment of a process with so many devices, which finds this package and the modules of the tests."""
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_FLAGS": flags_for_devices(devices),
    }


def run_trainings(directory: Path, trainings: Sequence[Training], *, count: int, devices: int) -> list[list[int]]:
    """Run trainings one after the other in one job; see trainings.py.

    Args:
        directory: in which they run.
        count: processes.
        devices: of each process.

    Returns:
        The exit statuses of each training, by process.
    """
    path = directory / f"trainings_of_{count}.json"
    path.write_text(json.dumps([dataclasses.asdict(training) for training in trainings]))
    program = str(Path(__file__).parent / "trainings.py")
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, program, coordinator, str(count), str(index), str(path)],
            cwd=directory,
            env=environment_of(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(count)
    ]
    try:
        said = [process.communicate(timeout=3 * TIMEOUT)[0].decode()[-3000:] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n---\n".join(said)
    statuses = [json.loads(path.with_suffix(f".{index}.json").read_text()) for index in range(count)]
    return [list(of_training) for of_training in zip(*statuses, strict=True)]


class Processes:
    """Processes of a job, all with the same arguments; what each says is in `logs`."""

    def __init__(
        self,
        directory: Path,
        run: str,
        *arguments: str,
        count: int,
        devices: int = 1,
        only: int | None = None,
    ):
        """Args:
        directory: in which they run.
        devices: of each process.
        only: the one process that is started, of as many as `count`; None = all.
        """
        coordinator = f"127.0.0.1:{free_port()}"
        indices = range(count) if only is None else [only]
        self.logs = [directory / f"{run}.{index}.log" for index in indices]
        self.processes = []
        for index, log in zip(indices, self.logs, strict=True):
            where = ["--processes.coordinator", coordinator, "--processes.count", str(count)]
            where += ["--processes.index", str(index)]
            command = [sys.executable, "-m", "seq2seq_jax", "train", *arguments, "--run-dir", run]
            with log.open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *where],
                        cwd=directory,
                        env=environment_of(devices) | {"INDEX": str(index)},
                        stdout=output,
                        stderr=output,
                    )
                )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self) -> list[int]:
        """Exit statuses, when all have ended."""
        deadline = time.monotonic() + TIMEOUT
        return [process.wait(timeout=max(0.1, deadline - time.monotonic())) for process in self.processes]

    def finish(self) -> None:
        """Wait until all have ended well."""
        assert self.wait() == [0] * len(self.processes), self.said()

    def wait_for_line(self, beginning: str) -> None:
        """Return when process 0 has said a line that begins so."""
        deadline = time.monotonic() + TIMEOUT
        while not any(line.startswith(beginning) for line in self.logs[0].read_text().splitlines()):
            assert all(process.poll() is None for process in self.processes), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in self.logs)

    def last_line(self, index: int) -> str:
        """The last thing that a process said."""
        return self.logs[index].read_text().rstrip().splitlines()[-1]
