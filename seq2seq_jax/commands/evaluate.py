"""`seq2seq evaluate`: loss and scores of a run on a split of its data."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from seq2seq_jax.commands.console import Display, split_first, table
from seq2seq_jax.commands.generate import as_line
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.source import DataSource, PairCorpus
from seq2seq_jax.evaluation.scores import WORDS_OF_BLEU
from seq2seq_jax.experiment import override
from seq2seq_jax.generation.search import GenerationConfig
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.run import Run
from seq2seq_jax.training.validation import ValidationResult

DESCRIPTION = "Loss, BLEU, chrF and exact match of RUN, the directory of a run, on a split of its data."


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Command line of `seq2seq evaluate`."""

    split: Literal["train", "validation", "test"] = "test"
    """Split of the run's data."""
    checkpoint: str = "best"
    """best, latest, or a step."""
    json: str | None = None
    """File for the figures as JSON: loss, bleu, chrf, exact_match, signature and more."""
    output: str | None = None
    """File for the generated texts, a line for a pair."""
    generation: GenerationConfig = GenerationConfig()
    """How text is generated; by default as in training."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    data: DataSource = Dates()
    """The data: by default the run's, but it may have moved, or be another test set."""


def run(arguments: list[str]) -> None:
    """Parse the command line, evaluate, print a table."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="evaluate")
    with Display() as display:
        run = None if directory is None else Run.open(directory, progress=display.progress)
        chosen = override(
            EvaluateArguments()
            if run is None
            else EvaluateArguments(
                generation=run.experiment.generation, mesh=run.experiment.mesh, data=run.experiment.data
            ),
            rest,
            program="seq2seq evaluate RUN",
            description=DESCRIPTION,
        )
        run = run.with_parts(generation=chosen.generation, mesh=chosen.mesh, data=chosen.data)
        if chosen.output is not None and not isinstance(run.corpus, PairCorpus):
            raise ValueError("--output has no use: documents have no sources to generate from. Leave it out.")
        params, step = run.parameters(chosen.checkpoint)
        validation = run.validation(chosen.split)
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
        "examples": result.examples,
        **result.losses,
        **({} if result.scores is None else dataclasses.asdict(result.scores)),
        "skipped_losses": result.skipped_losses,
        "skipped_sources": result.skipped_sources,
        "cut_losses": result.cut_losses,
        "cut_sources": result.cut_sources,
    }


def score_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table of what `figures_of` gives."""
    what = "pairs" if "bleu" in figures else "chunks"
    rows = [
        ("evaluated", f"{figures['examples']:,} {what} of {figures['split']}, checkpoint of step {figures['step']:,}")
    ]
    if "bleu" in figures:
        rows += [
            ("BLEU", f"{figures['bleu']:.2f}   {figures['signature']}"),
            ("chrF", f"{figures['chrf']:.2f}   {figures['chrf_signature']}"),
            ("exact match", f"{figures['exact_match']:.2f}%"),
        ]
        if figures["words_per_reference"] < WORDS_OF_BLEU:
            words = figures["words_per_reference"]
            rows.append(("note", f"BLEU says next to nothing of references of {words:.1f} words: look at chrF or loss"))
    if "loss" in figures:
        rows.append(("loss", f"{figures['loss']:.4f} nats a target token; without smoothing {figures['nll']:.4f}"))
    if figures["skipped_losses"] or figures["skipped_sources"]:
        rows.append(
            (
                "too long",
                f"{figures['skipped_losses']:,} pairs left out of the loss, "
                f"{figures['skipped_sources']:,} sources scored as empty (data.max_source_length, "
                "data.max_target_length, data.too_long)",
            )
        )
    if figures["cut_losses"] or figures["cut_sources"]:
        cut = f"{figures['cut_losses']:,} pairs cut for the loss, {figures['cut_sources']:,} sources for generation"
        rows.append(("too long", f"{cut} (data.too_long truncate)"))
    return rows
