"""Lines that a person types, each of which is answered before the next."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator

PROMPT = "> "


def converse(
    answer: Callable[[str, int], None],
    *,
    say: Callable[[str], None],
    greeting: str = "One source per line. Ctrl-C cancels a line, Ctrl-D ends.",
) -> None:
    """Read lines from the terminal that is standard input, with editing and a history where Python has readline.

    Ctrl-C cancels a line, or what is being done with it, and Ctrl-D ends. The prompt goes to the terminal, also where
    standard output goes elsewhere.

    Args:
        answer: takes a line and its number, from 1; a ValueError is said, and ends nothing.
        say: takes what a person should read, and what is no result.
        greeting: is said first.
    """
    say(greeting)
    with contextlib.suppress(ImportError):
        # Importing it is what changes `input`.
        import readline  # noqa: F401
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    number = 0
    while True:
        try:
            with _output_is_terminal():
                try:
                    line = input(PROMPT)
                except (EOFError, KeyboardInterrupt):
                    os.write(sys.stdout.fileno(), b"\n")
                    raise
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        number += 1
        try:
            answer(line, number)
        except KeyboardInterrupt:
            say("cancelled.")
        except ValueError as error:
            say(str(error))


@contextlib.contextmanager
def _output_is_terminal() -> Iterator[None]:
    """Within, standard output is the terminal that is standard input: only then does `input` edit lines."""
    if sys.stdout.isatty():
        yield
        return
    sys.stdout.flush()
    output = sys.stdout.fileno()
    kept = os.dup(output)
    try:
        terminal = os.open(os.ttyname(sys.stdin.fileno()), os.O_WRONLY | os.O_NOCTTY)
        os.dup2(terminal, output)
        os.close(terminal)
        yield
    finally:
        os.dup2(kept, output)
        os.close(kept)
