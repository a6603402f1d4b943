"""`seq2seq train`: one command from a config to a trained, evaluated model."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from seq2seq_jax.commands.console import Display, duration, table
from seq2seq_jax.commands.evaluate import figures_of, score_rows
from seq2seq_jax.data.packing import Anchor
from seq2seq_jax.data.pipeline import select, training_batches
from seq2seq_jax.evaluation.plots import plot_learning_curves
from seq2seq_jax.experiment import Experiment, config_name, find_config, load_config, override, run_directory
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.run import Run
from seq2seq_jax.training.checkpoint import Progress
from seq2seq_jax.training.loop import Loop
from seq2seq_jax.training.step import TrainState, build_update
from seq2seq_jax.training.telemetry import Record, RecordFiles

USAGE = """\
usage: seq2seq train CONFIG [--run_dir D] [--part.field value ...]

Train the experiment of a config, or continue it where its run directory ends.

CONFIG is a Python file, or the name of one below configs/, such as dates/transformer.
`seq2seq train CONFIG --help` lists every field with its meaning, unit and value.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Command line of `seq2seq train`."""

    run_dir: str | None = None
    """Directory of the run, new or to be continued; None = runs/CONFIG/OVERRIDES/seed=N."""
    json: str | None = None
    """File for the figures of the table at the end, as JSON."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The experiment."""


def run(arguments: list[str]) -> None:
    """Parse the command line, train, evaluate on the test split, show where everything is."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, end="")
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    path = find_config(arguments[0])
    default, description = load_config(path)
    name = config_name(path)
    chosen = override(
        TrainArguments(experiment=default), arguments[1:], program=f"seq2seq train {name}", description=description
    )
    directory = Path(chosen.run_dir or run_directory(name, default, chosen.experiment))
    with Display() as display:
        _train(Run(directory, chosen.experiment, progress=display.progress), name, display, chosen.json)


def _train(run: Run, name: str, display: Display, json_file: str | None) -> None:
    experiment = run.experiment
    mesh = run.mesh
    run.begin(name)
    display.line(f"run directory: {run.directory}")
    display.line(f"mesh: {dict(mesh.shape)} of {mesh.devices.size} {mesh.devices.flat[0].device_kind} device(s)")
    store = run.store("train")
    select(store, experiment.data)
    has_validation = "validation" in run.corpus.splits
    generator = run.generator()
    validation = run.validation("validation", generator) if has_validation else None
    samples = run.directory / "samples"

    def validate(state: TrainState) -> Record:
        result = validation(
            state.players["model"].evaluated,
            progress=lambda done, total: display.progress("validation", done, total),
        )
        samples.mkdir(exist_ok=True)
        triples = [
            f"source     {source}\noutput     {best[0].text if best else ''}\nreference  {reference}\n"
            for (source, reference), best in zip(validation.pairs, result.hypotheses, strict=True)
        ]
        (samples / f"step={int(state.step):08d}.txt").write_text("\n".join(triples), encoding="utf-8")
        display.line("\n".join(triples[: experiment.training.samples]).rstrip())
        scores = result.scores
        return {**result.losses, "bleu": scores.bleu, "chrf": scores.chrf, "exact_match": scores.exact_match}

    with run.checkpoints(read_only=False) as checkpoints:
        restored = checkpoints.restore_newest(run.layout)
        if restored is None:
            state, progress = run.initial_state(), Progress(step=0, score=None, loop={})
        else:
            state, progress = restored
            display.line(f"continuing after step {progress.step}")
        num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.players["model"].params))
        display.line(f"{num_parameters:,} parameters, {len(store):,} training pairs")

        update = build_update(
            run.objective,
            run.optimizers,
            accumulation=experiment.training.accumulation,
            average_decay=experiment.optimizer.ema_decay,
            seed=experiment.training.seed,
            mesh=mesh,
            layout=run.layout,
        )
        anchor = progress.loop.get("anchor")
        batches = training_batches(
            store,
            experiment.data,
            vocabulary=run.tokenizer.vocabulary,
            batch_tokens=experiment.training.batch_tokens,
            seed=experiment.training.seed,
            first_batch=progress.step,
            num_batches=experiment.training.steps - progress.step,
            anchor=None if anchor is None else Anchor(*anchor),
        )
        with RecordFiles(run.directory, after_step=progress.step) as files:
            rate = {"text": ""}

            def record(figures: Record) -> None:
                files.write(figures)
                if figures["kind"] == "train":
                    rate["text"] = f"{figures['tokens_per_second']:,.0f} target tokens/s"
                    if not display.live:
                        _training_line(figures, experiment.training.steps, display)
                else:
                    display.line(
                        f"validation at step {figures['step']:,}: loss {figures['loss']:.4f}, "
                        f"BLEU {figures['bleu']:.2f}, chrF {figures['chrf']:.2f}, "
                        f"exact match {figures['exact_match']:.2f}%" + (" (best so far)" if figures["best"] else "")
                    )
                    plot_learning_curves(files.records, run.directory / "plots" / "learning_curves.png")

            loop = Loop(
                experiment.training,
                update=update,
                place=run.place,
                validate=validate if has_validation else None,
                learning_rate=experiment.optimizer.learning_rate_schedule(experiment.training.steps),
                checkpoints=checkpoints,
                record=record,
                after_step=lambda step, loss: display.live
                and display.progress("training", step, experiment.training.steps, f"loss {loss:.3f}  {rate['text']}"),
            )
            try:
                state, progress = loop.run(state, progress, batches, anchor=lambda: batches.anchor)
            finally:
                batches.close()
            plot_learning_curves(files.records, run.directory / "plots" / "learning_curves.png")
            records = files.records
    figures = _figures(run, generator, progress, records, display)
    if json_file is not None:
        Path(json_file).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    rows = score_rows(figures["test"]) if "test" in figures else []
    if "tokens_per_second" in figures:
        rows += [
            ("training", f"{figures['steps']:,} steps in {duration(figures['seconds'])}, all included"),
            ("speed", f"{figures['tokens_per_second']:,.0f} target tokens/s while training"),
        ]
    rows += [
        ("checkpoints", str(run.directory / "checkpoints")),
        ("metrics", str(run.directory / "metrics.jsonl")),
        ("TensorBoard", f"tensorboard --logdir {run.directory / 'tensorboard'}"),
        ("learning curves", str(run.directory / "plots" / "learning_curves.png")),
        ("samples", str(run.directory / "samples")),
        ("use it", f"seq2seq generate {run.directory} < sources.txt"),
    ]
    table(rows, title=str(run.directory))


def _training_line(figures: Record, steps: int, display: Display) -> None:
    left = (steps - figures["step"]) / figures["steps_per_second"]
    display.line(
        f"step {figures['step']:,} of {steps:,}: loss {figures['loss']:.4f}, "
        f"{figures['tokens_per_second']:,.0f} target tokens/s, "
        f"waiting for input {figures['input_wait_share']:.2%}, {duration(left)} left"
    )


def _figures(
    run: Run, generator: Generator, progress: Progress, records: list[Record], display: Display
) -> dict[str, Any]:
    figures = {"run": str(run.directory), "steps": progress.step, "seconds": progress.loop.get("seconds", 0.0)}
    training = [record for record in records if record["kind"] == "train"]
    if training:
        tokens = sum(record["target_tokens"] for record in training)
        seconds = sum(record["target_tokens"] / record["tokens_per_second"] for record in training)
        figures["tokens_per_second"] = tokens / seconds
    if "test" in run.corpus.splits:
        params, step = run.parameters("best")
        result = run.validation("test", generator)(
            params, progress=lambda done, total: display.progress("test", done, total)
        )
        figures["test"] = figures_of(result, split="test", step=step)
    return figures
