"""`seq2seq generate`: a line out for a line in."""

import codecs
import dataclasses
import json
import re
import sys
from pathlib import Path

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.experiment import override
from seq2seq_jax.generation.search import GenerationConfig
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.run import Run

DESCRIPTION = """\
Lines of standard input (or --input) in, as many lines on standard output (or --output) out, in the same order, UTF-8,
by the model of RUN, the directory of a run. A line break within a generated text becomes a space; --json keeps it.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Command line of `seq2seq generate`."""

    input: str | None = None
    """File of sources, one a line; None = standard input."""
    output: str | None = None
    """File for the generated lines; None = standard output."""
    json: str | None = None
    """File for JSON lines: source, and the n best texts with scores, log-probabilities (nats) and token counts."""
    checkpoint: str = "best"
    """best, latest, or a step."""
    generation: GenerationConfig = GenerationConfig()
    """How text is generated; by default as in training."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""


def run(arguments: list[str]) -> None:
    """Parse the command line, generate, write."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="generate")
    with Display() as display:
        run = None if directory is None else Run.open(directory, progress=display.progress)
        chosen = override(
            GenerateArguments()
            if run is None
            else GenerateArguments(generation=run.experiment.generation, mesh=run.experiment.mesh),
            rest,
            program="seq2seq generate RUN",
            description=DESCRIPTION,
        )
        run = run.with_parts(generation=chosen.generation, mesh=chosen.mesh)
        sources = read_lines(chosen.input)
        if run.generator.truncate and (cut := len(run.generator.too_long(sources))):
            longest = run.generator.max_source_length
            display.line(f"cut {cut:,} of {len(sources):,} lines to the {longest} tokens that the model takes")
        params, _ = run.parameters(chosen.checkpoint)
        results = run.generator.generate(
            params, sources, progress=lambda done, total: display.progress("generating", done, total)
        )
    if chosen.json is not None:
        lines = (
            json.dumps(
                {"source": source, "hypotheses": [dataclasses.asdict(best) for best in hypotheses]},
                ensure_ascii=False,
            )
            for source, hypotheses in zip(sources, results, strict=True)
        )
        Path(chosen.json).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = "".join(f"{as_line(hypotheses[0].text)}\n" for hypotheses in results).encode()
    if chosen.output is None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        Path(chosen.output).write_bytes(text)


def as_line(text: str) -> str:
    """A generated text as one line: a model whose tokens are bytes can write line breaks, which become spaces."""
    return re.sub("\r\n|\r|\n", " ", text)


def read_lines(path: str | None) -> list[str]:
    """Lines of a file, or of standard input, without their ends and without a byte order mark.

    Raises:
        ValueError: there is no such file, or a line is not UTF-8.
    """
    if path is None:
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        name = path
        if not Path(path).is_file():
            raise ValueError(f"there is no file {path} to read sources from.")
        content = Path(path).read_bytes()
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    decoded = []
    for number, line in enumerate(lines, 1):
        try:
            decoded.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} of {name} is not UTF-8 ({error.reason}). Convert the file.") from error
    return decoded
