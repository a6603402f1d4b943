"""`seq2seq filter`: the training pairs of a config without those that break rules, and what was left out by which."""

import contextlib
import gzip
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from seq2seq_jax.commands.console import Display, columns, cut, table
from seq2seq_jax.commands.options import FilterOptions
from seq2seq_jax.commands.outputs import refuse_unwritable_directory
from seq2seq_jax.data.cleaning import Cleaning, Pair, dual_cross_entropy
from seq2seq_jax.data.mixture import Mixture
from seq2seq_jax.experiment import CommandLine
from seq2seq_jax.files import UNFINISHED, write_whole
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.paths import user_path

KEPT, REMOVED, REPORT = "corpus.jsonl.gz", "removed.jsonl.gz", "filter.json"
DUAL = "dual_cross_entropy"
TOO_LONG = "too_long_to_score"
AT_ONCE = 4096
LONGEST_SHOWN = 100


class Judged(NamedTuple):
    """A pair, and why it is left out."""

    number: int
    """Of the pair in the training split, from 1."""
    pair: Pair
    rule: str | None
    """None = it is kept."""
    score: float | None = None
    """Its dual cross-entropy."""
    part: str | None = None
    """Of the mixture that it is of."""


def run(arguments: list[str], parsed: CommandLine) -> None:
    """Read the pairs, judge them, write what is kept and what is not, show both."""
    name, _, chosen = parsed
    options: FilterOptions = chosen
    if options.output is None:
        raise ValueError("--output is required: a new directory for what is kept.")
    directory = user_path(options.output)
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"--output {directory} is not empty. Name a new directory.")
    refuse_unwritable_directory(directory)
    data = chosen.experiment.data
    parts: list[str] = []
    if isinstance(data, Mixture):
        data, parts = data.without_tags(), [part.name for part in data.parts]
    if not {"source", "target"} <= set(data.columns):
        raise ValueError(f"filter needs data of pairs, and {type(data).__name__} has {', '.join(data.columns)}.")
    with Display() as display:
        corpus = data.open(["train"])
        number = corpus.splits["train"]
        cleaning = Cleaning(options.rules, corpus.read("train", ("source", "target")))

        def judge(number: int, source: str, target: str, part: int | None = None) -> Judged:
            pair = Pair(source, target)
            return Judged(number, pair, cleaning.broken(pair), part=None if part is None else parts[part])

        read = ("source", "target", "part") if parts else ("source", "target")
        judged: Iterable[Judged] = (judge(number, *each) for number, each in enumerate(corpus.read("train", read), 1))
        if options.forward is not None:
            judged = dual_judged(judged, scorers(options, display), limit=options.max_dual_cross_entropy)
        directory.mkdir(parents=True, exist_ok=True)
        report = write(directory, judged, lambda done: display.progress("filtering", done, number), options.examples)
    _show(name, directory, report)


def write(directory: Path, judged: Iterable[Judged], progress: Callable[[int], None], num_examples: int) -> dict:
    """Write what is kept and what is not, and what there is to say of both.

    Returns:
        The report, as it is written: `pairs`, `kept`, and for each rule `removed` and `examples`.
    """
    rules: dict[str, dict[str, Any]] = {}
    total = kept = 0
    unfinished = {name: directory / f"{name}{UNFINISHED}" for name in (KEPT, REMOVED)}
    with contextlib.ExitStack() as opened:
        for path in unfinished.values():
            opened.callback(path.unlink, missing_ok=True)
        files = {
            name: opened.enter_context(gzip.open(path, "wt", encoding="utf-8", compresslevel=6))
            for name, path in unfinished.items()
        }
        for each in judged:
            total += 1
            record: dict[str, Any] = {"source": each.pair.source, "target": each.pair.target}
            if each.part is not None:
                record["part"] = each.part
            if each.score is not None:
                record[DUAL] = round(each.score, 4)
            if each.rule is None:
                kept += 1
            else:
                record = {"number": each.number, "rule": each.rule, **record}
                found = rules.setdefault(each.rule, {"removed": 0, "examples": []})
                found["removed"] += 1
                if len(found["examples"]) < num_examples:
                    found["examples"].append(record)
            files[KEPT if each.rule is None else REMOVED].write(json.dumps(record, ensure_ascii=False) + "\n")
            if total % AT_ONCE == 0:
                progress(total)
        for file in files.values():
            file.close()
        for name, path in unfinished.items():
            path.replace(directory / name)
    report = {"pairs": total, "kept": kept, "rules": rules}
    write_whole(directory / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


Score = Callable[[list[Pair]], list[float | None]]
"""Pairs -> cross-entropy of each in one direction (nats per token); None = it is longer than the model takes."""


def dual_judged(judged: Iterable[Judged], score: tuple[Score, Score], *, limit: float) -> Iterator[Judged]:
    """The pairs, those that broke no rule so far judged by the models of both directions, too.

    Args:
        score: of the forward and the backward direction.
        limit: largest dual cross-entropy of a pair that is kept.
    """
    pending = iter(judged)
    while group := list(itertools.islice(pending, AT_ONCE)):
        kept = [each.pair for each in group if each.rule is None]
        scores = iter(zip(*(direction(kept) for direction in score), strict=True))
        for each in group:
            if each.rule is not None:
                yield each
                continue
            forward, backward = next(scores)
            if forward is None or backward is None:
                yield each._replace(rule=TOO_LONG)
                continue
            found = dual_cross_entropy(forward, backward)
            yield each._replace(score=found, rule=DUAL if found > limit else None)


def scorers(options: FilterOptions, display: Display) -> tuple[Score, Score]:
    """What scores pairs by the two runs of a command line.

    Raises:
        ValueError: one is no run, or both translate in the same direction.
    """
    from seq2seq_jax.run.direction import arrow, is_reverse
    from seq2seq_jax.run.inference import Inference

    keep_compiled_programs()
    forward, backward = (
        Inference.open(user_path(path), progress=display.progress) for path in (options.forward, options.backward)
    )
    if is_reverse(backward.experiment, forward.experiment) is False:
        raise ValueError(
            f"--backward {options.backward} translates from {arrow(backward.experiment)}, and --forward from "
            f"{arrow(forward.experiment)}. Give a run of the other direction."
        )

    def scorer(run: "Inference", *, is_reversed: bool) -> Score:
        params, _ = run.parameters()

        def score(pairs: list[Pair]) -> list[float | None]:
            sides = [list(side) for side in (zip(*pairs, strict=True) if pairs else ((), ()))]
            sources, targets = reversed(sides) if is_reversed else sides
            longer = run.system.scorer.too_long(sources, targets)
            fitting = [index for index in range(len(pairs)) if index not in longer]
            scored = run.system.scorer.score(
                params, [sources[index] for index in fitting], [targets[index] for index in fitting]
            )
            found: list[float | None] = [None] * len(pairs)
            for index, each in zip(fitting, scored, strict=True):
                found[index] = -each.log_probability / each.num_tokens
            return found

        return score

    return scorer(forward, is_reversed=False), scorer(backward, is_reversed=True)


def _show(name: str, directory: Path, report: dict[str, Any]) -> None:
    total = report["pairs"]
    rows = [
        (
            rule,
            f"{facts['removed']:,}",
            f"{facts['removed'] / total:.2%}",
            cut(_example(facts["examples"]), LONGEST_SHOWN),
        )
        for rule, facts in sorted(report["rules"].items(), key=lambda item: -item[1]["removed"])
    ]
    if rows:
        columns(("rule", "pairs", "of all", "the first one"), rows, title=f"{name}: left out")
    table(
        [
            ("pairs", f"{total:,}"),
            ("kept", f"{report['kept']:,} ({report['kept'] / total:.2%}), in {directory / KEPT}"),
            ("left out", f"in {directory / REMOVED}, with the rule of each; all counts and examples in {REPORT}"),
        ],
        title="",
    )


def _example(examples: list[dict[str, Any]]) -> str:
    return f"{examples[0]['source']} | {examples[0]['target']}" if examples else ""
