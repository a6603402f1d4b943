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
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from seq2seq_jax.parallel.placement import Placement, ProcessesConfig

NOTICE = "RECEIVED_PREEMPTION_NOTICE"
"""Key in the store of jax's coordination service, which has a value once one of the processes was sent SIGTERM."""
KEYS = "seq2seq_jax/preemption"
"""Where the processes' own keys in that store begin."""
MILLISECONDS_TO_ANSWER = 60_000
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_UNWIND = 5.0
"""What a process that was sent SIGTERM has to come to an end by itself; clusters kill after 30 as a rule."""


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


class Preempted(BaseException):
    """SIGTERM came while there was nothing to save."""


@contextlib.contextmanager
def hearing_sigterm(
    *,
    raises: Callable[[], bool],
    heard: Callable[[], None],
    seconds: float,
    is_replaced: bool = False,
) -> Iterator[None]:
    """Within, SIGTERM to this process raises Preempted in its main thread, once.

    Python runs a signal's handler only between two instructions of the main thread, which may wait for a compiler or
    for other processes. A second thread therefore hears the signal at once.

    Args:
        raises: whether to raise, asked when the signal comes.
        heard: called in the second thread if this context is still there so long after the signal.
        seconds: how long.
        is_replaced: whether another handler is installed meanwhile, which is to stay.
    """
    has_come = False

    def handle(*_) -> None:
        nonlocal has_come
        # Launchers and clusters may send it twice: what is unwinding then is let finish.
        if not has_come:
            has_come = True
            if raises():
                raise Preempted

    ended = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM:
                if not ended.wait(seconds):
                    heard()
                return

    before = signal.signal(signal.SIGTERM, handle)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        if not is_replaced:
            signal.signal(signal.SIGTERM, before)
        ended.set()
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def started(
    config: ProcessesConfig, *, end: Callable[[str], None], leave: Callable[[], None]
) -> Iterator[Placement | None]:
    """A context in which this process is part of its job; must be entered before jax initialises its devices.

    Args:
        leave: called in a separate thread when SIGTERM comes before all processes have connected; must end the process.
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
    with hearing_sigterm(raises=lambda: False, heard=leave, seconds=0.0, is_replaced=True):
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


def _has(store: Any, key: str) -> bool:
    try:
        store.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:
        return False
    return True


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


class Job:
    """Pre-emption and stall detection for the processes of a training; by default a single process.

    As a context, which can be entered repeatedly, it ends a process that makes no progress.
    """

    def __init__(self, *, stall_timeout: float = 0.0, end: Callable[[str], None] | None = None):
        """Args:
        stall_timeout: seconds without progress after which the process ends; 0 = never.
        end: called with the reason, in a separate thread; must end the process.
        """
        self._stall_timeout = stall_timeout
        self._end = end
        self._terminated = False
        self._has_unsaved_steps = False
        self._leaving = threading.Lock()
        self._current_task, self._since = "the first step", time.monotonic()
        self._closed = threading.Event()

    def __enter__(self) -> "Job":
        self._since = time.monotonic()
        self._closed.clear()
        if self._stall_timeout:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._closed.set()

    @contextlib.contextmanager
    def preemptible(self, *, mark: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
        """Within, SIGTERM to one of the processes makes all of them stop.

        With steps that are not saved, they stop where `preempted` says so. Otherwise (text is read or encoded, the
        first update is compiled, the end is evaluated) they stop at once: one that is alone by Preempted, if its main
        thread comes to raise it; several, which may wait for each other in what nothing interrupts, by `end`.

        Args:
            mark: leaves in the run directory what is to be found there; called before `end` by process 0.
            end: ends the process with status 0. Both are called in a separate thread.

        Raises:
            Preempted: see above.
        """

        def leave() -> None:
            with self._leaving:
                if not self._has_unsaved_steps:
                    mark()
                    end()

        def raises() -> bool:
            self._terminated = True
            return not self._has_unsaved_steps

        if jax.process_count() == 1:
            with hearing_sigterm(raises=raises, heard=leave, seconds=SECONDS_TO_UNWIND):
                yield
            return
        # jax.distributed's own handler hears it for all of them.
        ended = threading.Event()
        thread = threading.Thread(target=self._leave_together, args=(ended, mark, end), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @property
    def has_unsaved_steps(self) -> bool:
        """Whether a pre-emption waits until these are saved. Set by the training loop."""
        return self._has_unsaved_steps

    @has_unsaved_steps.setter
    def has_unsaved_steps(self, value: bool) -> None:
        # Waits while processes decide together whether they have any.
        with self._leaving:
            self._has_unsaved_steps = value

    @property
    def terminated(self) -> bool:
        """Whether SIGTERM has come to this process, which is alone."""
        return self._terminated

    def preempted(self, step: int) -> bool:
        """Whether to stop after this step; all processes must call it after every step, and get the same answer."""
        if jax.process_count() == 1:
            return self._terminated
        return multihost_utils.reached_preemption_sync_point(step)

    def progress(self, next_task: str) -> None:
        """Report progress, and the task that comes next."""
        self._current_task, self._since = next_task, time.monotonic()

    def _leave_together(self, ended: threading.Event, mark: Callable[[], None], end: Callable[[], None]) -> None:
        """When one of the processes was sent SIGTERM, end this one if none of them has unsaved steps."""
        index, count = jax.process_index(), jax.process_count()
        store = distributed.global_state.client
        while not _has(store, NOTICE):
            if ended.wait(SECONDS_BETWEEN_LOOKS):
                return
        with self._leaving:
            try:
                store.key_value_set(f"{KEYS}/unsaved/{index}", str(int(self._has_unsaved_steps)))
                unsaved = [
                    store.blocking_key_value_get(f"{KEYS}/unsaved/{other}", MILLISECONDS_TO_ANSWER)
                    for other in range(count)
                ]
                if "1" in unsaved:
                    return
                if index:
                    store.key_value_set(f"{KEYS}/left/{index}", "1")
                else:
                    mark()
                    # The coordinator lives in process 0, and the others would abort without it.
                    for other in range(1, count):
                        store.blocking_key_value_get(f"{KEYS}/left/{other}", MILLISECONDS_TO_ANSWER)
                    time.sleep(SECONDS_BETWEEN_LOOKS)
            except jax.errors.JaxRuntimeError:
                # One of them is gone, which ends the others.
                return
            end()

    def _watch(self) -> None:
        interval = min(1.0, self._stall_timeout / 4)
        looked = time.monotonic()
        while not self._closed.wait(interval):
            now = time.monotonic()
            # Whoever was suspended (Ctrl-Z, a scheduler that suspends jobs, a computer that slept) did not hang.
            suspended = max(now - looked - 2 * interval, 0.0)
            self._since = min(self._since + suspended, now)
            looked = now
            silent = now - self._since
            if silent > self._stall_timeout:
                self._end(
                    f"process {jax.process_index()} of {jax.process_count()} has made no progress for {silent:.0f} s "
                    f"({self._current_task}): it hangs, or waits for a process that hangs. Look at the logs of all "
                    "processes; the same command continues from the last checkpoint. processes.stall_timeout sets the "
                    "limit."
                )
                return
