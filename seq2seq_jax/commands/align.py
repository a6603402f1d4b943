"""`seq2seq align`: heat maps of attention, a picture for a line."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.ensemble import RunArguments
from seq2seq_jax.commands.outputs import OutputFile, open_outputs, refuse_unwritable_directory
from seq2seq_jax.commands.sounds import reads_sounds, sounds_of, with_one_input
from seq2seq_jax.commands.sources import max_line_bytes, read_sources
from seq2seq_jax.data.lines import open_input
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import override, values_of_option
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.paths import user_path

if TYPE_CHECKING:
    import seq2seq_jax.generation.alignment

PROGRAM = "seq2seq align RUN"
DESCRIPTION = """\
Which source tokens each target token attends to, by the model of RUN, the directory of a run: a heat map (PNG) for each
line of standard input (or --input), with the model's own translation or the line of --target.
"""
MEAN, LAST = "mean", "last"
DECIMALS = 5
"""Of the weights in JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignArguments(RunArguments):
    """Command line of `seq2seq align`."""

    input: str | None = None
    """File or pipe with sources, one per line, plain or gzipped; None or - = standard input. Of a model of speech: what
    `seq2seq generate` reads; the pictures then show seconds."""
    field: str | None = None
    """The input has named fields, and this one holds the source; see `seq2seq generate`."""
    target: str | None = None
    """File of as many targets, one per line, aligned as they are given; None = what the model's search finds."""
    output: str | None = None
    """Directory for the pictures, 0001.png for the first line and so on, or a .png file if there is one line;
    None = plots/attention in RUN."""
    layer: str = MEAN
    """Layer of the decoder: a number from 1, last, or mean (of all)."""
    head: str = MEAN
    """Attention head: a number from 1, or mean (of all)."""
    json: str | None = None
    """File for JSON lines: source, target, source_tokens, target_tokens, and weights of every layer, head, target token
    and source token, nested in this order."""
    generation: Method = BeamSearch()
    """How targets are searched for; by default as in training."""


def run(arguments: list[str]) -> None:
    """Parse the command line, align, draw, say where the pictures are."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="align")
    if directory is None:
        override(AlignArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    from seq2seq_jax.evaluation.heat_maps import characters_without_a_font, plot_attention
    from seq2seq_jax.run.inference import Inference

    with contextlib.ExitStack() as outputs, Display() as display:
        run = Inference.open(directory, progress=display.progress, trust_code=values_of_option("trust_code", rest))
        rest, inputs_given = with_one_input(rest) if reads_sounds(run) else (rest, ())
        chosen = override(
            AlignArguments(generation=run.experiment.generation, mesh=run.experiment.mesh),
            rest,
            program=PROGRAM,
            description=DESCRIPTION,
        )
        if chosen.compilation_cache:
            keep_compiled_programs()
        run = run.with_parts(generation=chosen.generation, mesh=chosen.mesh)
        if reads_sounds(run):
            if chosen.field:
                raise ValueError("--field has no effect: the model reads sounds, of which --input names the files.")
            inputs = inputs_given or (chosen.input or "-",)
            sources = [each.given for each in sounds_of(inputs, run, say=display.line)]
        else:
            with open_input(chosen.input, max_bytes=max_line_bytes(run)) as given:
                sources = [each.text for each in read_sources(given, chosen.field, run)]
        if not sources:
            raise ValueError(f"{given.name} has no lines. Give one source per line.")
        targets = None
        if chosen.target is not None:
            with open_input(chosen.target, max_bytes=max_line_bytes(run)) as given:
                targets = list(given.lines())
        paths = _paths(chosen.output, run.directory.path, len(sources))
        refuse_unwritable_directory(paths[0].parent)
        (json_file,) = outputs.enter_context(
            open_outputs(("--json", chosen.json), inputs=[*(inputs_given or [chosen.input]), chosen.target])
        )
        params, _ = run.parameters(chosen.checkpoint)
        num_layers, num_heads = run.system.aligner.layers_and_heads(params)
        layer = _index("layer", chosen.layer, num_layers)
        head = _index("head", chosen.head, num_heads)
        alignments = run.system.aligner.align(params, sources, targets, progress=display.progress)
        if json_file is not None:
            _write_json(alignments, json_file)
        title = f"Attention, {_named('layer', layer, num_layers)}, {_named('head', head, num_heads)}"
        for number, (alignment, path) in enumerate(zip(alignments, paths, strict=True), 1):
            try:
                plot_attention(
                    alignment.matrix(layer=layer, head=head),
                    path,
                    source_tokens=alignment.source_tokens,
                    target_tokens=alignment.target_tokens,
                    title=title,
                    texts=(f"source: {alignment.source}", f"target: {alignment.target}"),
                    is_time=reads_sounds(run),
                )
            except BaseException as error:
                error.add_note(f"{number - 1} of {len(paths)} pictures are drawn.")
                raise
            display.progress("drawing", number, len(paths))
        missing = characters_without_a_font("".join(each.source + each.target for each in alignments))
        if missing:
            display.line(
                f"no installed font has {' '.join(sorted(missing))}: the pictures show code points. "
                "Install a font that does, such as one of Noto, and draw them again."
            )
    print(paths[0] if len(paths) == 1 else f"{len(paths)} pictures: {paths[0]} to {paths[-1].name}")


def _paths(output: str | None, run_directory: Path, num_lines: int) -> list[Path]:
    """The picture of each line.

    Raises:
        ValueError: one file is given for several lines, or a file for a directory.
    """
    directory = run_directory / "plots" / "attention" if output is None else user_path(output)
    if directory.suffix.lower() == ".png":
        if num_lines > 1:
            raise ValueError(
                f"--output {output} is one picture, and there are {num_lines} lines. Give a directory, or one line."
            )
        return [directory]
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--output {directory} is a file and no .png. Give a directory, or the name of a .png file.")
    return [directory / f"{number:04d}.png" for number in range(1, num_lines + 1)]


def _index(name: str, chosen: str, number: int) -> int | None:
    """Index of the chosen layer or head of n; None = mean.

    Raises:
        ValueError: there is no such layer or head.
    """
    if chosen == MEAN:
        return None
    if chosen == LAST and name == "layer":
        return number - 1
    if chosen.isdecimal() and 1 <= int(chosen) <= number:
        return int(chosen) - 1
    words = "mean, last or a number" if name == "layer" else "mean or a number"
    has = f"{number} {name}" if number == 1 else f"{number} {name}s"
    raise ValueError(f"--{name} must be {words} from 1, not {chosen!r}; the attention of this model has {has}.")


def _named(name: str, index: int | None, number: int) -> str:
    if index is not None:
        return f"{name} {index + 1} of {number}"
    return f"one {name}" if number == 1 else f"mean of {number} {name}s"


def _write_json(alignments: "Iterable[seq2seq_jax.generation.alignment.Alignment]", file: OutputFile) -> None:
    for alignment in alignments:
        file.write(json.dumps(_record(alignment), ensure_ascii=False) + "\n")


def _record(alignment: "seq2seq_jax.generation.alignment.Alignment") -> dict[str, Any]:
    # Rounded as float64, so that it is written with no more digits than that.
    weights = alignment.weights.astype(float).round(DECIMALS)
    return {field.name: getattr(alignment, field.name) for field in dataclasses.fields(alignment)} | {
        "weights": weights.tolist()
    }
