"""`seq2seq generate`: a line out for a line in."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.ensemble import EnsembleArguments, open_run
from seq2seq_jax.commands.outputs import OutputFile, open_outputs
from seq2seq_jax.data.lines import Input, is_blank, open_input
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.parallel.mesh_config import MeshConfig

if TYPE_CHECKING:
    import seq2seq_jax.generation.generator
    import seq2seq_jax.run.inference

PROGRAM = "seq2seq generate RUN"
DESCRIPTION = """\
Lines of standard input (or --input) in, as many lines on standard output (or --output) out, in the same order, UTF-8,
by the model of RUN, the directory of a run. They are read, generated from and written in batches, so that a file may be
of any length, and what comes through a pipe is answered as it comes. A blank line in is a blank line out. A line break
within a generated text becomes a space; --json keeps it.
"""
FIRST_GROUP_BATCHES, LAST_GROUP_BATCHES = 16, 512
"""Characters of the first and of the largest group of sources, for each token of a batch. Groups grow, so that the
first results come soon, and few batches have the rest of a group in them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateArguments(EnsembleArguments):
    """Command line of `seq2seq generate`."""

    input: str | None = None
    """File or pipe with sources, one per line, plain or gzipped; None or - = standard input."""
    field: str | None = None
    """The input has named fields, and this one holds the source: JSON lines (an object per line), or tab-separated with
    the names in line 1 (.tsv). "" = every line is a source, whatever it looks like."""
    output: str | None = None
    """File for the generated lines; None = standard output."""
    json: str | None = None
    """File for JSON lines: source, and the n best texts with scores, log-probabilities (nats) and token counts."""
    checkpoint: str = "best"
    """best, latest, or a step."""
    compilation_cache: bool = True
    """Keep compiled programs below the user's cache directory for the next time, unless JAX has a directory of its
    own."""
    generation: Method = BeamSearch()
    """How text is generated; by default as in training."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where RUN names classes in them; True =
    all."""


def run(arguments: list[str]) -> None:
    """Parse the command line, generate, write."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="generate")
    if directory is None:
        override(GenerateArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    with Display() as display:
        run = open_run(directory, rest, display=display, program=PROGRAM)
        chosen = override(
            GenerateArguments(generation=run.experiment.generation, mesh=run.experiment.mesh),
            rest,
            program=PROGRAM,
            description=DESCRIPTION,
        )
        if chosen.compilation_cache:
            keep_compiled_programs()
        run = run.with_parts(generation=chosen.generation, mesh=chosen.mesh)
        outputs = [("--output", chosen.output or "-"), ("--json", chosen.json)]
        with open_outputs(*outputs, inputs=[chosen.input]) as (text_file, json_file):
            if chosen.generation.num_texts > 1 and chosen.json is None:
                display.line(
                    f"the first of {chosen.generation.num_texts} texts for each line is written; "
                    "--json FILE has all of them"
                )
            with open_input(chosen.input, max_bytes=max_line_bytes(run)) as given:
                num_sources = None if given.may_wait else check_sources(given, chosen.field, run)
                params, _ = run.parameters(chosen.checkpoint)
                if given.may_wait and chosen.input in (None, "-") and sys.stdin.isatty():
                    display.line("reading sources from the terminal, one per line; end with Ctrl-D")
                if text_file.is_terminal:
                    display.end_bars()
                groups = grouped(
                    read_sources(given, chosen.field, run),
                    given.more_has_come,
                    target_tokens_per_batch=chosen.generation.source_tokens_per_batch,
                )
                _generate(run.system.generator, params, groups, num_sources, text_file, json_file, display)


def _generate(
    generator: "seq2seq_jax.generation.generator.Generator",
    params: Any,
    groups: Iterator[list[str]],
    num_sources: int | None,
    text_file: OutputFile,
    json_file: OutputFile | None,
    display: Display,
) -> None:
    """Generate from group after group and write each.

    Args:
        num_sources: of all groups; None = not known before the end.

    Whatever ends it early has a note of what is written.

    Raises:
        ValueError: a source is longer than the model takes.
    """
    files = [file for file in (text_file, json_file) if file is not None]
    num_done = num_blank = num_cut = 0

    def progress(done: int, total: int) -> None:
        # While more may come, nothing is complete.
        if not text_file.is_terminal and (num_sources is not None or done < total):
            display.progress("generating", num_done + done, num_sources or num_done + total)

    try:
        for sources in groups:
            generator.encode(sources, first_line=num_done + 1)
            results = generator.generate(params, sources, first_line=num_done + 1, progress=progress)
            text_file.write("".join(f"{as_line(hypotheses[0].text)}\n" for hypotheses in results))
            if json_file is not None:
                json_file.write("".join(map(_record, sources, results)))
            if all(file.failure for file in files):
                return
            num_done += len(sources)
            num_blank += sum(map(is_blank, sources))
            num_cut += len(generator.too_long(sources)) if generator.truncate else 0
    except BaseException as error:
        error.add_note(_written(num_done))
        raise
    # What an older file held is not the result of no lines.
    for file in files:
        file.write("")
    if num_sources is None and num_done and not text_file.is_terminal:
        display.progress("generating", num_done, num_done)
    if num_cut:
        longest = generator.max_source_length
        display.line(f"cut {num_cut:,} of {num_done:,} lines to the {longest} tokens that the model takes")
    if num_blank:
        verb, outputs = ("is", "is its output") if num_blank == 1 else ("are", "are their outputs")
        display.line(f"{num_blank:,} of {num_done:,} sources {verb} blank, and so {outputs}")


def _written(num_done: int) -> str:
    return "Nothing was generated." if num_done == 0 else f"The outputs of the first {num_done:,} sources are written."


def _record(source: str, hypotheses: "list[seq2seq_jax.generation.generator.Hypothesis]") -> str:
    record = {"source": source, "hypotheses": [dataclasses.asdict(each) for each in hypotheses]}
    return json.dumps(record, ensure_ascii=False) + "\n"


def as_line(text: str) -> str:
    """A generated text as one line: a model whose tokens are bytes can write line breaks, which become spaces."""
    return re.sub("\r\n|\r|\n", " ", text)


def max_line_bytes(run: "seq2seq_jax.run.inference.Inference") -> int:
    """Bytes of the longest line that is read as a source: more than fit the tokens that the model takes."""
    return max(2**20, 64 * run.experiment.max_source_length)


def read_sources(given: Input, field: str | None, run: "seq2seq_jax.run.inference.Inference") -> Iterator[str]:
    """The sources of an input: its lines, or a field of the examples that its lines hold.

    Args:
        field: name of the field; "" = lines as they are; None = lines, unless they look like a table.
        run: the field that it was trained on is suggested.

    Raises:
        ValueError: the input looks like a table and no field is named, or it is none and one is; and as the lines do.
    """
    from seq2seq_jax.data.tables import READERS

    lines = given.lines()
    if field == "":
        return lines
    first = next(lines, None)
    if first is None:
        return iter(())
    kind, names = _kind(given.name, first)
    lines = _with_first(first, lines)
    if field is None:
        if kind is not None:
            data = run.experiment.data
            likely = [name for name in names if name == data.field_of(run.experiment.task.source_column)]
            name = (likely or names or ["NAME"])[0]
            raise ValueError(
                f"{given.name} looks like {'JSON lines' if kind == '.jsonl' else 'a table'}"
                f"{' with the fields ' + ', '.join(names) if names else ''}. Say which field holds the source, as in "
                f"--field {name}, or --field '' if every line is a source as it is."
            )
        return lines
    return (source for (source,) in READERS[kind or ".tsv"](lines, given.name, (field,)))


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _kind(name: str, first: str) -> tuple[str | None, list[str]]:
    """What kind of table an input is by its name and its first line, and the names of the fields; None = none."""
    from seq2seq_jax.data.tables import fields_of, suffix_of

    if suffix_of(name) == ".jsonl" or fields_of(first):
        return ".jsonl", fields_of(first)
    if suffix_of(name) == ".tsv" and "\t" in first:
        return ".tsv", first.split("\t")
    return None, []


def check_sources(given: Input, field: str | None, run: "seq2seq_jax.run.inference.Inference") -> int:
    """Read an input to its end, before anything is made of it, and return how many sources it has.

    Raises:
        ValueError: as `read_sources` does, or a source is longer than the model takes.
    """
    num_sources = 0
    sources = read_sources(given, field, run)
    for group in grouped(
        sources, given.more_has_come, target_tokens_per_batch=run.experiment.generation.source_tokens_per_batch
    ):
        try:
            run.system.generator.encode(group, first_line=num_sources + 1)
        except ValueError as error:
            error.add_note(_written(0))
            raise
        num_sources += len(group)
    return num_sources


def grouped(
    sources: Iterator[str], more_has_come: Callable[[], bool], *, target_tokens_per_batch: int
) -> Iterator[list[str]]:
    """Sources in groups that are generated from together, each as soon as it is full or nothing more has come.

    Which group a source of a file is in depends on the text alone.

    Args:
        target_tokens_per_batch: of a batch, which groups hold several of.
    """
    room = FIRST_GROUP_BATCHES * target_tokens_per_batch
    group, size = [], 0
    for source in sources:
        group.append(source)
        size += len(source) + 1
        if size >= room or not more_has_come():
            yield group
            group, size, room = [], 0, min(2 * room, LAST_GROUP_BATCHES * target_tokens_per_batch)
    if group:
        yield group
