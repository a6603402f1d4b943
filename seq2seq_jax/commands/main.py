"""`seq2seq`: finds the sub-command, and turns a user's mistake into one line and exit status 2."""

import _thread
import errno
import importlib
import io
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from seq2seq_jax.commands import options
from seq2seq_jax.commands.console import end_quietly, is_one_of_several, stop
from seq2seq_jax.parallel.gpu_flags import set_flags
from seq2seq_jax.parallel.host_memory import keep_memory_between_steps

USAGE = """\
seq2seq: encoder-decoder training on JAX

  seq2seq train CONFIG [--run_dir D] [--part.field value ...]   train, or continue, a run
  seq2seq data CONFIG [--plot FILE] [--part.field value ...]    what a training would see of its data
  seq2seq filter CONFIG --output DIR [--rules.NAME VALUE ...]   training pairs without those that break rules
  seq2seq evaluate RUN [RUN ...] [--split test] [--json FILE]   loss and scores on a split
  seq2seq generate RUN [--input FILE] [--output FILE]           a line out for a line in
  seq2seq translate-corpus RUN --input FILE --output DIR        a corpus of generated texts, in shards; continues
  seq2seq chat RUN [--transcript FILE]                          a conversation with a run that holds one
  seq2seq score RUN --source FILE --target FILE                 log-probability and perplexity of given targets
  seq2seq rerank RUN --input LISTS --features F [--tune FILE]   order n-best lists anew; tune the weights of features
  seq2seq align RUN [--input FILE] [--output DIRECTORY]         heat maps of attention, a picture a line
  seq2seq average RUN [RUN ...] --output RUN2 [--last N]        average checkpoints, of one run or several
  seq2seq import DIR --output RUN                               a run from a model of Hugging Face transformers
  seq2seq export RUN --output DIR [--format huggingface]        a run as a model that transformers reads
  seq2seq benchmark CONFIG [--sweep FIELD=V,V,...] [--peers]     how fast it trains, generates and reads its data here
  seq2seq compile CONFIG --topology v5p:8x8x16 [--sweep ...]    memory and estimated time on chips that are not there

CONFIG is a Python file, or a name such as dates/transformer (see configs/). RUN is a run's directory.
Each command has --help; `seq2seq train CONFIG --help` lists every field of the experiment.
"""

COMMANDS = (
    "train", "data", "filter", "evaluate", "generate", "translate-corpus", "chat", "score", "rerank", "align",
    "average", "import", "export", "benchmark", "compile",
)  # fmt: skip

MODULES = {"import": "import_model", "export": "export_model", "translate-corpus": "translate_corpus"}
"""Command -> its module, where that has another name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line as `_run` does; ends quietly when what reads standard output has gone."""
    try:
        try:
            _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        end_quietly()


def _run(arguments: Sequence[str] | None) -> None:
    """Run the command line; does not return.

    Exit status: 0, 1 when training diverged or another process was lost, 2 for a mistake of the user's, 130 when
    interrupted, 141 when what reads the results has gone.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A text that the terminal has no letters for is shown by its numbers: hours of work must not end at that.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    # Set before jax is imported, which logs that accelerators are absent, and matplotlib, which logs that its cache has
    # no home.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    name, *rest = arguments
    if name not in COMMANDS:
        stop(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}.", 2)
    try:
        _run_command(name, rest)
    except BrokenPipeError:
        # An OSError, but none to report.
        raise
    except ValueError as error:
        if logging.getLogger("seq2seq_jax").isEnabledFor(logging.DEBUG):
            raise
        stop(_with_notes(str(error), error), 2)
    except OSError as error:
        untouched = "What was complete before is untouched; correct this and run the same command again."
        stop(_with_notes(f"{_of_system(error)} {untouched}", error), 2)
    except KeyboardInterrupt as interrupt:
        then = " The same command continues from the last checkpoint." if name == "train" else ""
        stop(_with_notes(f"interrupted.{then}", interrupt), 130)
    except Exception as error:
        if _is_out_of_memory(error) and not is_one_of_several():
            stop(
                _with_notes(
                    f"there is too little memory ({' '.join(str(error).split())[:200] or 'MemoryError'}). Lower "
                    "training.target_tokens_per_batch, generation.source_tokens_per_batch or the sizes of the model, "
                    "or divide it over more devices (mesh).",
                    error,
                ),
                2,
            )
        if (status := getattr(error, "exit_status", None)) is not None:
            stop(str(error), status)
        if not is_one_of_several():
            raise
        traceback.print_exc()
        stop("this is a defect of seq2seq_jax; please report it with the lines above.", 1)
    sys.exit(0)


def _unraisable(late: Any) -> None:
    """Takes an exception that Python cannot raise where it came, as in a callback of the garbage collector.

    Those after an error that is reported are left out: reads of a damaged checkpoint that nobody waits for. An
    interrupt comes again: jax has such a callback, in which the main thread spends much of its time.
    """
    if late.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()
    logging.getLogger(__name__).debug("%s: %s", late.object, late.exc_value)


def _run_command(name: str, arguments: list[str]) -> None:
    """Import a command, no sooner than its command line is known to make sense, and run it."""
    if name == "benchmark" and arguments[:1] == ["--peers"]:
        name, arguments = "peers", arguments[1:]
    parsed = (options.parse(name, arguments),) if name in options.COMMANDS else ()
    # Without a run there is help, or a mistake.
    if parsed or name == "peers" or (arguments and not arguments[0].startswith("-")):
        set_flags()
        keep_memory_between_steps()
    importlib.import_module(f"seq2seq_jax.commands.{MODULES.get(name, name)}").run(arguments, *parsed)


def _with_notes(message: str, error: BaseException) -> str:
    """A message, and what those through whose hands the error went have to say of their work."""
    return " ".join([message, *getattr(error, "__notes__", ())])


def _is_out_of_memory(error: Exception) -> bool:
    # By its text: jax has one class for all that a device reports, and need not be imported here.
    return isinstance(error, MemoryError) or (
        type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "RESOURCE_EXHAUSTED" in str(error)
    )


def _of_system(error: OSError) -> str:
    """A sentence on what the operating system refused."""
    if error.errno == errno.ENAMETOOLONG and error.filename is not None:
        longest = max(os.fsdecode(error.filename).split(os.sep), key=len)
        return (
            f"a name of {len(os.fsencode(longest))} bytes is longer than the file system takes (255 as a rule): "
            f"{longest[:40]}... Give a shorter one."
        )
    return f"{error}."
