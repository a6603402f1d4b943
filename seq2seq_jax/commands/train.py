"""`seq2seq train`: one command from a config to a trained, evaluated model."""

import contextlib
import json
import logging
import os
import platform
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from seq2seq_jax.batch import Batch
from seq2seq_jax.commands.console import Display, cut, duration, end_at_once, table
from seq2seq_jax.commands.device_memory import DeviceMemory
from seq2seq_jax.commands.evaluate import score_rows, tokenizer_figures, tokenizer_row
from seq2seq_jax.commands.options import TrainOptions
from seq2seq_jax.commands.outputs import refuse_unwritable
from seq2seq_jax.data.batch_maker import SelectionCounts
from seq2seq_jax.data.packing import PlanPosition
from seq2seq_jax.data.pipeline import training_batches
from seq2seq_jax.evaluation.metric import Example, references_of
from seq2seq_jax.evaluation.plots import plot_learning_curves
from seq2seq_jax.experiment import CommandLine, flatten, run_directory
from seq2seq_jax.files import write_whole
from seq2seq_jax.optimizers import split
from seq2seq_jax.parallel.chips import device_memory
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.parallel.mesh import bytes_per_device
from seq2seq_jax.parallel.processes import Job, Preempted, started
from seq2seq_jax.paths import unicode_path, user_path
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.goodput import Ledger, goodput
from seq2seq_jax.training.loop import Loop
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import TrainState, metric_prefix, num_parameters, updates_of_old_checkpoints
from seq2seq_jax.training.telemetry import Record, RecordFiles
from seq2seq_jax.training.validation import Validated, validated
from seq2seq_jax.training.writers import WriterName, open_writers

MARKER = "preempted"
"""File of a run directory that holds the last complete step of a run that was pre-empted."""
LONGEST_SHOWN = 300
"""Characters of a sample's text in a terminal; files have all of it."""

NOTICEABLE_STRAGGLING = 0.1
"""Share of the time that a process must cost the others for a person to be informed of it."""

logger = logging.getLogger(__name__)


def run(arguments: list[str], parsed: CommandLine) -> None:
    """Train, evaluate on the test split, show where everything is."""
    name, default, chosen = parsed
    directory = unicode_path(
        run_directory(name, default, chosen.experiment) if chosen.run_dir is None else chosen.run_dir
    )
    ledger = Ledger()
    with contextlib.ExitStack() as context:
        leave = _Leave(directory)
        meeting = started(chosen.processes, end=lambda reason: end_at_once(reason, 2), leave=leave.at_once)
        placement = context.enter_context(meeting)
        display = leave.display = context.enter_context(Display(speaks=jax.process_index() == 0))
        if chosen.compilation_cache:
            keep_compiled_programs()
        if placement is not None:
            display.line(f"{jax.process_count()} processes, found by {placement.origin}")
        if jax.process_index() == 0:
            refuse_unwritable(chosen.json)
        run = TrainingRun(directory, chosen.experiment, progress=display.progress, trust_code=chosen.trust_code)
        job = Job(stall_timeout=chosen.processes.stall_timeout, end=lambda reason: end_at_once(reason, 1))
        mesh, memory = run.mesh, DeviceMemory(lambda: run.system, display)
        with job.preemptible(mark=leave.mark, end=leave.end):
            try:
                holding = run.directory.held(lost=lambda reason: end_at_once(reason, 2))
                with holding as leave.release, memory.explained():
                    run.begin(name)
                    if display.speaks:
                        display.keep_log(run.directory.path / "train.log")
                        display.log(f"seq2seq train {shlex.join(arguments)}")
                        versions = f"Python {platform.python_version()}, jax {jax.__version__}"
                        display.log(f"process {os.getpid()} on {platform.node()}, {versions}")
                    display.line(f"run directory: {run.directory.path}")
                    kinds = f"{mesh.devices.size} {mesh.devices.flat[0].device_kind} device(s)"
                    display.line(f"mesh: {dict(mesh.shape)} of {kinds}")
                    display.line(f"each device holds {_held(run)}")
                    progress, records, limits, preempted = _train(run, display, ledger, job, chosen, memory)
                    if not preempted:
                        with job:
                            tell = _telling("test", display, job)
                            figures = _figures(run, progress, records, limits, ledger, tell)
            except Preempted:
                preempted = True
            if preempted:
                if jax.process_index() == 0:
                    leave.mark()
                return
        rows = _rows(figures, run, chosen.writers)
        display.log("\n".join(f"{name}: {value}" for name, value in rows))
    if jax.process_index() == 0:
        table(rows, title=str(run.directory.path))
        # What cannot be written in the end takes nothing of what a person reads.
        if chosen.json is not None:
            user_path(chosen.json).write_text(
                json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )


class _Leave:
    """How training ends before its time, with what a launcher looks for.

    Attributes:
        display: what says so, once there is one.
        release: gives up the run directory.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.display: Display | None = None
        self.release: Callable[[], None] = lambda: None

    def mark(self) -> None:
        """Leave the last complete step in the run directory."""
        with Checkpoints(self.directory / "checkpoints", read_only=True) as checkpoints:
            step = max(checkpoints.steps(), default=0)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_whole(self.directory / MARKER, f"{step}\n")
        if self.display is not None:
            saved = f"step {step:,} is saved, and the same command continues from there"
            self.display.line(f"pre-empted: {saved if step else 'nothing was saved yet, and the same command starts'}")

    def end(self) -> None:
        """End this process, whatever its main thread does."""
        self.release()
        end_at_once("pre-empted", 0)

    def at_once(self) -> None:
        """Both; to be called in a thread."""
        self.mark()
        self.end()


def _held(run: TrainingRun) -> str:
    """Bytes of the state that a device holds, in words.

    Raises:
        ValueError: a process has no such device.
    """
    players = run.system.layout.players.values()
    parts = {
        "parameters": [player.params for player in players],
        "optimizer state": [player.optimizer_state for player in players],
        "average": [player.average for player in players],
    }
    sizes = {name: bytes_per_device(part) for name, part in parts.items()}
    described = ", ".join(f"{size / 2**20:,.1f} MiB of {name}" for name, size in sizes.items() if size)
    memory = device_memory(run.mesh.local_devices[0])
    if memory is not None and sum(sizes.values()) > memory:
        raise ValueError(
            f"each device would hold {described}, and has {memory / 2**20:,.1f} MiB. Lower the sizes of the model, or "
            "divide it over more devices: mesh.fsdp, mesh.tensor."
        )
    return described


def _describe_parameters(run: TrainingRun, state: TrainState) -> str:
    """How many parameters the players have."""
    first = run.system.player
    numbers = {name: num_parameters(player.params) for name, player in state.players.items()}
    others = "".join(f", {name} {number:,}" for name, number in sorted(numbers.items()) if name != first)
    trained = num_parameters(split(run.system.optimizers[0][first], state.players[first].params)[0])
    part = "" if trained == numbers[first] else f" ({trained:,} of them trained, {trained / numbers[first]:.2%})"
    return f"{numbers[first]:,} parameters{part}{others}"


def warn_of_players_without_update(state: TrainState, *, step: int) -> None:
    """Say which players no turn has trained: what such a run generates is what it began with."""
    for name, player in state.players.items():
        if step and int(player.updates) == 0:
            logger.warning(
                "Player %s had no update in %s steps, and is as it was at the start: all turns were those of others. "
                "More training.steps, or turns of the objective that begin earlier, train it.",
                name, f"{step:,}",
            )  # fmt: skip


class _Report:
    """What a person sees of training, and what is kept of it."""

    def __init__(
        self, run: TrainingRun, display: Display, files: RecordFiles | None, *, loss_scale: Literal["linear", "log"]
    ):
        """Args:
        files: None = another process keeps the records.
        loss_scale: of the learning curves.
        """
        self.loss_scale = loss_scale
        self.run = run
        self.display = display
        self.files = files
        self.steps = run.experiment.training.steps
        self.speed = ""
        self.warned: set[str] = set()

    def step(self, step: int, loss: float | None) -> None:
        """Move the progress bar, where there is one."""
        if self.display.live:
            shown = "" if loss is None else f"loss {loss:.3f}  "
            self.display.progress("training", step, self.steps, f"{shown}{self.speed}")

    def record(self, figures: Record) -> None:
        """Keep a record, and show it."""
        if self.files is None:
            return
        self.files.write(figures)
        self.display.log(json.dumps(figures))
        if figures["kind"] == "validation":
            of_set = f" of {figures['set']}" if "set" in figures else ""
            scores = (f", {facts['label']} {figures[name]:.2f}" for name, facts in figures.get("metrics", {}).items())
            self.display.line(
                f"validation{of_set} at step {figures['step']:,}: loss {figures['loss']:.4f}{''.join(scores)}"
                + (" (best so far)" if figures["best"] else "")
            )
            self.plot()
            return
        for name, warning in self.run.system.objective.warnings(figures).items():
            if name not in self.warned:
                self.warned.add(name)
                self.display.line(f"warning at step {figures['step']:,}: {warning}")
        self.speed = f"{figures['tokens_per_second']:,.0f} target tokens/s"
        if "mfu" in figures:
            self.speed += f", MFU {figures['mfu']:.1%}"
        left = (self.steps - figures["step"]) / figures["steps_per_second"]
        reward = f", reward {figures['reward']:.4f}" if "reward" in figures else ""
        self.display.line(
            f"step {figures['step']:,} of {self.steps:,}: {self._describe_losses(figures)}{reward}, {self.speed}, "
            f"waiting for input {figures['input_wait_fraction']:.2%}, {duration(left)} left"
            + _describe_straggler(figures)
        )

    def _describe_losses(self, figures: Record) -> str:
        """The losses of the players that had turns since the last record."""
        prefixes = [metric_prefix(self.run.system.objective, name) for name in self.run.system.layout.players]
        losses = sorted(f"{prefix}loss" for prefix in prefixes if f"{prefix}loss" in figures)
        return ", ".join(f"{name.replace('_', ' ')} {figures[name]:.4f}" for name in losses) or "no turns"

    def compiling(self, batch: Batch) -> None:
        """Say why nothing moves for a while."""
        rows, source = batch.source.segment_ids.shape
        self.display.line(
            f"compiling the update for {rows:,} rows of {source:,} + {batch.target.tokens.shape[1]:,} tokens ..."
        )

    def samples(self, step: int, examples: Sequence[Example], outputs: list[str], *, name: str) -> None:
        """Keep source, output and references of all examples of a validation set, and show the first of the first.

        Args:
            name: of the set; empty = the first.
        """
        if self.files is None:
            return
        task = self.run.experiment.task
        samples = [
            task.sample(example, output, references)
            for example, output, references in zip(examples, outputs, references_of(outputs, examples), strict=True)
        ]
        directory = self.run.directory.path / "samples"
        directory.mkdir(exist_ok=True)
        write_whole(directory / f"{name}{'.' if name else ''}step={step:08d}.txt", _lines_of_samples(samples))
        if name:
            return
        shown = samples[: self.run.experiment.training.num_sample_outputs]
        self.display.line(
            _lines_of_samples([[(name, cut(text, LONGEST_SHOWN)) for name, text in each] for each in shown]).rstrip(),
            whole=_lines_of_samples(shown).rstrip(),
        )

    def plot(self) -> None:
        """Draw the learning curves anew."""
        if self.files is not None and self.files.records:
            plot_learning_curves(
                self.files.records,
                self.run.directory.path / "plots" / "learning_curves.png",
                loss_scale=self.loss_scale,
            )


def _lines_of_samples(samples: Iterable[Iterable[tuple[str, str]]]) -> str:
    """Names and texts, a line each, and an empty line between samples."""
    return "\n".join("".join(f"{name:<11}{text}\n" for name, text in sample) for sample in samples)


def _describe_straggler(figures: Record) -> str:
    """Which process holds the others up, if one does noticeably."""
    if figures.get("straggler_fraction", 0.0) < NOTICEABLE_STRAGGLING:
        return ""
    return f", process {figures['straggler']} holds the others up for {figures['straggler_fraction']:.0%} of the time"


def _train(
    run: TrainingRun, display: Display, ledger: Ledger, job: Job, options: TrainOptions, memory: DeviceMemory
) -> tuple[Progress, list[Record], dict[str, SelectionCounts], bool]:
    """Train from the newest checkpoint, or from the start, to the end or to a pre-emption (True)."""
    experiment, training = run.experiment, run.experiment.training
    store = run.data.store("train", run.tokenizer)
    validations = {
        split: run.inference.validation(split)
        for split in run.data.corpus.splits
        if split.partition("/")[0] == "validation"
    }
    is_first = jax.process_index() == 0
    if is_first:
        (run.directory.path / MARKER).unlink(missing_ok=True)
    with run.checkpoints() as checkpoints:
        restored = checkpoints.restore_newest(run.system.layout, added=updates_of_old_checkpoints(run.system.objective))
        if restored is None:
            state, progress = run.initial_state(), Progress(step=0)
        else:
            state, progress = restored
            display.line(f"continuing after step {progress.step}")
        display.line(f"{_describe_parameters(run, state)}, {len(store):,} training examples")
        plan_position = progress.loop.plan_position
        batches = training_batches(
            store,
            experiment.batch_format,
            vocabulary=run.tokenizer.vocabulary,
            tokenizer=run.tokenizer,
            target_tokens_per_batch=training.target_tokens_per_batch,
            seed=training.seed,
            first_batch=progress.step,
            num_batches=training.steps - progress.step,
            workers=experiment.data.workers,
            prefetch=experiment.data.prefetch,
            process_index=run.system.rows_of_process[0],
            process_count=run.system.rows_of_process[1],
            plan_position=None if plan_position is None else PlanPosition(*plan_position),
        )
        kept = _records(run, options.writers, progress) if is_first else contextlib.nullcontext()
        with contextlib.closing(batches), kept as files:
            report = _Report(run, display, files, loss_scale=options.loss_scale)
            has_validated = False

            def validate(state: TrainState) -> Validated:
                nonlocal has_validated
                if not has_validated:
                    display.line("compiling what validates ...")
                has_validated = True
                params, results = run.system.used_parameters(state), {}
                for split, validation in validations.items():
                    name = split.partition("/")[2]
                    result = validation(params, progress=_telling(split, display, job))
                    if result.hypotheses is not None:
                        report.samples(int(state.step), validation.sources.examples, result.outputs, name=name)
                    results[name or split] = result
                return validated(results, training.select_by)

            update = run.system.build_update()

            def compiling(state: TrainState, batch: Batch) -> None:
                report.compiling(batch)
                memory.compile(update, state, batch)

            loop = Loop(
                training,
                update=update,
                place=run.system.place,
                validate=validate if validations else None,
                learning_rates=run.system.learning_rates,
                checkpoints=checkpoints,
                record=report.record,
                ledger=ledger,
                job=job,
                peak_flops=run.system.peak_flops,
                failure=run.system.objective.failure,
                stops=run.system.objective.stops,
                after_step=report.step,
                recorded=lambda: None if files is None else files.checksums,
                compiling=compiling,
            )
            # Not before: what another process encodes first may take hours.
            with job:
                state, progress = loop.run(state, progress, batches, plan_position=lambda: batches.plan_position)
            warn_of_players_without_update(state, step=progress.step)
            report.plot()
            preempted = job.terminated or not loop.finished(progress)
            limits = {"train": batches.selection} | {
                split: validation.batches.selection for split, validation in validations.items()
            }
            return progress, files.records if is_first else [], limits, preempted


def _records(run: TrainingRun, writers: Sequence[WriterName], progress: Progress) -> RecordFiles:
    """metrics.jsonl of the run and what else gets its records, continued after a checkpoint."""
    opened = open_writers(writers, run.directory.path, after_step=progress.step, experiment=flatten(run.experiment))
    checksums = progress.loop.records
    return RecordFiles(run.directory.path, after_step=progress.step, checksums=checksums, writers=opened)


def _telling(what: str, display: Display, job: Job) -> Callable[[int, int], None]:
    """Takes (done, of how many): shows it, and that the process is alive."""

    def tell(done: int, total: int) -> None:
        job.progress(f"{what}, {done} of {total} done")
        display.progress(what, done, total)

    return tell


def _figures(
    run: TrainingRun,
    progress: Progress,
    records: list[Record],
    limits: dict[str, SelectionCounts],
    ledger: Ledger,
    tell: Callable[[int, int], None],
) -> dict[str, Any]:
    """The metrics of the table at the end, the best checkpoint evaluated on the test split where there is one."""
    spent = ledger.read()
    figures = {
        "run": str(run.directory.path),
        "tokenizer": tokenizer_figures(run.experiment.tokenizer, run.tokenizer),
        "steps": progress.step,
        "seconds": sum(spent.values()) - spent["restarts"],
        "goodput": goodput(spent),
        "seconds_by_cause": spent,
    }
    training = [record for record in records if record["kind"] == "train"]
    if training:
        tokens = sum(record["target_tokens"] for record in training)
        seconds = sum(record["target_tokens"] / record["tokens_per_second"] for record in training)
        figures["tokens_per_second"] = tokens / seconds
        if all("mfu" in record for record in training):
            used = sum(record["mfu"] * record["target_tokens"] / record["tokens_per_second"] for record in training)
            figures["mfu"] = used / seconds
    if "test" in run.data.corpus.splits:
        params, step = run.inference.parameters_of_players("best")
        validation = run.inference.validation("test")
        result = validation(params, progress=tell)
        figures["test"] = result.to_json(split="test", step=step)
        limits = {**limits, "test": validation.batches.selection}
    figures["limits"] = {split: counts._asdict() for split, counts in limits.items()}
    return figures


def _rows(figures: dict[str, Any], run: TrainingRun, writers: Sequence[WriterName]) -> list[tuple[str, str]]:
    directory = run.directory.path
    rows = score_rows(figures["test"]) if "test" in figures else []
    rows += limit_rows({split: SelectionCounts(**counts) for split, counts in figures["limits"].items()})
    if "tokens_per_second" in figures:
        rows += [
            ("training", f"{figures['steps']:,} steps in {duration(figures['seconds'])}, all included"),
            ("speed", f"{figures['tokens_per_second']:,.0f} target tokens/s while training{_describe_mfu(figures)}"),
            ("goodput", _describe_time(figures["seconds_by_cause"])),
        ]
    use, given = ("chat", "") if run.experiment.task.converses else ("generate", " < sources.txt")
    board = f"tensorboard --logdir {shlex.quote(str(directory / 'tensorboard'))}"
    return rows + [
        tokenizer_row(figures["tokenizer"]),
        ("checkpoints", str(directory / "checkpoints")),
        ("metrics", str(directory / "metrics.jsonl")),
        ("log", str(directory / "train.log")),
        *([("TensorBoard", board)] if "tensorboard" in writers else []),
        ("learning curves", str(directory / "plots" / "learning_curves.png")),
        *([("samples", str(directory / "samples"))] if (directory / "samples").exists() else []),
        ("use it", f"seq2seq {use} {shlex.quote(str(directory))}{given}"),
    ]


def limit_rows(limits: dict[str, SelectionCounts]) -> list[tuple[str, str]]:
    """Rows of a table of what the length limits did to the examples of each split; none if they did nothing."""
    rows = []
    for done in ("dropped", "truncated"):
        numbers = {split: getattr(counts, done) for split, counts in limits.items()}
        if any(numbers.values()):
            of_splits = ", ".join(
                f"{split} {number:,} of {limits[split].total:,} ({number / limits[split].total:.1%})"
                for split, number in numbers.items()
            )
            rows.append(
                ("limits", f"{done} as too long: {of_splits} (data.max_source_length, max_target_length, too_long)")
            )
    return rows


def _describe_mfu(figures: dict[str, Any]) -> str:
    return f", MFU {figures['mfu']:.1%}" if "mfu" in figures else ""


def _describe_time(spent: dict[str, float]) -> str:
    """The share of the time that went to training, and what took the rest."""
    total = sum(spent.values())
    lost = sorted(((seconds, cause) for cause, seconds in spent.items() if cause != "training"), reverse=True)
    causes = ", ".join(f"{cause} {seconds / total:.1%}" for seconds, cause in lost if seconds > total / 1000)
    return f"{goodput(spent):.1%} of {duration(total)} went to training" + (f"; {causes}" if causes else "")
