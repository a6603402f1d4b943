"""The process behind `workplace.Server`: reads a call as a line of JSON, answers its outcome as another."""

import contextlib
import faulthandler
import io
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from typing import TextIO


class TimedOut(BaseException):
    """A call took too long; no `except Exception` is to catch it."""


def _stop(*_) -> None:
    raise TimedOut


def call(arguments: list[str], *, cwd: str, stdin: str, timeout: float) -> dict:
    """Run the command line in this process, its streams on the level of the operating system caught in files."""
    from seq2seq_jax.commands.main import main

    os.chdir(cwd)
    saved = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        for number, file in ((1, output), (2, errors)):
            os.dup2(file.fileno(), number)
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        status: int | None = 1
        try:
            main(arguments)
        except SystemExit as stop:
            status = stop.code
        except TimedOut:
            status = None
            print("the call did not end in time", file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    stream.flush()
            for number, duplicate in zip((1, 2), saved, strict=True):
                os.dup2(duplicate, number)
                os.close(duplicate)
        told = []
        for file in (output, errors):
            file.seek(0)
            told.append(file.read().decode(errors="replace"))
    # The loggers' handlers hold the stream of the call.
    logging.getLogger("seq2seq_jax").handlers = []
    return {"status": status, "output": told[0], "errors": told[1]}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer calls until there are no more."""
    for line in requests:
        request = json.loads(line)
        answers.write(json.dumps(call(request.pop("arguments"), **request)) + "\n")
        answers.flush()


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("default")
    serve(sys.stdin, os.fdopen(os.dup(1), "w"))
