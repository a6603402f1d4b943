"""`seq2seq chat`: a conversation with a model."""

import contextlib
import dataclasses
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.conversation import converse
from seq2seq_jax.commands.ensemble import InferenceArguments, open_run
from seq2seq_jax.commands.generate import as_line
from seq2seq_jax.commands.outputs import OutputFile, open_outputs
from seq2seq_jax.commands.sources import max_line_bytes
from seq2seq_jax.data.lines import is_blank, open_input
from seq2seq_jax.generation.methods import Method, Sampling
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from seq2seq_jax.experiment import Experiment
    from seq2seq_jax.generation.generator import Generator, Hypothesis
    from seq2seq_jax.run.inference import Inference
    from seq2seq_jax.tasks.task import Exchange

PROGRAM = "seq2seq chat RUN"
DESCRIPTION = """\
A conversation with the model of RUN, the directory of a run whose task holds conversations. It reads what was said so
far in the form that it was trained on; where that is too long, the oldest turns are left out. Answers are drawn by
chance (top_p 0.9) unless RUN or --generation has another way; the same lines get the same answers again, another
--generation.seed others. Lines of a pipe are answered with a line each. Commands:

  /undo                    take the last exchange back
  /retry                   another answer to what was said last
  /reset                   begin anew
  /settings                how answers are generated
  /settings NAME=VALUE...  change that, such as /settings temperature=0.7 top_p=None
  /help                    these commands; a line that shall begin with a slash has two
"""
COMMANDS = ("/undo", "/retry", "/reset", "/settings", "/help")
HELP = DESCRIPTION.partition("Commands:\n\n")[2].rstrip()
TOP_P = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatArguments(InferenceArguments):
    """Command line of `seq2seq chat`."""

    transcript: str | None = None
    """File for what is said as JSON lines: user, answer, what else is shown, and commands, as they come."""
    generation: Method = Sampling(top_p=TOP_P)
    """How answers are generated; by default drawn by chance where the model says what it generates, otherwise as in
    training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """What `/settings` changes."""

    generation: Method


def run(arguments: list[str]) -> None:
    """Parse the command line, converse."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="chat")
    if directory is None:
        override(ChatArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    with Display() as display:
        run = open_run(directory, rest, display=display, program=PROGRAM)
        experiment = run.experiment
        chosen = override(
            ChatArguments(generation=_default_method(experiment), mesh=experiment.mesh),
            rest,
            program=PROGRAM,
            description=DESCRIPTION,
        )
        if not experiment.task.converses:
            raise ValueError(
                f"{directory} holds no conversations: its task is {type(experiment.task).__name__}. Name a run of "
                "another task, such as conversation, or use seq2seq generate, which answers lines one by one."
            )
        if chosen.compilation_cache:
            keep_compiled_programs()
        run = run.with_parts(generation=chosen.generation.with_num_texts(1), mesh=chosen.mesh)
        with open_outputs(("--transcript", chosen.transcript)) as [transcript]:
            if transcript is not None and transcript.is_standard_output:
                raise ValueError("--transcript takes a file: answers go to standard output. Name one.")
            chat = _Chat(run, run.parameters(chosen.checkpoint)[0], transcript, display)
            display.end_bars()
            if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
                greeting = "Say something. /help lists commands, Ctrl-C cancels an answer, Ctrl-D ends."
                converse(lambda line, number: chat.take(line), say=display.line, greeting=greeting)
                return
            with open_input(None, max_bytes=max_line_bytes(run)) as given:
                for line in given.lines():
                    try:
                        chat.take(line)
                    except ValueError as error:
                        # Such as a command that is none: what is said after it is answered.
                        display.line(str(error))


def _default_method(experiment: "Experiment") -> Method:
    """How answers are generated where nothing else is said, with the limits that the run has."""
    method = experiment.generation
    if isinstance(method, Sampling) or not experiment.task.says_output:
        return method
    limits = ("maximum_length_ratio", "maximum_length_extra", "controls")
    return Sampling(top_p=TOP_P, **{name: getattr(method, name) for name in limits})


class _Chat:
    """A conversation: what was said, and how it continues."""

    def __init__(self, run: "Inference", params: Any, transcript: OutputFile | None, display: Display):
        self._run = run
        self._params = params
        self._transcript = transcript
        self._display = display
        self._method: Method = run.experiment.generation
        self._generator: Generator = run.system.generator_by(self._method)
        self._exchanges: list[Exchange] = []
        self._num_answers = 0

    def take(self, line: str) -> None:
        """Answer a line, or do what a command says.

        Raises:
            ValueError: there is no such command or setting, or nothing to take back.
            OSError: something could not be written.
        """
        name, _, rest = line.strip().partition(" ")
        if is_blank(line):
            if not sys.stdout.isatty():
                _print("\n")
        elif not name.startswith("/") or name.startswith("//"):
            self._answer(line.strip().removeprefix("/"))
        elif name not in COMMANDS or (rest and name != "/settings"):
            raise ValueError(f"there is no command {line.strip()!r}; the commands are {', '.join(COMMANDS)}.")
        elif name == "/help":
            self._display.line(HELP)
        elif name == "/settings":
            self._set(rest.split())
        elif name == "/reset":
            self._exchanges.clear()
            self._record({"command": name})
            self._display.line("begun anew.")
        else:
            if not self._exchanges:
                raise ValueError(f"{name} has nothing to take back: nothing was said yet.")
            user = self._exchanges[-1].user
            if name == "/retry":
                self._answer(user, instead=True)
            else:
                self._exchanges.pop()
                self._record({"command": name})
                self._display.line(f"taken back: {user}")

    def _answer(self, user: str, *, instead: bool = False) -> None:
        """Say the answer to what a person says.

        Args:
            user: what they say.
            instead: of the last exchange.
        """
        from seq2seq_jax.tasks.task import Exchange

        experiment = self._run.experiment
        before = self._exchanges[:-1] if instead else self._exchanges[:]
        [ids] = self._generator.sources.encode([experiment.task.chat_source(experiment.data, before, user)])
        # Another number for each answer, so that what was taken back is not drawn again.
        self._num_answers += 1
        streams = experiment.task.says_output and self._generator.can_stream and sys.stdout.isatty()
        found = self._streamed(ids) if streams else self._generated(ids)
        said = [*before, Exchange(user, found.text)]
        reply = experiment.task.chat_reply(experiment.data, said)
        if not streams:
            _print("".join(f"[{name}] {as_line(text)}\n" for name, text in reply.shown.items()))
            if reply.text or not reply.shown:
                _print(f"{as_line(reply.text)}\n")
        self._exchanges = said
        self._record(
            {
                **({"command": "/retry"} if instead else {}),
                "turn": len(self._exchanges),
                "user": user,
                "answer": reply.text,
                **({"shown": dict(reply.shown)} if reply.shown else {}),
                "num_tokens": found.num_tokens,
                "log_probability": found.log_probability,
            }
        )

    def _generated(self, ids: list[int], on_token: Callable[[int], None] | None = None) -> "Hypothesis":
        return self._generator.generate_one(self._params, ids, line=self._num_answers, on_token=on_token)

    def _streamed(self, ids: list[int]) -> "Hypothesis":
        """Say an answer while it is generated. Where that is interrupted, what was said stands there."""
        decode = self._run.tokenizer.decode_target
        text = _Growing()
        try:
            with _in_the_background(lambda hear: self._generated(ids, hear)) as (tokens, result):
                said: list[int] = []
                for token in tokens:
                    said.append(token)
                    _print(text.more(decode(said)))
            found = result()
            _print(text.rest(found.text))
        finally:
            _print("\n")
        return found

    def _set(self, settings: list[str]) -> None:
        """Change fields of the method, and say all of them."""
        options = []
        known = [each.partition("=")[0] for each in _settings_of(self._method)]
        for setting in settings:
            name, given, value = setting.partition("=")
            if not given:
                raise ValueError(f"/settings takes NAME=VALUE, such as temperature=0.7, and got {setting!r}.")
            if name not in known:
                raise ValueError(f"there is no setting {name!r}; the settings are {', '.join(known)}.")
            options += [f"--generation.{name}", value]
        if options:
            try:
                chosen = override(_Settings(generation=self._method), options, program="/settings")
            except ValueError as error:
                # What it says of the command line and of --help is left out.
                said = str(error).removeprefix("Error parsing generation: ").removesuffix(" See /settings --help.")
                raise ValueError(said) from error
            method = chosen.generation.with_num_texts(1)
            self._generator, self._method = self._run.system.generator_by(method), method
            self._record({"command": "/settings", "settings": settings})
        self._display.line(f"{type(self._method).__name__}: {', '.join(_settings_of(self._method))}")

    def _record(self, record: dict[str, Any]) -> None:
        if self._transcript is not None:
            self._transcript.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._transcript.finish()


class _Growing:
    """A text that is said as it grows."""

    def __init__(self):
        self._said = ""

    def more(self, text: str) -> str:
        """What is new of the text so far; of a character whose bytes are not all there nothing."""
        whole = as_line(text.rstrip("\ufffd"))
        return self._say(whole) if whole.startswith(self._said) else ""

    def rest(self, text: str) -> str:
        """What is new of the whole text; all of it, on a line of its own, where it is not what was said."""
        whole = as_line(text)
        return self._say(whole) if whole.startswith(self._said) else f"\n{whole}"

    def _say(self, whole: str) -> str:
        new, self._said = whole[len(self._said) :], whole
        return new


@contextlib.contextmanager
def _in_the_background(work: Callable[[Callable[[int], None]], "Hypothesis"]) -> Iterator[tuple[Iterator[int], Any]]:
    """Tokens of a work in another thread as they come, and a function that gives its result: so an interrupt is heard
    at once. The work itself cannot be ended; what comes of it after an interrupt is waited for and dropped.

    Args:
        work: takes a function that takes tokens.
    """
    heard: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results: list[Any] = []

    def target() -> None:
        try:
            results.append(work(heard.put))
        except BaseException as error:
            results.append(error)
        finally:
            heard.put(None)

    def result() -> "Hypothesis":
        thread.join()
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    thread = threading.Thread(target=target, name="answer", daemon=True)
    thread.start()
    try:
        yield iter(heard.get, None), result
    finally:
        thread.join()


def _settings_of(method: Method) -> Iterator[str]:
    """NAME=VALUE of each setting; those of controls behind the others."""
    for field in dataclasses.fields(method):
        if field.name != "controls":
            yield f"{field.name}={getattr(method, field.name)}"
    for field in dataclasses.fields(method.controls):
        yield f"controls.{field.name}={getattr(method.controls, field.name)}"


def _print(text: str) -> None:
    """Write to standard output at once, as UTF-8 as other commands do."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
