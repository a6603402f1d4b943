"""Starts `seq2seq train` as several processes of one job on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from compiling import flags_for_devices

REPOSITORY = Path(__file__).parents[1]
TIMEOUT = 400.0
"""Seconds."""


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """Processes of a job, each with its own arguments; what each says is in `logs`."""

    def __init__(
        self,
        directory: Path,
        run: str,
        *arguments: str,
        count: int,
        devices: int = 1,
        own: dict[int, list[str]] | None = None,
        program: Sequence[str] = ("-m", "seq2seq_jax"),
    ):
        """Args:
        directory: in which they run.
        devices: of each process.
        own: arguments of single processes, by index.
        program: what Python runs in the place of seq2seq.
        """
        coordinator = f"127.0.0.1:{free_port()}"
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": paths,
            "XLA_FLAGS": flags_for_devices(devices),
        }
        self.logs = [directory / f"{run}.{index}.log" for index in range(count)]
        self.processes = []
        for index, log in enumerate(self.logs):
            where = ["--processes.coordinator", coordinator, "--processes.count", str(count)]
            where += ["--processes.index", str(index)]
            command = [sys.executable, *program, "train", *arguments, "--run-dir", run]
            with log.open("a") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *(where if count > 1 else []), *(own or {}).get(index, [])],
                        cwd=directory,
                        env=environment,
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
