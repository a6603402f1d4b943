"""Waiting for what other processes do."""

import time


def wait_until(holds, what, *, seconds=60):
    """Return as soon as a condition holds; fail if it does not within some seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds} seconds still not {what}"
        time.sleep(0.1)
