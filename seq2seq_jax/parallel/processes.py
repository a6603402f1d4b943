"""The processes of a job: discovery, consistency checks and common shutdown, on top of jax.distributed."""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from seq2seq_jax.parallel.placement import Placement, ProcessesConfig


class PeerLostError(Exception):
    """Another process of the job has died, or does not respond."""

    exit_status = 1


def bind_address(coordinator: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """IP:PORT on which process 0 listens for the others: the coordinator's own address, and no other interface.

    None = left to jax, which listens on all interfaces: where JAX_COORDINATOR_BIND_ADDRESS is set, and where the
    coordinator's name means on this machine an address that the others cannot reach (its loopback) or that is not this
    machine's (an address that is translated on the way).
    """
    if environment.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return None
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return None
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback and host not in ("localhost", address):
        return None
    return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"


@contextlib.contextmanager
def started(config: ProcessesConfig, *, end: Callable[[str], None]) -> Iterator[Placement | None]:
    """A context in which this process is part of its job; must be entered before jax initialises its devices.

    Args:
        end: called with the reason if the processes do not all connect, in a separate thread; must end the process, as
            jax.distributed cannot be interrupted and would abort it.

    Raises:
        ValueError: the launcher's environment variables are incomplete.
        PeerLostError: a computation of all processes failed, usually because one of them has died.
    """
    placement = config.placement()
    if placement is None:
        yield None
        return
    address = placement.coordinator or "the coordinator"
    reason = (
        f"not all processes have connected to {address} (found in {placement.origin}) within {config.start_timeout} "
        "s: it does not respond, or processes are missing. Start all of them, process 0 there, or raise "
        "processes.start_timeout."
    )
    waiting = threading.Timer(config.start_timeout, end, [reason])
    waiting.daemon = True
    waiting.start()
    jax.distributed.initialize(
        placement.coordinator,
        placement.count,
        placement.index,
        cluster_detection_method="deactivate" if placement.coordinator else None,
        coordinator_bind_address=bind_address(placement.coordinator) if placement.index == 0 else None,
        initialization_timeout=2 * config.start_timeout + 60,
        heartbeat_timeout_seconds=config.heartbeat_timeout,
        shutdown_timeout_seconds=config.heartbeat_timeout,
    )
    waiting.cancel()
    try:
        yield placement
    except jax.errors.JaxRuntimeError as error:
        raise PeerLostError(
            f"process {jax.process_index()} of {jax.process_count()} cannot continue: "
            f"{' '.join(str(error).split())[:300]} If another process ended first, its log says why. The same command "
            "continues from the last checkpoint."
        ) from error
    jax.distributed.shutdown()


def all_gather_text(text: str) -> list[str]:
    """All-gather of one text per process, in the order of processes; waits for all of them."""
    if jax.process_count() == 1:
        return [text]
    given = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(given)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(given)] = given
    gathered = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes().decode() for row, length in zip(gathered, lengths, strict=True)]


def agree(facts: Mapping[str, str]) -> None:
    """Check that all processes pass the same facts.

    Raises:
        ValueError: they do not; the same message on every process, which names the first difference.
    """
    first, *others = (json.loads(given) for given in all_gather_text(json.dumps(facts)))
    for index, other in enumerate(others, 1):
        for name in first | other:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"the processes differ: {name} is {first.get(name)} on process 0 and {other.get(name)} on "
                    f"process {index}. Start all with the same command, code and data."
                )


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """A context whose body runs in process 0 first and then in all others, which find the files that it writes.

    Raises:
        ValueError: on the other processes, if process 0 failed; the message says why.
    """
    if jax.process_index() != 0:
        failure = all_gather_text("")[0]
        if failure:
            raise ValueError(f"process 0 stopped: {failure}")
    failure = ""
    try:
        yield
    except Exception as error:
        failure = str(error) or type(error).__name__
        raise
    finally:
        if jax.process_index() == 0:
            all_gather_text(failure)


def gather(values: list[float]) -> list[list[float]]:
    """All-gather of the values of each process, in the order of processes; all pass the same number of values."""
    if jax.process_count() == 1:
        return [values]
    return multihost_utils.process_allgather(np.asarray(values, np.float32)).tolist()


class Preempted(BaseException):
    """SIGTERM came while nothing was under way that could be saved."""


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Within, SIGTERM to a process that is alone raises Preempted, but not while a Job is entered.

    Of several processes jax.distributed hears it, and their Job heeds it at its next step.
    """
    if jax.process_count() > 1:
        yield
        return

    def end(*_) -> None:
        raise Preempted

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Job:
    """Pre-emption and stall detection for the processes of a training loop; by default a single process.

    As a context, which can be entered repeatedly, it handles SIGTERM and ends a process that makes no progress.
    """

    def __init__(self, *, stall_timeout: float = 0.0, end: Callable[[str], None] | None = None):
        """Args:
        stall_timeout: seconds without progress after which the process ends; 0 = never.
        end: called with the reason, in a separate thread; must end the process.
        """
        self._stall_timeout = stall_timeout
        self._end = end
        self._terminated = False
        self._current_task, self._since = "the first step", time.monotonic()
        self._closed = threading.Event()

    def __enter__(self) -> "Job":
        self._since = time.monotonic()
        self._closed.clear()
        if jax.process_count() == 1:
            # With several processes, jax.distributed's handler notifies all of them.
            self._previous_handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        if self._stall_timeout:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._closed.set()
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def preempted(self, step: int) -> bool:
        """Whether to stop after this step; all processes must call it after every step, and get the same answer."""
        if jax.process_count() == 1:
            return self._terminated
        return multihost_utils.reached_preemption_sync_point(step)

    def progress(self, next_task: str) -> None:
        """Report progress, and the task that comes next."""
        self._current_task, self._since = next_task, time.monotonic()

    def _on_sigterm(self, *_) -> None:
        self._terminated = True

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._stall_timeout / 4)):
            silent = time.monotonic() - self._since
            if silent > self._stall_timeout:
                self._end(
                    f"process {jax.process_index()} of {jax.process_count()} has made no progress for {silent:.0f} s "
                    f"({self._current_task}): it hangs, or waits for a process that hangs. Look at the logs of all "
                    "processes; the same command continues from the last checkpoint. processes.stall_timeout sets the "
                    "limit."
                )
                return
