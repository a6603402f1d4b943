"""Calls the command line in this process."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

from seq2seq_jax.commands.main import main


@contextlib.contextmanager
def as_in_a_process() -> Iterator[None]:
    """Logging as it is when a process starts, without pytest's handlers; afterwards it is as it was."""
    loggers = [logging.getLogger(name) for name in (None, "seq2seq_jax", "absl", "asyncio")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    logging.getLogger().handlers = []
    hook = sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def call(*arguments: object) -> int:
    """Run the command line and return its exit status."""
    with as_in_a_process(), warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            return stop.code
    raise AssertionError("the command line returned instead of exiting")
