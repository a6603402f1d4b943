"""`seq2seq data`: what a run would see of its data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from seq2seq_jax.commands.console import Display, columns, cut, table
from seq2seq_jax.commands.options import DataOptions
from seq2seq_jax.commands.outputs import open_outputs
from seq2seq_jax.data.audio.source import SpeechSource
from seq2seq_jax.data.audio.summary import SoundSummary, sounds_of
from seq2seq_jax.data.batch_maker import batch_maker, select
from seq2seq_jax.data.summary import (
    PaddingSummary,
    SplitSummary,
    lengths_of,
    padding_hint,
    padding_of,
    parts_of,
    segments_of,
    summary_of,
)
from seq2seq_jax.evaluation.length_histograms import plot_lengths
from seq2seq_jax.experiment import CommandLine, Experiment
from seq2seq_jax.paths import user_path
from seq2seq_jax.run.training import TrainingRun

LONGEST_SHOWN = 1000
"""Characters of a row's tokens in the terminal."""


def run(arguments: list[str], parsed: CommandLine) -> None:
    """Read the data as training would, and show it."""
    name, _, chosen = parsed
    options: DataOptions = chosen
    experiment: Experiment = chosen.experiment
    with Display() as display, open_outputs(("--json", options.json)) as (json_file,):
        run = TrainingRun(Path(), experiment, progress=display.progress)
        tokenizer = run.new_tokenizer()
        data, batch_format = run.data, experiment.batch_format
        stores = {split: data.store(split, tokenizer) for split in data.corpus.splits}
        splits = {split: summary_of(store, batch_format, tokenizer) for split, store in stores.items()}
        # Which says what the limits do, and raises where they leave nothing.
        select(stores["train"], batch_format.columns)
        make = batch_maker(
            stores["train"],
            batch_format,
            vocabulary=tokenizer.vocabulary,
            tokenizer=tokenizer,
            target_tokens_per_batch=experiment.training.target_tokens_per_batch,
            seed=experiment.training.seed,
        )
        batches = [make(step)[0] for step in range(options.batches)]
        padding = padding_of(batches)
        sounds = None
        if isinstance(experiment.data, SpeechSource):
            sounds = {
                split: sounds_of(store, run.data.corpus, split, experiment.data) for split, store in stores.items()
            }
        names = [part.name for part in getattr(experiment.data, "parts", ())]
        of_parts = parts_of(stores["train"], batch_format, seed=experiment.training.seed)
        parts = dict(zip(names, of_parts, strict=True))
        hint = padding_hint(padding, splits["train"].columns)
        if options.plot is not None:
            plot_lengths(
                {
                    split: {
                        column: lengths_of(kind.examples(store.columns[column]))
                        for column, kind in batch_format.columns.items()
                        if column in splits[split].columns
                    }
                    for split, store in stores.items()
                },
                user_path(options.plot),
                limits={column: kind.max_length for column, kind in batch_format.columns.items()},
                title=f"Lengths of {name}",
            )
        if json_file is not None:
            json_file.write(json.dumps(_to_json(splits, padding, hint, sounds), indent=2, ensure_ascii=False) + "\n")
    _show(name, splits, padding, hint, parts, options, sounds)
    for row in range(min(options.rows, len(batches[0].target.tokens))):
        sides = [
            ("source", batches[0].source, tokenizer.source_pieces),
            ("target", batches[0].target, tokenizer.target_pieces),
        ]
        for side, tokens, pieces in sides if sounds is None else sides[1:]:
            text = " | ".join(" ".join(pieces(segment)) for segment in segments_of(tokens, row))
            print(f"row {row + 1}, {side}: {cut(text, LONGEST_SHOWN)}")


def _show(
    name: str,
    splits: dict[str, SplitSummary],
    padding: PaddingSummary,
    hint: str,
    parts: dict[str, tuple[int, int]],
    options: DataOptions,
    sounds: dict[str, SoundSummary] | None,
) -> None:
    header = ("split, column", "examples", "tokens", "mean", "50%", "90%", "99%", "longest", "limit", "longer")
    rows = [
        (
            f"{split}, {column}",
            f"{facts.examples:,}",
            f"{facts.tokens:,}",
            f"{facts.mean:.1f}",
            *(f"{length:,}" for length in facts.quantiles.values()),
            "" if facts.limit is None else f"{facts.limit:,}",
            f"{summary.limits.too_long.get(column, 0):,}",
        )
        for split, summary in splits.items()
        for column, facts in summary.columns.items()
    ]
    if sounds is None:
        columns(header, rows, title=f"{name}: tokens per example, EOS token included")
    else:
        columns(header, rows, title=f"{name}: samples or frames, and tokens with the EOS token, per example")
    facts = [
        (f"part {part}", f"{examples:,} examples, {copies:,} in the first epoch")
        for part, (examples, copies) in parts.items()
    ]
    for split, each in (sounds or {}).items():
        facts.append(
            (
                f"speech, {split}",
                f"{each.seconds:,.0f} seconds ({each.seconds / 3600:.2f} hours) of {each.speakers:,} speakers; "
                f"{each.shortest:.2f} to {each.longest:.2f} seconds per example, "
                f"{each.seconds_per_position * 1000:.4g} milliseconds per position of a row",
            )
        )
        if each.without_path:
            facts.append(
                (
                    f"too short, {split}",
                    f"{each.without_path:,} examples have fewer positions than CTC needs for their texts, and are left "
                    f"out of it: {', '.join(each.named_without_path)}",
                )
            )
    for split, summary in splits.items():
        if summary.limits.affected:
            facts.append(
                (
                    f"limits, {split}",
                    f"{summary.limits.dropped:,} of {summary.limits.total:,} examples left out, "
                    f"{summary.limits.truncated:,} cut",
                )
            )
    for column, each in splits["train"].columns.items():
        if each.ids_used is not None:
            facts.append(
                (
                    f"vocabulary, {column}",
                    f"{each.ids_used:,} of {each.vocabulary_size:,} ids occur; {each.byte_fraction:.2%} of the tokens "
                    f"are bytes of characters without a piece, {each.unknown_fraction:.2%} unknown",
                )
            )
    facts.append(
        (
            "padding",
            f"{padding.source:.1%} of the source positions and {padding.target:.1%} of the target positions of the "
            f"first {padding.batches} training batches; {padding.examples_per_row:.1f} examples per row",
        )
    )
    if hint:
        facts.append(("hint", hint))
    if options.plot is not None:
        facts.append(("picture", str(user_path(options.plot))))
    table(facts, title="")


def _to_json(
    splits: dict[str, SplitSummary], padding: PaddingSummary, hint: str, sounds: dict[str, SoundSummary] | None
) -> dict[str, Any]:
    spoken = {} if sounds is None else {"speech": {split: dataclasses.asdict(each) for split, each in sounds.items()}}
    return spoken | {
        "splits": {
            split: {
                "limits": summary.limits._asdict(),
                "columns": {name: dataclasses.asdict(each) for name, each in summary.columns.items()},
            }
            for split, summary in splits.items()
        },
        "padding": dataclasses.asdict(padding),
        "hint": hint or None,
    }
