"""`seq2seq translate-corpus`: a corpus of generated texts, made in shards, by several processes, killed and continued.

What comes of it is training data: translations back into the source language (Sennrich et al. 2016), a teacher's texts
(Kim and Rush 2016), more translations of the same sources (Nguyen et al. 2020).
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.ensemble import InferenceArguments, open_run
from seq2seq_jax.commands.generate import as_line
from seq2seq_jax.commands.outputs import refuse_unwritable_directory
from seq2seq_jax.commands.sounds import reads_sounds
from seq2seq_jax.commands.sources import Source, describe_all_long, max_line_bytes, read_sources, refuse_names
from seq2seq_jax.data.generated_corpus import GeneratedCorpus
from seq2seq_jax.data.lines import open_input
from seq2seq_jax.data.splitting import TooLong
from seq2seq_jax.files import file_digest
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.paths import user_path

if TYPE_CHECKING:
    from seq2seq_jax.generation.generator import Generator

PROGRAM = "seq2seq translate-corpus RUN"
DESCRIPTION = """\
Generate from every line of --input and make a corpus of it in the directory --output: JSON lines with the number of the
line, source, output, and the log-probability of the output (nats). It is made in shards, each complete or absent, so
that the same command continues where it was killed, and ends with the same bytes; with --part, several processes make
shards at the same time. When all are there, they become one file, corpus.jsonl.gz, which a table reads:
seq2seq train own_table/transformer --data.train corpus.jsonl.gz --data.source output --data.target source.
"""

OWN_FIELDS = ("line", "source", "output", "log_probability", "num_tokens")
"""Of a record; with several texts of a source NUMBER, too."""
NUMBER = "number"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslateCorpusArguments(InferenceArguments):
    """Command line of `seq2seq translate-corpus`."""

    input: str | None = None
    """File with sources, one per line, plain or gzipped; required."""
    output: str | None = None
    """Directory of the corpus, new or to be continued; required."""
    field: str | None = None
    """The input has named fields, and this one holds the source: see `seq2seq generate`."""
    n: int = 1
    """Texts for each source, a record each; sets generation.n_best or generation.samples."""
    shard_lines: int = 8_192
    """Lines of the input in a shard."""
    part: str = "1/1"
    """Which of the shards this process makes: 2/8 = those of the second of eight processes."""
    too_long: TooLong | None = None
    """What happens to a source that is longer than the model takes: split, truncate or refuse. None = split, or
    truncate if training truncates."""
    generation: Method = BeamSearch()
    """How text is generated; by default as in training."""

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"--n must be at least 1, not {self.n}.")
        if self.shard_lines < 1:
            raise ValueError(f"--shard-lines must be at least 1, not {self.shard_lines}.")
        number, count = self.share
        if not 1 <= number <= count:
            raise ValueError(f"--part must be 1/N to N/N, such as 2/8, not {self.part!r}.")

    @property
    def share(self) -> tuple[int, int]:
        """Number of this process, from 1, and number of processes."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part)
        return (int(match[1]), int(match[2])) if match else (0, 0)


def run(arguments: list[str]) -> None:
    """Parse the command line, generate, write."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="translate-corpus")
    if directory is None:
        override(TranslateCorpusArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    with Display() as display:
        run = open_run(directory, rest, display=display, program=PROGRAM)
        chosen = override(
            TranslateCorpusArguments(generation=run.experiment.generation, mesh=run.experiment.mesh),
            rest,
            program=PROGRAM,
            description=DESCRIPTION,
        )
        for name in ("input", "output"):
            if getattr(chosen, name) is None:
                raise ValueError(f"{PROGRAM} needs --{name}. See seq2seq translate-corpus --help.")
        if reads_sounds(run):
            raise ValueError(f"{PROGRAM} reads lines of text, and {directory} reads sounds: use seq2seq generate.")
        output = user_path(chosen.output)
        refuse_unwritable_directory(output)
        if chosen.compilation_cache:
            keep_compiled_programs()
        method = chosen.generation.with_num_texts(chosen.n)
        run = run.with_parts(generation=method, mesh=chosen.mesh)
        generator = run.system.generator_by(method)
        if not user_path(chosen.input).is_file():
            raise ValueError(f"--input must be a file, which is read more than once, and {chosen.input} is none.")
        with open_input(chosen.input, max_bytes=max_line_bytes(run)) as given:

            def sources() -> Iterator[Source]:
                own = OWN_FIELDS if chosen.n == 1 else (*OWN_FIELDS, NUMBER)
                found = read_sources(given, chosen.field, run)
                return (refuse_names(each, own, writer="the corpus") for each in found)

            # What a mistake in the last line would end is not begun.
            num_sources = sum(1 for _ in sources())
            if not num_sources:
                raise ValueError(f"expected lines of text in {chosen.input}; the file is empty: give one with text.")
            params, step = run.parameters(chosen.checkpoint)
            corpus = GeneratedCorpus(
                output,
                {
                    "input": {"lines": num_sources, "sha256": file_digest(Path(user_path(chosen.input)))},
                    "field": chosen.field,
                    "parameters": {"step": step, "sha256": _digest(params)},
                    "method": {"class": type(method).__name__, **dataclasses.asdict(method)},
                    "precision": run.experiment.model.precision,
                    "too long": chosen.too_long,
                    "number of lines in a shard": chosen.shard_lines,
                },
                num_shards=-(-num_sources // chosen.shard_lines),
            )
            _make(corpus, generator, params, sources(), num_sources=num_sources, chosen=chosen, display=display)
        display.end_bars()
        if corpus.finish():
            display.line(f"{num_sources:,} sources, {chosen.n} texts each, in {corpus.path}")
        else:
            display.line(
                f"{corpus.missing():,} of {corpus.num_shards:,} shards are left to the other parts; the last one to end"
                f" writes {corpus.path}"
            )


def _make(
    corpus: GeneratedCorpus,
    generator: "Generator",
    params: Any,
    sources: Iterator[Source],
    *,
    num_sources: int,
    chosen: TranslateCorpusArguments,
    display: Display,
) -> None:
    """Make the shards of this part that are missing."""
    number, count = chosen.share
    size = chosen.shard_lines
    num_done = num_made = num_long = num_parts = 0
    for shard in range(corpus.num_shards):
        group = list(itertools.islice(sources, size))
        if shard % count == number - 1 and not corpus.has(shard):
            fitted = generator.sources.fit(
                [each.text for each in group], too_long=chosen.too_long, first_line=shard * size + 1
            )
            num_made += len(group)
            num_long += len(fitted.long)
            num_parts += sum(each.num_parts for each in fitted.long)
            found: dict[int, Any] = {}
            for batch in generator.generate_batches(params, fitted):
                found |= batch
                display.progress("generating", num_done + len(found), num_sources)
            corpus.write(shard, _records(group, found, first_line=shard * size + 1, n=chosen.n))
        num_done += len(group)
        display.progress("generating", num_done, num_sources)
    if num_long:
        display.end_bars()
        display.line(
            describe_all_long(
                num_long=num_long,
                num_parts=num_parts,
                num_sources=num_made,
                max_length=generator.max_source_length,
            )
        )


def _records(group: list[Source], found: dict[int, Any], *, first_line: int, n: int) -> Iterator[dict[str, Any]]:
    """A record of each text of each source: other fields of the input, then its own."""
    for index, source in enumerate(group):
        for number, hypothesis in enumerate(found[index][:n], 1):
            yield {
                **(source.fields or {}),
                "line": first_line + index,
                **({} if n == 1 else {NUMBER: number}),
                "source": source.text,
                "output": as_line(hypothesis.text),
                "log_probability": hypothesis.log_probability,
                "num_tokens": hypothesis.num_tokens,
            }


def _digest(params: Any) -> str:
    """SHA-256 of all parameters, in the order of their names."""
    import jax

    digest = hashlib.sha256()
    for path, leaf in sorted(
        ((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)),
        key=lambda item: item[0],
    ):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
