"""How often jax has compiled something, as jax itself reports it."""

import functools
import threading

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event that jax records when it has made a program for the devices, or taken it from its cache on disk."""


class _OfThread(threading.local):
    count = 0


_of_thread = _OfThread()


def compilations() -> int:
    """Programs that this thread has had compiled, from the first call on, which starts the count."""
    _listen()
    return _of_thread.count


@functools.cache
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, duration: float, **details: str | int) -> None:
    # jax compiles in the thread that calls the function.
    if event == COMPILED:
        _of_thread.count += 1
