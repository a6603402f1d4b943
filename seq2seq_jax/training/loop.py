"""The training loop: update, record, validate, save; and go on exactly where a run stopped."""

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from seq2seq_jax.batch import Batch
from seq2seq_jax.objectives.objective import Logged, values_of
from seq2seq_jax.parallel.processes import Job, gather
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.config import LOSS, TrainingConfig
from seq2seq_jax.training.goodput import Ledger, goodput
from seq2seq_jax.training.progress import LoopState, Progress, Selection, Window
from seq2seq_jax.training.step import TrainState, Update
from seq2seq_jax.training.telemetry import Record
from seq2seq_jax.training.validation import Validated

logger = logging.getLogger(__name__)


EQUAL_VALIDATIONS = 3
"""Validations after which a metric that was the same at each is reported."""


class NonFiniteLossError(Exception):
    """The loss of a step is infinite or not a number."""

    exit_status = 1


class Loop:
    """One run's training, from its last checkpoint to its end."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        update: Update,
        place: Callable[[Batch], Batch],
        validate: Callable[[TrainState], Validated] | None,
        learning_rates: Callable[[TrainState], dict[str, float]],
        checkpoints: Checkpoints,
        record: Callable[[Record], None],
        ledger: Ledger,
        job: Job,
        peak_flops: Callable[[float], float | None],
        failure: Callable[[], str | None] = lambda: None,
        stops: Callable[[dict[str, float]], str | None] = lambda figures: None,
        after_step: Callable[[int, float | None], None] = lambda step, loss: None,
        recorded: Callable[[], Any] = lambda: None,
        compiling: Callable[[TrainState, Batch], None] = lambda state, batch: None,
    ):
        """Args:
        place: puts a host batch on the devices.
        validate: of a state, on the validation sets; None = there are none.
        learning_rates: of the last updates of a state's players, by name of the metric.
        record: takes each record as it comes.
        ledger: of the run's time; resumed from its checkpoint here.
        job: the processes that run this loop.
        peak_flops: takes the FLOPs per second that were reached; FLOPs per second of all devices together, which MFU is
            a share of, and which are no less than that; None = not known.
        failure: see `Objective.failure`.
        stops: see `Objective.stops`.
        after_step: takes (updates done, loss) of each step, one step late; None = the first player took no turn.
        recorded: what tells later whether the records so far are complete, JSON; None = nothing is known.
        compiling: takes a state and the first batch of each shape, before the first update with it; the update may be
            compiled there.
        """
        self.config = config
        self.update = update
        self.place = place
        self.validate = validate
        self.learning_rates = learning_rates
        self.checkpoints = checkpoints
        self.record = record
        self.ledger = ledger
        self.job = job
        self.peak_flops = peak_flops
        self.failure = failure
        self.stops = stops
        self.after_step = after_step
        self.recorded = recorded
        self.compiling = compiling

    def run(
        self, state: TrainState, progress: Progress, batches: Iterator[Batch], *, plan_position: Callable[[], Any]
    ) -> tuple[TrainState, Progress]:
        """Train until the last step, until patience is at its end, or until the job is pre-empted.

        A pre-emption is heeded after the step that it comes in, and its validation if there is one: the run is saved,
        and continues later as if nothing had been.

        Args:
            state: after progress.step updates; donated.
            batches: those from number progress.step on.
            plan_position: what finds the place in the data again, JSON.

        Raises:
            NonFiniteLossError: with the step, and which checkpoint is the last good one.
            ValueError: the same, where the objective knows of a user's mistake behind it; or it cannot go on.
        """
        config, ledger, job = self.config, self.ledger, self.job
        window, selection = progress.loop.window, progress.loop.selection
        if progress.loop.saved_at is not None:
            ledger.resume(progress.loop.seconds, saved_at=progress.loop.saved_at)
        ledger.start_training()
        clock = _Clock(ledger)
        pending: tuple[int, dict[str, Logged], int] | None = None
        shapes: set[Any] = set()
        warned = False

        def settle() -> None:
            """Fetch the metrics of the step in flight."""
            nonlocal pending, window
            if pending is None:
                return
            step, metrics, padded_positions = pending
            pending = None
            with clock.blocked():
                metrics = jax.device_get(metrics)
            values = values_of(metrics)
            job.progress(f"step {step + 1}")
            job.has_unsaved_steps = True
            if not all(map(math.isfinite, values.values())):
                loss_first = sorted(values.items(), key=lambda item: item[0] != "loss")
                bad = ", ".join(f"{name} = {value}" for name, value in loss_first if not math.isfinite(value))
                self.checkpoints.wait()
                if failure := self.failure():
                    raise ValueError(f"step {step}: {failure}")
                good = self.checkpoints.steps()
                kept = f"the last good checkpoint is step {good[-1]}" if good else "there is no checkpoint yet"
                raise NonFiniteLossError(
                    f"step {step}: {bad}. Training stopped; {kept}. Lower optimizer.learning_rate, raise "
                    "optimizer.warmup_steps, or look at the data near this step."
                )
            if reason := self.stops(values):
                self.checkpoints.wait()
                raise ValueError(f"step {step}: {reason}")
            window = window.plus(metrics, padded_positions)
            self.after_step(step, values.get("loss"))

        step, stop = progress.step, False
        while step < config.steps and not stop and not self._out_of_patience(selection):
            with ledger.spending_on("input"):
                batch = next(batches)
            batch = self.place(batch)
            padded_positions = batch.target.tokens.size + batch.source.segment_ids.size
            shape = batch.source.segment_ids.shape, batch.target.tokens.shape
            is_new = shape not in shapes
            compiled, compiling = self.update.compilations, self.update.compiling_seconds
            if is_new:
                self.compiling(state, batch)
            state, metrics = self.update(state, batch)
            compiling = self.update.compiling_seconds - compiling
            ledger.move(compiling, to="compiling")
            if self.update.compilations > compiled and not is_new and not warned:
                warned = True
                logger.warning(
                    "Step %d took %.1f s to compile the update again, for rows that it had been compiled for: source "
                    "%s, target %s. Records count `compilations`; if they go on rising, training is slowed down by it.",
                    step + 1, compiling, *shape,
                )  # fmt: skip
            shapes.add(shape)
            settle()
            step += 1
            pending = (step, metrics, padded_positions)

            last = step == config.steps
            log = last or step % config.log_every == 0
            evaluate = self.validate is not None and (last or step % config.evaluate_every == 0)
            stop = job.preempted(step)
            save = last or evaluate or stop or step % config.checkpoint_every == 0
            if log or save:
                settle()
            if log:
                self.record(self._training_record(step, state, window, clock))
                window, clock = Window(), _Clock(ledger)
            score = loss = None
            if evaluate:
                with ledger.spending_on("validation"):
                    found = self.validate(state)
                    score, loss = found.score, found.loss
                    selection, is_best = selection.plus(score, loss)
                    if selection.num_equal == EQUAL_VALIDATIONS and config.select_by != LOSS:
                        logger.warning(
                            "The metric %s was the same at each of %d validations and does not tell checkpoints apart: "
                            "the lower loss decides which is the best. training.select_by chooses another metric.",
                            config.select_by, EQUAL_VALIDATIONS,
                        )  # fmt: skip
                    for figures in found.records:
                        self.record({"kind": "validation", "step": step, **figures, "best": is_best})
            if save:
                job.progress(f"saving step {step}")
                with ledger.spending_on("saving"):
                    progress = Progress(
                        step=step,
                        score=score,
                        loss=loss,
                        loop=LoopState(
                            window=window,
                            selection=selection,
                            seconds=ledger.read(),
                            saved_at=time.time(),
                            plan_position=plan_position(),
                            records=self.recorded(),
                        ),
                    )
                    self.checkpoints.save(state, progress)
        with ledger.spending_on("saving"):
            self.checkpoints.wait()
        job.has_unsaved_steps = False
        return state, progress

    def finished(self, progress: Progress) -> bool:
        """Whether nothing is left to be done: the last step is reached, or patience is at its end."""
        return progress.step >= self.config.steps or self._out_of_patience(progress.loop.selection)

    def _out_of_patience(self, selection: Selection) -> bool:
        return self.config.patience is not None and selection.since_best >= self.config.patience

    def _training_record(self, step: int, state: TrainState, window: Window, clock: "_Clock") -> Record:
        seconds, waited, blocked, stalled = clock.read()
        flops_per_second = window.model_flops / seconds
        with self.ledger.spending_on("starting"):
            # Of a CPU it may be measured anew.
            peak = self.peak_flops(flops_per_second)
        spent = self.ledger.read()
        return {
            "kind": "train",
            "step": step,
            **window.means(),
            **self.learning_rates(state),
            "target_tokens": window.target_tokens,
            "tokens_per_second": window.target_tokens / seconds,
            "source_tokens_per_second": window.source_tokens / seconds,
            "source_and_target_tokens_per_second": (window.source_tokens + window.target_tokens) / seconds,
            "model_flops_per_second": flops_per_second,
            **({} if peak is None else {"mfu": flops_per_second / peak}),
            "steps_per_second": window.steps / seconds,
            **{f"{name}_per_second": count / seconds for name, count in window.counts.items()},
            "padding_fraction": 1.0 - (window.target_tokens + window.source_tokens) / window.padded_positions,
            "compilations": self.update.compilations,
            "input_wait_fraction": waited / seconds,
            "checkpoint_stall_fraction": stalled,
            **_of_processes(gather([waited / seconds, blocked / seconds])),
            "seconds": sum(spent.values()) - spent["restarts"],
            "goodput": goodput(spent),
        }


def _of_processes(shares: list[list[float]]) -> dict[str, Any]:
    """What tells a process that holds the others up: it waits less for the step than they do.

    Args:
        shares: of each process's time, the waits for its input and for the step on its devices.
    """
    if len(shares) == 1:
        return {}
    input_waits, step_waits = map(list, zip(*shares, strict=True))
    straggler = step_waits.index(min(step_waits))
    return {
        "input_wait_fraction_by_process": input_waits,
        "step_wait_fraction_by_process": step_waits,
        "straggler": straggler,
        "straggler_fraction": statistics.median(step_waits) - step_waits[straggler],
    }


class _Clock:
    """Seconds of training since it was made, and those of them that were spent waiting."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._before = ledger.read()
        self._blocked = 0.0

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """A wait for the step on the devices."""
        started = time.perf_counter()
        yield
        self._blocked += time.perf_counter() - started

    def read(self) -> tuple[float, float, float, float]:
        """Seconds of training, compilation and input included; waits for input and for the devices among them; and
        the share of all time, validation included, that went to saving.
        """
        spent = {cause: total - self._before[cause] for cause, total in self._ledger.read().items()}
        seconds = spent["training"] + spent["input"]
        return seconds, spent["input"], self._blocked, spent["saving"] / sum(spent.values())
