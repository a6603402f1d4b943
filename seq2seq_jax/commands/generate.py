"""`seq2seq generate`: a line out for a line in."""

import dataclasses
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.conversation import converse
from seq2seq_jax.commands.ensemble import InferenceArguments, open_run
from seq2seq_jax.commands.line_controls import open_line_controls
from seq2seq_jax.commands.outputs import STANDARD_OUTPUT, OutputFile, open_outputs
from seq2seq_jax.commands.sounds import reads_sounds, sounds_of, with_one_input
from seq2seq_jax.commands.sources import (
    Source,
    describe_all_long,
    grouped,
    max_line_bytes,
    read_sources,
    refuse_names,
)
from seq2seq_jax.data.lines import is_unicode, open_input
from seq2seq_jax.data.splitting import TooLong
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from seq2seq_jax.generation.controls import LineControls
    from seq2seq_jax.generation.generator import Generator, Hypothesis
    from seq2seq_jax.generation.sources import FittedSources

PROGRAM = "seq2seq generate RUN"
DESCRIPTION = """\
Lines of standard input (or --input) in, as many lines on standard output (or --output) out, in the same order, UTF-8,
by the model of RUN, the directory of a run. They are read, generated from and written in batches, so that a file may be
of any length, and what comes through a pipe is answered as it comes. A blank line in is a blank line out. A line break
within a generated text becomes a space; --json keeps it. In a terminal, each line is answered before the next.
"""
NAMED_LINES = 10
"""Lines that are too long and described, each on a line; those after them are counted."""
OWN_FIELDS = {"source", "parts", "hypotheses"}
"""Of a record of --json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateArguments(InferenceArguments):
    """Command line of `seq2seq generate`."""

    input: str | None = None
    """File or pipe with sources, one per line, plain or gzipped; None or - = standard input. For speech: audio files
    (*.wav), manifests (.tsv, .jsonl), or lists of paths, a line each."""
    field: str | None = None
    """The input has named fields, and this one holds the source: JSON lines (an object per line), or tab-separated with
    the names in line 1 (.tsv); or a text with the names of several in braces. "" = every line is a source, whatever it
    looks like."""
    line_field: str | None = None
    """Field with the number of each source's line, from 1, which what is drawn for it depends on, so that lines of
    another file get the samples that they had there; None = the lines are counted."""
    prefixes: str | None = None
    """File with what the texts of each source begin with, a line per source; an empty one asks for nothing."""
    phrases: str | None = None
    """File with phrases that the texts of each source contain, a line per source, separated by tabs; with beam
    search."""
    prefix_field: str | None = None
    """Field of the input that holds prefixes instead, with --field."""
    phrases_field: str | None = None
    """Field of the input that holds phrases instead: a text, or in JSON lines a list of texts."""
    output: str | None = None
    """File for the generated lines; None or - = standard output."""
    json: str | None = None
    """File for JSON lines: the other fields of the input, source, parts (that it was split in), and hypotheses: the n
    best texts with scores, log-probabilities (nats) and token counts. - = standard output, in place of the lines."""
    n: int | None = None
    """Texts for each source, written on as many lines one after the other, blank ones where there are fewer; sets
    generation.n_best or generation.samples. None = the first."""
    too_long: TooLong | None = None
    """What happens to a source that is longer than the model takes. split: at the ends of sentences, or else of
    clauses, words or pieces of words; the parts' texts are joined, and their log-probabilities added. truncate: it is
    cut, at the end that training cuts. refuse: it is an error. None = split, or truncate if training truncates."""
    max_source_length: int | None = None
    """Tokens of the longest source that is taken as a whole (EOS token included). More than in training is possible
    where positions come from no table, takes memory with the square of the length, and may give worse texts. None =
    data.max_source_length."""
    interactive: bool | None = None
    """Each line that is typed is answered before the next. None = where standard input is a terminal."""
    generation: Method = BeamSearch()
    """How text is generated; by default as in training."""

    def __post_init__(self):
        if self.n is not None and self.n < 1:
            raise ValueError(f"--n must be at least 1, not {self.n}.")
        for name in ("line_field", "prefix_field", "phrases_field"):
            if getattr(self, name) is not None and not self.field:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} has no effect without --field: lines as they are have no fields.")
        if self.has_line_files and (self.prefix_field or self.phrases_field):
            raise ValueError("give prefixes and phrases as files (--prefixes, --phrases) or as fields, not as both.")
        if (self.input or "-", self.prefixes, self.phrases).count("-") > 1:
            raise ValueError("standard input is read once: name files for all but one of the inputs.")
        if self.interactive:
            if self.input is not None or self.field or self.has_line_files:
                raise ValueError(
                    "--interactive reads sources from the terminal, and has no effect with --input, --field, "
                    "--prefixes or --phrases."
                )
            if not _stdin_is_terminal():
                raise ValueError(
                    "--interactive needs a terminal as standard input. Leave it out: lines of a pipe are answered as "
                    "they come."
                )

    def refuse_text_options(self) -> None:
        """Refuse what has no effect where sources are sounds.

        Raises:
            ValueError: with the option.
        """
        for name in ("field", "line_field", "prefixes", "phrases", "prefix_field", "phrases_field", "interactive"):
            if getattr(self, name):
                option = name.replace("_", "-")
                raise ValueError(f"--{option} has no effect: the model reads sounds, of which --input names the files.")

    @property
    def is_interactive(self) -> bool:
        """Whether lines are typed and answered one by one."""
        if self.interactive is None:
            return self.input is None and not self.field and not self.has_line_files and _stdin_is_terminal()
        return self.interactive

    @property
    def has_line_files(self) -> bool:
        """Whether prefixes or phrases are read from files beside the sources."""
        return self.prefixes is not None or self.phrases is not None


def _stdin_is_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def run(arguments: list[str]) -> None:
    """Parse the command line, generate, write."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="generate")
    if directory is None:
        override(GenerateArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    with Display() as display:
        run = open_run(directory, rest, display=display, program=PROGRAM)
        rest, inputs_given = with_one_input(rest) if reads_sounds(run) else (rest, ())
        chosen = override(
            GenerateArguments(generation=run.experiment.generation, mesh=run.experiment.mesh),
            _with_flag(rest, "--interactive"),
            program=PROGRAM,
            description=DESCRIPTION,
        )
        if chosen.compilation_cache:
            keep_compiled_programs()
        method = chosen.generation if chosen.n is None else chosen.generation.with_num_texts(chosen.n)
        run = run.with_parts(generation=method, mesh=chosen.mesh)
        generator = run.system.generator_by(method, max_source_length=chosen.max_source_length)
        json_is_output = chosen.json in STANDARD_OUTPUT
        outputs = [("--output", chosen.output or (None if json_is_output else "-")), ("--json", chosen.json)]
        inputs = [*(inputs_given or [chosen.input]), chosen.prefixes, chosen.phrases]
        with open_outputs(*outputs, inputs=inputs) as (text_file, json_file):
            if json_is_output and text_file is not None and text_file.is_standard_output:
                raise ValueError("--output and --json are both standard output. Name a file for one of them.")
            if method.num_texts > 1 and chosen.n is None and chosen.json is None:
                display.line(
                    f"the first of {method.num_texts} texts for each line is written; --n {method.num_texts} writes "
                    "all of them, --json FILE with their scores"
                )
            results = _Results(text_file, json_file, num_texts=chosen.n or 1)
            work = _Work(generator, chosen.too_long, results, display)
            if chosen.is_interactive and not reads_sounds(run):
                work.params = run.parameters(chosen.checkpoint)[0]
                display.end_bars()
                converse(work.answer, say=display.line)
                results.end()
                return
            max_bytes = max_line_bytes(run, chosen.max_source_length)
            sounds = None
            if reads_sounds(run):
                chosen.refuse_text_options()
                sounds = sounds_of(inputs_given or (chosen.input or "-",), run, say=display.line)
            with (
                open_input(chosen.input if sounds is None else os.devnull, max_bytes=max_bytes) as given,
                open_line_controls(
                    prefixes=chosen.prefixes,
                    phrases=chosen.phrases,
                    prefix_field=chosen.prefix_field,
                    phrases_field=chosen.phrases_field,
                    max_bytes=max_bytes,
                ) as line_controls,
            ):

                def sources() -> Iterator[Source]:
                    if sounds is not None:
                        found = iter(sounds)
                    else:
                        found = read_sources(given, chosen.field, run, line_field=chosen.line_field)
                        found = found if line_controls is None else line_controls.attach(found)
                    if chosen.json is None:
                        return found
                    return (refuse_names(each, OWN_FIELDS, writer="--json") for each in found)

                may_wait = given.may_wait or (line_controls is not None and line_controls.may_wait)
                num_sources = None if may_wait else work.check(sources())
                work.params = run.parameters(chosen.checkpoint)[0]
                if results.is_terminal:
                    display.end_bars()
                groups = grouped(sources(), given.more_has_come, target_tokens_per_batch=method.source_tokens_per_batch)
                work.generate(groups, num_sources)


def _with_flag(arguments: list[str], option: str) -> list[str]:
    """The same arguments, with True behind an option that is given alone."""
    given = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        given += [argument, "True"] if argument == option and following.startswith("--") else [argument]
    return given


class _Results:
    """Files that results are written to, in the order of their sources."""

    def __init__(self, text_file: OutputFile | None, json_file: OutputFile | None, *, num_texts: int):
        """Args:
        num_texts: lines of `text_file` for each source.
        """
        self.num_written = 0
        self._text_file = text_file
        self._json_file = json_file
        self._files = [file for file in (text_file, json_file) if file is not None]
        self._num_texts = num_texts

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        return any(file.is_terminal for file in self._files)

    @property
    def have_failed(self) -> bool:
        """Whether no file takes anything more."""
        return all(file.failure for file in self._files)

    def write(
        self, sources: list[Source], fitted: "FittedSources", results: "dict[int, list[Hypothesis]]", start: int
    ) -> int:
        """Write results of sources, from the one at `start` on as far as they are there, and return the next index.

        Args:
            results: by the index of the source; what is written is removed.
        """
        end = start
        while end in results:
            end += 1
        if end > start:
            found = [results.pop(index) for index in range(start, end)]
            if self._text_file is not None:
                self._text_file.write("".join(map(self._lines, found)))
            if self._json_file is not None:
                parts = (len(fitted.parts[index]) for index in range(start, end))
                self._json_file.write("".join(map(_record, sources[start:end], parts, found)))
            self.num_written += end - start
        return end

    def end(self) -> None:
        """What an older file held is not the result of no lines."""
        for file in self._files:
            file.write("")

    def finish(self) -> None:
        """Say what failed.

        Raises:
            OSError: something could not be written.
        """
        for file in self._files:
            file.finish()

    def _lines(self, hypotheses: "list[Hypothesis]") -> str:
        texts = [as_line(each.text) for each in hypotheses[: self._num_texts]]
        return "".join(f"{text}\n" for text in [*texts, *[""] * (self._num_texts - len(texts))])


class _Work:
    """Generates from sources and writes what comes of it.

    Attributes:
        params: of the model.
    """

    params: Any

    def __init__(self, generator: "Generator", too_long: TooLong | None, results: _Results, display: Display):
        self._generator = generator
        self._too_long: TooLong | None = too_long
        self._results = results
        self._display = display
        self._num_long = self._num_parts = self._num_blank = 0

    def check(self, sources: Iterator[Source]) -> int:
        """Read sources to their end, before anything is made of them, and return how many there are.

        Raises:
            ValueError: as `read_sources` does; or one is longer than the model takes, where that is refused; or the
                controls of a line cannot be met.
        """
        num_sources = 0
        for group in grouped(
            sources, lambda: True, target_tokens_per_batch=self._generator.method.source_tokens_per_batch
        ):
            controls = _controls(group)
            if self._too_long == "refuse" or controls is not None:
                try:
                    fitted = self._fit(group, num_sources)
                    if controls is not None:
                        self._generator.encode_controls(controls, fitted)
                except ValueError as error:
                    error.add_note(_written(0))
                    raise
            num_sources += len(group)
        return num_sources

    def generate(self, groups: Iterator[list[Source]], num_sources: int | None) -> None:
        """Generate from group after group and write each line as soon as all before it are there.

        Args:
            num_sources: of all groups; None = not known before the end.

        Whatever ends it early has a note of what is written.

        Raises:
            ValueError: a source is longer than the model takes, where that is refused.
        """
        results, shows = self._results, not self._results.is_terminal
        num_done = 0
        try:
            for sources in groups:
                for done in self._generate(sources, num_done):
                    # While more may come, nothing is complete.
                    if shows and (num_sources is not None or done < len(sources)):
                        self._display.progress("generating", num_done + done, num_sources or num_done + len(sources))
                if results.have_failed:
                    return
                num_done += len(sources)
        except BaseException as error:
            error.add_note(_written(results.num_written))
            raise
        results.end()
        if num_sources is None and num_done and shows:
            self._display.progress("generating", num_done, num_done)
        self._describe(num_done)

    def answer(self, text: str, number: int) -> None:
        """Generate from one source and write what comes of it.

        Args:
            number: of its line.

        Raises:
            OSError: it could not be written.
        """
        for _ in self._generate([Source(text)], number - 1):
            pass
        self._results.finish()

    def _generate(self, sources: list[Source], num_before: int) -> Iterator[int]:
        """Generate from a group, and write; after each batch the number of its sources that are done."""
        from seq2seq_jax.generation.sources import describe_long

        fitted = self._fit(sources, num_before)
        for each in fitted.long:
            self._num_long += 1
            self._num_parts += each.num_parts
            if self._num_long <= NAMED_LINES:
                self._display.line(describe_long(each, self._generator.max_source_length))
            elif self._num_long == NAMED_LINES + 1:
                self._display.line("further lines that are too long are counted, and not named")
        self._num_blank += sum(not parts for parts in fitted.parts)
        waiting: dict[int, list[Hypothesis]] = {}
        start = done = 0
        for batch in self._generator.generate_batches(self.params, fitted, controls=_controls(sources)):
            waiting |= batch
            done += len(batch)
            start = self._results.write(sources, fitted, waiting, start)
            if self._results.have_failed:
                return
            yield done

    def _fit(self, sources: list[Source], num_before: int) -> "FittedSources":
        numbers = [each.number for each in sources if each.number is not None]
        return self._generator.sources.fit(
            [each.given for each in sources],
            too_long=self._too_long,
            first_line=num_before + 1,
            lines=numbers or None,
        )

    def _describe(self, num_sources: int) -> None:
        """Say how many sources were not as the model takes them."""
        if self._num_long:
            self._display.line(
                describe_all_long(
                    num_long=self._num_long,
                    num_parts=self._num_parts,
                    num_sources=num_sources,
                    max_length=self._generator.max_source_length,
                )
            )
        if self._num_blank:
            verb, outputs = ("is", "is its output") if self._num_blank == 1 else ("are", "are their outputs")
            self._display.line(f"{self._num_blank:,} of {num_sources:,} sources {verb} blank, and so {outputs}")


def _controls(sources: list[Source]) -> "list[LineControls] | None":
    """The controls of each source; None = there are none."""
    found = [source.controls for source in sources if source.controls is not None]
    return found or None


def _written(num_done: int) -> str:
    return "Nothing was generated." if num_done == 0 else f"The outputs of the first {num_done:,} sources are written."


def _record(source: Source, num_parts: int, hypotheses: "list[Hypothesis]") -> str:
    own = {
        "source": source.text,
        "parts": max(1, num_parts),
        "hypotheses": [dataclasses.asdict(each) for each in hypotheses],
    }
    record = (source.fields or {}) | own
    line = json.dumps(record, ensure_ascii=False)
    # Other fields may hold what only JSON's escapes can say: half of a surrogate pair.
    return (line if is_unicode(line) else json.dumps(record)) + "\n"


def as_line(text: str) -> str:
    """A generated text as one line: a model whose tokens are bytes can write line breaks, which become spaces."""
    return re.sub("\r\n|\r|\n", " ", text)
