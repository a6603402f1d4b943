"""`seq2seq evaluate`: loss and scores of a run on a split of its data."""

import contextlib
import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, columns, split_first, table
from seq2seq_jax.commands.ensemble import InferenceArguments, ensemble_figures, ensemble_rows, open_run
from seq2seq_jax.commands.generate import as_line
from seq2seq_jax.commands.outputs import open_outputs
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.evaluation.metrics.diversity import Diversity
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import is_given, override, split_names
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
    from seq2seq_jax.evaluation.lengths import Group
    from seq2seq_jax.run.inference import Inference

PROGRAM = "seq2seq evaluate RUN [RUN ...]"
DESCRIPTION = """\
Loss of RUN, the directory of a run, on a split of its data, and metrics of what it generates: BLEU, chrF and exact
match, or what the run or --metrics names. Several RUNs with the same data are compared in one table: scores with their
confidence, whether they differ by more than chance from those of the first (paired bootstrap), and scores by the length
of the source.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments(InferenceArguments):
    """Command line of `seq2seq evaluate`."""

    split: str = "test"
    """Split of the run's data: train, validation or test, or validation/SET, a further validation set."""
    metrics: tuple[Metric, ...] | None = None
    """What is computed beside the loss: bleu, chrf, exact_match, rouge, summary (length ratio, what is taken from the
    source), wer, cer, perplexity, variety, hits, pronunciation, dialogue_state, dialogue_state_gold, slot_errors,
    diversity (of several texts per source), with settings after commas (bleu,tokenizer=zh), or a class as module:Class.
    None = as in training."""
    diversity: bool = False
    """The metric diversity beside the others: how much the texts of a source differ. Needs a method of generation that
    gives several, such as --generation sampling --generation.samples 8."""
    json: str | None = None
    """File for the figures as JSON: loss, bleu, chrf, exact_match and so on, and in `metrics` their signatures; of
    several RUNs these in `runs`, and `bootstrap` and `by_source_length`."""
    output: str | None = None
    """File for the generated texts, a line for a pair."""
    phrases_field: str | None = None
    """Field of the examples with phrases that each text must contain, such as the values of dialogue acts, which a
    model may leave out; beam search alone takes them. None = nothing must be there."""
    bounds: tuple[int, ...] = ()
    """Of several RUNs: most words of the sources of each group that is scored apart, such as 8 12 16; empty = four
    groups of about the same size."""
    generation: Method = BeamSearch()
    """How text is generated; by default as in training."""
    data: DataSource = Dates()
    """The data: by default the run's, but it may have moved, or be another test set."""


def run(arguments: list[str]) -> None:
    """Parse the command line, evaluate, print a table."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="evaluate")
    if directory is None:
        override(EvaluateArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    others, rest = split_names(rest)
    directories = [directory, *others]
    for index, name in enumerate(directories):
        if name in directories[:index]:
            raise ValueError(f"{name} is named twice. Name runs that differ.")
    if others and is_given("ensemble", rest):
        raise ValueError("--ensemble takes the runs beside one RUN, not several. Evaluate the ensemble by itself.")
    with contextlib.ExitStack() as outputs:
        figures = _evaluate(directories, rest, outputs)
        if others:
            show_comparison(figures)
        else:
            rows = [*ensemble_rows(figures), *score_rows(figures), tokenizer_row(figures["tokenizer"])]
            table(rows, title=figures["run"])


def _evaluate(directories: list[str], rest: list[str], outputs: contextlib.ExitStack) -> dict[str, Any]:
    """Evaluate, write the requested files, and return the metrics: of one run, or of the comparison of several.

    Args:
        outputs: closes the files, and fails if one could not be written.
    """
    from seq2seq_jax.evaluation.comparison import compare

    with Display() as display:
        run, chosen = _open(directories[0], rest, display)
        runs = [run]
        for directory in directories[1:]:
            other, _ = _open(directory, rest, display, metrics=run.experiment.validation_metrics)
            _refuse_other_data(run, other, chosen.split)
            runs.append(other)
        if len(runs) > 1 and chosen.output is not None:
            raise ValueError("--output takes the texts of one RUN. Leave it out, or evaluate one RUN at a time.")
        if len(runs) == 1 and chosen.bounds:
            raise ValueError("--bounds has no effect with one RUN. Leave it out, or name RUNs to compare it with.")
        if chosen.output is not None and not run.experiment.task.generates:
            raise ValueError("--output has no effect: documents have no sources to generate from. Leave it out.")
        text_file, json_file = outputs.enter_context(open_outputs(("--output", chosen.output), ("--json", chosen.json)))
        for each in runs:
            each.metrics  # noqa: B018  (a mistake there is reported before anything that takes long)
        groups = _groups(run, chosen) if len(runs) > 1 else []
        found, results = [], {}
        for each in runs:
            params, step = each.parameters_of_players(chosen.checkpoint)
            name, generates = str(each.directory.path), text_file is not None
            what = chosen.split if len(runs) == 1 else f"{name}, {chosen.split}"
            results[name] = each.validation(chosen.split, generates=generates, phrases_field=chosen.phrases_field)(
                params,
                generates=generates,
                progress=lambda done, total, what=what: display.progress(what, done, total),
            )
            figures = {
                "run": name,
                **ensemble_figures(each),
                **results[name].to_json(split=chosen.split, step=step),
                "tokenizer": tokenizer_figures(each.experiment.tokenizer, each.tokenizer),
            }
            found.append(figures)
        if text_file is not None:
            [result] = results.values()
            text_file.write("".join(f"{as_line(text)}\n" for text in result.outputs))
        if len(runs) == 1:
            [figures] = found
        else:
            evaluated = {name: result.evaluated for name, result in results.items()}
            methods = [each.experiment.generation.described for each in runs]
            figures = {
                "runs": [{**each, "generation": method} for each, method in zip(found, methods, strict=True)],
                **compare(evaluated, run.metrics, groups),
            }
        if json_file is not None:
            json_file.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return figures


def _open(
    directory: str, rest: list[str], display: Display, *, metrics: tuple[Metric, ...] | None = None
) -> "tuple[Inference, EvaluateArguments]":
    """A run as the command line has it evaluated.

    Args:
        metrics: what is computed unless the command line says otherwise; None = what the run has.
    """
    from seq2seq_jax.run.data import DIRECTORIES

    run = open_run(directory, rest, display=display, program=PROGRAM)
    chosen = override(
        EvaluateArguments(
            generation=run.experiment.generation,
            mesh=run.experiment.mesh,
            data=run.experiment.data,
            metrics=run.experiment.metrics if metrics is None else metrics,
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
        metrics=_with_diversity(run, chosen.metrics) if chosen.diversity else chosen.metrics,
        # It chooses no checkpoint here, and may be a score that is not computed now.
        training=dataclasses.replace(run.experiment.training, select_by=None),
        splits=[chosen.split],
        written=given,
    )
    return run, chosen


def _with_diversity(run: "Inference", metrics: tuple[Metric, ...] | None) -> tuple[Metric, ...]:
    metrics = run.experiment.task.metrics if metrics is None else metrics
    return metrics if any(isinstance(metric, Diversity) for metric in metrics) else (*metrics, Diversity())


def _refuse_other_data(first: "Inference", other: "Inference", split: str) -> None:
    """Return if two runs have the same examples in a split, as far as metrics see them.

    Raises:
        ValueError: they have not; the message says where they differ.
    """
    if not all(split in run.data.corpus.splits for run in (first, other)):
        return  # Evaluating it says so.
    pairs = itertools.zip_longest(first.data.scored(split), other.data.scored(split))
    for number, (ours, theirs) in enumerate(pairs, 1):
        if ours != theirs:
            raise ValueError(
                f"{other.directory.path} has other data than {first.directory.path}: example {number:,} of {split} "
                "differs. Name the same data for all with --data.directory, or compare runs on the same data."
            )


def _groups(run: "Inference", chosen: EvaluateArguments) -> "list[Group]":
    """The examples by the length of their source text; none where sources are no text or nothing is generated."""
    from seq2seq_jax.evaluation.lengths import by_length

    if not run.experiment.task.generates or chosen.split not in run.data.corpus.splits:
        return []
    sources = [example.get(run.experiment.task.source_column) for example in run.data.scored(chosen.split)]
    return by_length(sources, chosen.bounds or None) if all(isinstance(each, str) for each in sources) else []


def show_comparison(figures: dict[str, Any]) -> None:
    """Print what `evaluate` finds of several runs."""
    runs, bootstrap = figures["runs"], figures["bootstrap"]
    first = runs[0]
    described = first.get("metrics", {})
    rows: list[tuple[str, ...]] = [
        ("checkpoint of step", *(f"{run['step']:,}" for run in runs)),
        ("generation", *(run["generation"] for run in runs)),
    ]
    for name, facts in described.items():
        tested = bootstrap.get(name, {}).get("systems", {})
        rows.append((facts["label"], *(_with_confidence(run[name], tested.get(run["run"])) for run in runs)))
    if "loss" in first:
        rows.append(("loss, nats per target token", *(f"{run['loss']:.4f}" for run in runs)))
    first_scores = [name for name in described if name in bootstrap] or list(described)[:1]
    for group in figures["by_source_length"]:
        for name in first_scores:
            values = (f"{group['scores'][name][run['run']]:.2f}" for run in runs)
            rows.append((f"{described[name]['label']}, {group['words']} words ({group['examples']:,})", *values))
    title = f"{first['examples']:,} examples of {first['split']}; p: paired bootstrap against the first run"
    columns(("", *(run["run"] for run in runs)), rows, title=title)
    signatures = {name: facts["signature"] for name, facts in described.items()}
    signatures |= {name: facts["signature"] for name, facts in bootstrap.items()}
    rows = [(described[name]["label"], signature) for name, signature in signatures.items()]
    table([*rows, *((f"tokenizer of {run['run']}", tokenizer_row(run["tokenizer"])[1]) for run in runs)], title="How")


def _with_confidence(value: float, tested: dict[str, Any] | None) -> str:
    if tested is None:
        return f"{value:.2f}"
    p_value = "" if tested["p_value"] is None else f", p = {tested['p_value']:.3f}"
    return f"{value:.2f} ± {tested['confidence']:.2f}{p_value}"


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
    if values["vocabulary_size"] is None or config.kind == "imported":
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
    if tokenizer["kind"] == "imported":
        return "tokenizer", f"imported, {sizes}"
    text = {"identity": "text as it is (normalization identity)", "nfkc": "text normalised to NFKC"}
    return "tokenizer", f"{tokenizer['kind']}, {sizes}, {text[tokenizer['normalization']]}"
