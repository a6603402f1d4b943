"""`seq2seq evaluate`: loss and scores of a run on a split of its data."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from seq2seq_jax.commands.console import Display, table
from seq2seq_jax.commands.generate import as_line
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.experiment import override
from seq2seq_jax.generation.search import GenerationConfig
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.run import Run
from seq2seq_jax.training.validation import ValidationResult

USAGE = """\
usage: seq2seq evaluate RUN [--split test] [--checkpoint best] [--json FILE] [--generation.field value ...]

Loss, BLEU, chrF and exact match of a run on a split of its data. `seq2seq evaluate RUN --help` lists all.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Command line of `seq2seq evaluate`."""

    split: str = "test"
    """Split of the run's data: train, validation or test."""
    checkpoint: str = "best"
    """best, latest, or a step."""
    json: str | None = None
    """File for the figures as JSON: loss, bleu, chrf, exact_match, signature and more."""
    output: str | None = None
    """File for the generated texts, a line for a pair."""
    generation: GenerationConfig
    """How text is generated; by default as in training."""
    mesh: MeshConfig
    """How devices share the work."""
    data: DataSource
    """The data; its directory may have moved."""


def run(arguments: list[str]) -> None:
    """Parse the command line, evaluate, print a table."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, end="")
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    with Display() as display:
        run = Run.open(arguments[0], progress=display.progress)
        chosen = override(
            EvaluateArguments(
                generation=run.experiment.generation, mesh=run.experiment.mesh, data=run.experiment.data
            ),
            arguments[1:],
            program="seq2seq evaluate RUN",
        )
        run = run.with_parts(generation=chosen.generation, mesh=chosen.mesh, data=chosen.data)
        params, step = run.parameters(chosen.checkpoint)
        validation = run.validation(chosen.split, run.generator())
        result = validation(params, progress=lambda done, total: display.progress(chosen.split, done, total))
        if chosen.output is not None:
            texts = [as_line(best[0].text) if best else "" for best in result.hypotheses]
            Path(chosen.output).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        figures = {"run": str(run.directory), **figures_of(result, split=chosen.split, step=step)}
        if chosen.json is not None:
            Path(chosen.json).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    table(score_rows(figures), title=str(run.directory))


def figures_of(result: ValidationResult, *, split: str, step: int) -> dict[str, Any]:
    """The figures of an evaluation as JSON values.

    Args:
        step: of the checkpoint that was evaluated.
    """
    return {
        "split": split,
        "step": step,
        "examples": len(result.hypotheses),
        **result.losses,
        **dataclasses.asdict(result.scores),
        "skipped_losses": result.skipped_losses,
        "skipped_sources": result.skipped_sources,
    }


def score_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table of what `figures_of` gives."""
    rows = [
        ("evaluated", f"{figures['examples']:,} pairs of {figures['split']}, checkpoint of step {figures['step']:,}"),
        ("BLEU", f"{figures['bleu']:.2f}   {figures['signature']}"),
        ("chrF", f"{figures['chrf']:.2f}   {figures['chrf_signature']}"),
        ("exact match", f"{figures['exact_match']:.2f}%"),
    ]
    if "loss" in figures:
        rows.append(("loss", f"{figures['loss']:.4f} nats a target token; without smoothing {figures['nll']:.4f}"))
    if figures["skipped_losses"] or figures["skipped_sources"]:
        rows.append(
            (
                "too long",
                f"{figures['skipped_losses']} pairs left out of the loss, "
                f"{figures['skipped_sources']} sources scored as empty",
            )
        )
    return rows
