"""python -m studies.peers packing CONFIG: packed rows of real lengths beside PyTorch's padded ones."""

import dataclasses
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro

from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.experiment import Experiment, parse_command_line, to_json
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.step import num_parameters
from studies import packing
from studies.packing import PACKED, Batching, Speed
from studies.peers import pytorch, side_by_side
from studies.peers.task import Task

PROGRAM = "python -m studies.peers packing CONFIG"
DESCRIPTION = """\
Train on an epoch of the text of CONFIG, with the models of the other comparison: this project on packed rows and on
padded ones, PyTorch on padded ones, as target tokens per second without padding. A padded batch has one pair per row,
of a bucket of like lengths, and about as many token positions as a packed batch; the buckets are those that pad the
least. With one bucket, all rows are as long as the longest. Steps of all shapes take turns in one process. Needs pip
install 'seq2seq_jax[peers]'. CONFIG gives data, tokenizer and the tokens of a batch, --task the rest. Values are those
of {name}.
"""
PYTORCH = "PyTorch, "


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerPackingArguments:
    """Command line of the comparison on real lengths."""

    models: tuple[Literal["marian", "t5", "transformer"], ...] = ("marian",)
    """Models to compare."""
    buckets: tuple[int, ...] = (1, 8, 16)
    """Numbers of buckets of padded batches, of both sides."""
    compiled: bool = False
    """Whether PyTorch goes through torch.compile, one program a shape; on CPUs it was slower so."""
    threads: int | None = None
    """Threads of PyTorch; None = one a core."""
    rounds: int = 5
    """Turns that each shape of a batch has (5 at least)."""
    json: str | None = None
    """File for all measurements, as JSON."""
    task: Task = Task()
    """Sizes of the models; those of the batch, and the vocabulary, are the text's."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """Where the text comes from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackingComparison:
    """One architecture on the text."""

    parameters: int
    """Numbers that are trained, as many on both sides."""
    rows: dict[str, Speed]
    """By the way to make batches; PyTorch's have its name in front."""
    best: str
    """PyTorch's way of most tokens per second."""

    @property
    def ratio(self) -> Spread:
        """Tokens per second of this project's packed rows over those of PyTorch's best way."""
        return self.rows[self.best].packed_is_faster

    @property
    def of_packing(self) -> Spread:
        """The part of it that packing has: over this project's own padded rows, in PyTorch's best way."""
        return self.rows[self.best.removeprefix(PYTORCH)].packed_is_faster


def compare(name: str, ours: Mapping[str, Batching], task: Task, *, options: PeerPackingArguments) -> PackingComparison:
    """Check that both sides compute the same on padded rows, then time them.

    Args:
        name: of the architecture.
        ours: this project's ways to make batches of the text.

    Raises:
        Disagreement: the two sides do not compute the same.
    """
    theirs = {f"{PYTORCH}{kind}": batching for kind, batching in ours.items() if kind != PACKED}
    # The shortest rows of the last way to pad; longer ones would only take longer.
    shortest = min(ours[list(ours)[-1]].examples.items(), key=lambda example: example[0].source_length)[1]
    side_by_side.check(name, task, threads=options.threads, batch=shortest)
    architecture = side_by_side.ARCHITECTURES[name]
    training = side_by_side.our_training(architecture, task, dropout=task.dropout)
    step = training.step()
    params = jax.tree.map(np.asarray, step.state.players["model"].params)
    peer = side_by_side.their_training(architecture, task, params, threads=options.threads, compiled=options.compiled)
    steps = dict.fromkeys(ours, lambda batch: functools.partial(step, training.place(batch)))
    steps |= dict.fromkeys(theirs, lambda batch: functools.partial(peer, peer.place(batch)))
    rows = packing.time_in_turns({**ours, **theirs}, steps, rounds=options.rounds)
    return PackingComparison(
        parameters=num_parameters(params),
        rows=rows,
        best=max(theirs, key=lambda kind: rows[kind].tokens_per_second.median),
    )


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print a table a model.

    Raises:
        ValueError: there is no such config, its data is not pairs, or a value does not fit.
    """
    config, rest = arguments[:1], arguments[1:]
    if not config or config[0].startswith("-"):
        config, rest = ["dates/transformer"], arguments
    name, _, options = parse_command_line(
        config[0], rest, arguments=PeerPackingArguments, program=PROGRAM, description=DESCRIPTION
    )
    experiment = options.experiment
    packing.require_pairs(experiment, name)
    if not experiment.tokenizer.joint:
        raise ValueError("these models have one table for both languages: set --tokenizer.joint True.")
    console = report.output()
    figures = {"environment": harness.environment(), "experiment": to_json(experiment), "models": {}}
    with tempfile.TemporaryDirectory() as directory:
        run = TrainingRun(Path(directory), experiment)
        run.begin(name)
        task = dataclasses.replace(
            options.task,
            rows=experiment.rows_per_batch,
            source_length=experiment.data.max_source_length,
            target_length=experiment.data.max_target_length,
            vocabulary_size=run.tokenizer.vocabulary.target_size,
        )
        batchings = packing.batchings_of(run, options.buckets)
        for model in options.models:
            found = compare(model, batchings, task, options=options)
            figures["models"][model] = dataclasses.asdict(found)
            title = (
                f"{model}: {found.parameters:,} parameters, {task.precision}, text of {name}; {options.rounds} turns"
            )
            console.print(packing.table_of(found.rows, title=title))
            console.print(
                f"{model}: {report.factor(found.ratio)} times the tokens/s of {found.best}, of which packing has "
                f"{report.factor(found.of_packing)}"
            )
    of_torch = figures["environment"]["pytorch"] = pytorch.environment()
    line = report.environment_line(figures["environment"])
    console.print(f"{line}, torch {of_torch['version']} on {of_torch['threads']} threads")
    report.write_json(figures, options.json)
