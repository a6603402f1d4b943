"""How often jax has compiled something, and when it was done, as jax itself reports it."""

import functools
import threading
import time

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event that jax records when it has compiled a program, or loaded it from its cache on disk."""


class _OfThread(threading.local):
    count = 0
    done = 0.0


_of_thread = _OfThread()


def compilations() -> int:
    """Number of compilations in this thread since the first call, which starts the count."""
    _listen()
    return _of_thread.count


def last_compilation() -> float:
    """When this thread's last program was there, in seconds of `time.perf_counter`; all before it, tracing and
    lowering, led to it. 0 = it has had none compiled.
    """
    return _of_thread.done


@functools.cache
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, duration: float, **details: str | int) -> None:
    # jax compiles in the thread that calls the function.
    if event == COMPILED:
        _of_thread.count += 1
        _of_thread.done = time.perf_counter()
