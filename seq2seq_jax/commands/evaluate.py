"""`seq2seq evaluate`: loss and scores of a run on a split of its data."""

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first, table
from seq2seq_jax.commands.ensemble import EnsembleArguments, ensemble_figures, ensemble_rows, open_run
from seq2seq_jax.commands.generate import as_line
from seq2seq_jax.commands.outputs import open_outputs
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import is_given, override
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.parallel.mesh_config import MeshConfig

if TYPE_CHECKING:
    from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig

PROGRAM = "seq2seq evaluate RUN"
DESCRIPTION = """\
Loss of RUN, the directory of a run, on a split of its data, and metrics of what it generates: BLEU, chrF and exact
match, or what the run or --metrics names.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments(EnsembleArguments):
    """Command line of `seq2seq evaluate`."""

    split: str = "test"
    """Split of the run's data: train, validation or test, or validation/SET, a further validation set."""
    metrics: tuple[Metric, ...] | None = None
    """What is computed beside the loss: bleu, chrf, exact_match, rouge, wer, cer, perplexity, diversity (of several
    texts per source), with settings after commas (bleu,tokenizer=zh), or a class as module:Class. None = as in
    training."""
    checkpoint: str = "best"
    """best, latest, or a step."""
    compilation_cache: bool = True
    """Keep compiled programs below the user's cache directory for the next time, unless JAX has a directory of its
    own."""
    json: str | None = None
    """File for the figures as JSON: loss, bleu, chrf, exact_match and so on, and in `metrics` their signatures."""
    output: str | None = None
    """File for the generated texts, a line for a pair."""
    generation: Method = BeamSearch()
    """How text is generated; by default as in training."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where RUN names classes in them, its
    metrics among them; True = all."""
    data: DataSource = Dates()
    """The data: by default the run's, but it may have moved, or be another test set."""


def run(arguments: list[str]) -> None:
    """Parse the command line, evaluate, print a table."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="evaluate")
    if directory is None:
        override(EvaluateArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    with contextlib.ExitStack() as outputs:
        figures = _evaluate(directory, rest, outputs)
        table(
            [*ensemble_rows(figures), *score_rows(figures), tokenizer_row(figures["tokenizer"])], title=figures["run"]
        )


def _evaluate(directory: str, rest: list[str], outputs: contextlib.ExitStack) -> dict[str, Any]:
    """Evaluate, write the files that are asked for, and give the figures.

    Args:
        outputs: closes the files, and fails if one could not be written.
    """
    from seq2seq_jax.run.data import DIRECTORIES

    with Display() as display:
        run = open_run(directory, rest, display=display, program=PROGRAM)
        chosen = override(
            EvaluateArguments(
                generation=run.experiment.generation,
                mesh=run.experiment.mesh,
                data=run.experiment.data,
                metrics=run.experiment.metrics,
            ),
            rest,
            program=PROGRAM,
            description=DESCRIPTION,
        )
        if chosen.split not in chosen.data.all_splits:
            known = ", ".join(chosen.data.all_splits)
            raise ValueError(f"--split must be one of {known}, and is {chosen.split!r}.")
        if chosen.compilation_cache:
            keep_compiled_programs()
        # Of data that has moved, or is another test set, nothing else need be there.
        given = [name for name in DIRECTORIES if is_given(f"data.{name}", rest)]
        run = run.with_parts(
            generation=chosen.generation,
            mesh=chosen.mesh,
            data=chosen.data,
            metrics=chosen.metrics,
            # It chooses no checkpoint here, and may be a score that is not computed now.
            training=dataclasses.replace(run.experiment.training, select_by=None),
            splits=[chosen.split],
            written=given,
        )
        if chosen.output is not None and not run.experiment.task.generates:
            raise ValueError("--output has no effect: documents have no sources to generate from. Leave it out.")
        text_file, json_file = outputs.enter_context(open_outputs(("--output", chosen.output), ("--json", chosen.json)))
        run.metrics  # noqa: B018  (a mistake there is told before anything that takes long)
        params, step = run.parameters_of_players(chosen.checkpoint)
        generates = text_file is not None
        result = run.validation(chosen.split, generates=generates)(
            params,
            generates=generates,
            progress=lambda done, total: display.progress(chosen.split, done, total),
        )
        if text_file is not None:
            text_file.write("".join(f"{as_line(text)}\n" for text in result.outputs))
        figures = {
            "run": str(run.directory.path),
            **ensemble_figures(run),
            **result.to_json(split=chosen.split, step=step),
            "tokenizer": tokenizer_figures(run.experiment.tokenizer, run.tokenizer),
        }
        if json_file is not None:
            json_file.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return figures


def score_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table of what `ValidationResult.to_json` gives."""
    evaluated = f"{figures['examples']:,} examples of {figures['split']}, checkpoint of step {figures['step']:,}"
    rows, notes = [("evaluated", evaluated)], []
    for name, facts in figures.get("metrics", {}).items():
        rows.append((facts["label"], f"{figures[name]:.2f}   {facts['signature']}"))
        notes += [("note", facts["note"])] if "note" in facts else []
    rows += notes
    if "loss" in figures:
        rows.append(("loss", f"{figures['loss']:.4f} nats per target token; without smoothing {figures['nll']:.4f}"))
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
    if figures["blank_sources"]:
        rows.append(("blank", f"{figures['blank_sources']} sources without text, and so are their outputs"))
    return rows


def tokenizer_figures(config: "TokenizerConfig", tokenizer: "Tokenizer") -> dict[str, Any]:
    """The tokenizer's config as JSON values; a size that followed the text is the one that came of it, [source, target]
    where each side has its own.
    """
    from seq2seq_jax.experiment import to_json

    values = to_json(config)
    if values["vocabulary_size"] is None:
        vocabulary = tokenizer.vocabulary
        sizes = [vocabulary.source_size, vocabulary.target_size]
        values["vocabulary_size"] = sizes[0] if vocabulary.joint else sizes
    return values


def tokenizer_row(tokenizer: dict[str, Any]) -> tuple[str, str]:
    """Row of a table of what the model's text is made of.

    Args:
        tokenizer: see `tokenizer_figures`.
    """
    size = tokenizer["vocabulary_size"]
    sizes = " and ".join(f"{each:,}" for each in (size if isinstance(size, list) else [size]))
    text = {"identity": "text as it is (normalization identity)", "nfkc": "text normalised to NFKC"}
    return "tokenizer", f"{tokenizer['kind']}, {sizes}, {text[tokenizer['normalization']]}"
