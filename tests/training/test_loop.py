"""The loop: what is recorded, validated and saved when; and that a continued run does the same."""

import math
import time

import jax.numpy as jnp
import numpy as np
import pytest
from logged import own_messages

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.objectives.objective import Count, WeightedSum, per_step
from seq2seq_jax.parallel.processes import Job
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.goodput import Ledger
from seq2seq_jax.training.loop import Loop, NonFiniteLossError, TrainingConfig
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import TrainState
from seq2seq_jax.training.validation import Validated

SOURCE_POSITIONS, TARGET_POSITIONS = 100, 60
TIMES = {
    "tokens_per_second", "source_tokens_per_second", "rewards_per_second", "steps_per_second", "input_wait_fraction",
    "seconds", "goodput", "source_and_target_tokens_per_second", "pairs_per_second", "model_flops_per_second", "mfu",
    "checkpoint_stall_fraction", "compilations",
}  # fmt: skip
COMPILATION = 0.05
"""Seconds that a compilation takes at least."""
NOTHING_DONE = Progress(step=0)


def rows(length):
    row = np.ones((1, length), np.int32)
    return TokenRows(tokens=row, segment_ids=row, positions=row)


BATCH = Batch(source=rows(SOURCE_POSITIONS), target=rows(TARGET_POSITIONS))


def mean(value, weight):
    return WeightedSum(jnp.float32(value * weight), jnp.float32(weight))


def figures(step):
    """Of update number `step`, from 1: more tokens each time, so that means by token and by step differ."""
    counts = {
        "target_tokens": 10 * step, "source_tokens": 5 * step, "rewards": 3 * step, "pairs": 2 * step,
        "model_flops": 100.0 * step,
    }  # fmt: skip
    return {
        "loss": mean(1.0 / step, 10 * step),
        "nll": mean(2.0 / step, 10 * step),
        "gradient_norm": per_step(jnp.float32(step)),
        **{name: Count(jnp.asarray(value)) for name, value in counts.items()},
    }


class Training:
    """A loop over updates that are looked up, and what came of it."""

    def __init__(
        self,
        directory,
        *,
        scores=(),
        figures=figures,
        keep_latest=20,
        peak_flops=1e3,
        compiles_at=(1,),
        **settings,
    ):
        self.config = TrainingConfig(keep_latest=keep_latest, **{"select_by": "bleu"} | settings)
        self.checkpoints = Checkpoints(directory, keep_latest=keep_latest)
        self.scores = dict(scores)
        self.figures = figures
        self.records = []
        self.steps_seen = []
        self.announced = []
        self.batches_taken = 0
        self.job = Job()
        self.peak_flops, self.least_peak, self.reason = peak_flops, False, None
        self.compilations, self.compiling_seconds, self.compiles_at = 0, 0.0, compiles_at

    def __call__(self, state, batch):
        """The update, which is compiled at the steps of `compiles_at`."""
        step = int(state.step) + 1
        if step in self.compiles_at:
            time.sleep(COMPILATION)
            self.compilations += 1
            self.compiling_seconds += COMPILATION
        return TrainState(step=jnp.int32(step), players={}, objective={}), self.figures(step)

    def validate(self, state):
        values = self.scores[int(state.step)]
        score = -values["loss"] if self.config.select_by == "loss" else values[self.config.select_by]
        return Validated(records=[values], score=score, loss=values["loss"])

    def batches(self):
        while True:
            self.batches_taken += 1
            yield BATCH

    def run(self, progress=NOTHING_DONE):
        loop = Loop(
            self.config,
            update=self,
            place=lambda batch: batch,
            validate=self.validate if self.scores else None,
            learning_rates=lambda state: {"learning_rate": 0.5 + int(state.step) - 1},
            checkpoints=self.checkpoints,
            compiling=lambda state, batch: self.announced.append((self.batches_taken, self.compilations, batch)),
            record=self.records.append,
            ledger=Ledger(),
            job=self.job,
            peak_flops=lambda reached: self.peak_flops and max(self.peak_flops, self.least_peak and reached),
            failure=lambda: self.reason,
            after_step=lambda step, loss: self.steps_seen.append((step, loss)),
        )
        state = TrainState(step=jnp.int32(progress.step), players={}, objective={})
        try:
            return loop.run(state, progress, self.batches(), plan_position=lambda: [1, 2, 3])
        finally:
            self.checkpoints.__exit__()


def timeless(records):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def test_a_record_has_the_means_since_the_last(tmp_path):
    training = Training(tmp_path, steps=5, log_every=2)
    state, progress = training.run()
    assert int(state.step) == progress.step == 5
    assert [record["step"] for record in training.records] == [2, 4, 5]
    first, second, last = training.records
    # Steps 1 and 2 have 10 and 20 tokens with losses 1 and 1/2; steps 3 and 4 have 30 and 40 with 1/3 and 1/4.
    assert first["loss"] == pytest.approx((10 * 1 + 20 / 2) / 30, rel=1e-6)
    assert second["nll"] == pytest.approx((30 * 2 / 3 + 40 * 2 / 4) / 70, rel=1e-6)
    assert [record["gradient_norm"] for record in training.records] == [1.5, 3.5, 5.0]
    assert [record["target_tokens"] for record in training.records] == [30, 70, 50]
    # Whole numbers are counts, told a second: there are 0.3 rewards a target token.
    for record in training.records:
        assert record["rewards_per_second"] == pytest.approx(0.3 * record["tokens_per_second"])
        assert "rewards" not in record
    # 10 FLOPs, 1.5 tokens of both sides and 0.2 pairs a target token; a peak of 1,000 a second.
    for record in training.records:
        speed = record["tokens_per_second"]
        assert record["model_flops_per_second"] == pytest.approx(10 * speed)
        assert record["mfu"] == pytest.approx(10 * speed / 1e3)
        assert record["source_and_target_tokens_per_second"] == pytest.approx(1.5 * speed)
        assert record["pairs_per_second"] == pytest.approx(0.2 * speed)
        assert 0 <= record["checkpoint_stall_fraction"] < 1
        assert "model_flops" not in record and "pairs" not in record
    # The learning rate of the last update of each: update number n has count n - 1.
    assert [record["learning_rate"] for record in training.records] == [1.5, 3.5, 4.5]
    assert first["padding_fraction"] == pytest.approx(1 - (30 + 15) / (2 * (SOURCE_POSITIONS + TARGET_POSITIONS)))
    assert last["padding_fraction"] == pytest.approx(1 - (50 + 25) / (SOURCE_POSITIONS + TARGET_POSITIONS))
    assert all(
        0 <= record["input_wait_fraction"] <= 1 and record["tokens_per_second"] > 0 for record in training.records
    )
    assert training.steps_seen == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4, 5)]
    assert training.batches_taken == 5


def test_a_player_that_takes_no_turn_logs_nothing_and_no_nan(tmp_path):
    """Its loss is there at even steps alone, each time with twice the weight; at step 5 it has none."""

    def figures_of_two(step):
        weight = 2.0 * step if step % 2 == 0 else 0.0
        other = WeightedSum(jnp.float32(weight * step), jnp.float32(weight))
        return figures(step) | {"critic_loss": other, "loss": other if step > 4 else figures(step)["loss"]}

    training = Training(tmp_path, figures=figures_of_two, steps=5, log_every=4)
    training.run()
    first, last = training.records
    assert first["critic_loss"] == pytest.approx((4 * 2 + 8 * 4) / 12)
    assert "critic_loss" not in last and "loss" not in last
    assert training.steps_seen[-1] == (5, None)
    assert all(math.isfinite(value) for record in training.records for value in record.values() if value != "train")


def test_validations_and_checkpoints_come_when_they_are_due(tmp_path):
    scores = {3: {"loss": 2.0, "bleu": 7.0}, 6: {"loss": 1.0, "bleu": 5.0}, 7: {"loss": 3.0, "bleu": 9.0}}
    training = Training(tmp_path, scores=scores, steps=7, log_every=100, checkpoint_every=2, evaluate_every=3)
    training.run()
    validations = [record for record in training.records if record["kind"] == "validation"]
    assert [(record["step"], record["bleu"], record["best"]) for record in validations] == [
        (3, 7.0, True), (6, 5.0, False), (7, 9.0, True)
    ]  # fmt: skip
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert {step: checkpoints.progress(step).score for step in checkpoints.steps()} == {
            2: None, 3: 7.0, 4: None, 6: 5.0, 7: 9.0
        }  # fmt: skip
        assert checkpoints.best_first()[0] == 7
        assert checkpoints.progress(4).loop.plan_position == [1, 2, 3]


def test_the_lowest_loss_is_the_best(tmp_path):
    scores = {step: {"loss": loss, "bleu": 0.0} for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0))}
    training = Training(tmp_path, scores=scores, steps=3, evaluate_every=1, select_by="loss", keep_latest=1)
    training.run()
    assert [record["best"] for record in training.records if record["kind"] == "validation"] == [True, True, False]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_first() == [2, 3]
        assert checkpoints.progress(2).score == -1.0


def test_patience_stops_and_stays_stopped(tmp_path):
    scores = {step: {"loss": 1.0, "bleu": bleu} for step, bleu in ((2, 1.0), (4, 3.0), (6, 3.0), (8, 2.0), (10, 9.0))}
    settings = {"scores": scores, "steps": 10, "evaluate_every": 2, "patience": 2}
    training = Training(tmp_path, **settings)
    _, progress = training.run()
    # Steps 6 and 8 are no better than step 4 (6 is the newer of two equal ones); the 9.0 of step 10 is never seen.
    assert progress.step == 8
    assert [record["best"] for record in training.records if record["kind"] == "validation"] == [
        True, True, True, False
    ]  # fmt: skip
    again = Training(tmp_path, **settings)
    _, progress = again.run(again.checkpoints.progress(8))
    assert (progress.step, again.batches_taken, again.records) == (8, 0, [])


def test_where_the_metric_says_nothing_the_loss_decides_and_patience_waits_for_it(tmp_path, caplog):
    """BLEU of single words is 0 whatever a model does; the loss falls, and then rises."""
    losses = {2: 6.0, 4: 5.0, 6: 4.5, 8: 4.6, 10: 4.0, 12: 4.2, 14: 4.1, 16: 1.0}
    scores = {step: {"loss": loss, "bleu": 0.0} for step, loss in losses.items()}
    settings = {"scores": scores, "steps": 16, "evaluate_every": 2, "patience": 2, "keep_latest": 2}
    whole = Training(tmp_path / "whole", **settings)
    _, progress = whole.run()
    assert progress.step == 14, "steps 12 and 14 are worse than 10"
    best = [record["step"] for record in whole.records if record["kind"] == "validation" and record["best"]]
    assert best == [2, 4, 6, 10]
    with Checkpoints(tmp_path / "whole", read_only=True) as checkpoints:
        assert checkpoints.best_first() == [10, 14, 12]
    [line] = own_messages(caplog)
    assert line.startswith("The metric bleu was the same at each of 3 validations") and "training.select_by" in line
    # A run that is continued remembers all of it, and reports nothing twice.
    first = Training(tmp_path / "rest", **settings)
    first.job.preempted = lambda step: step == 9
    _, progress = first.run()
    rest = Training(tmp_path / "rest", **settings)
    _, progress = rest.run(progress)
    assert timeless(first.records + rest.records) == timeless(whole.records)
    assert len(own_messages(caplog)) == 2


def test_a_metric_that_moves_is_not_reported(tmp_path, caplog):
    values = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    scores = {step: {"loss": 1.0, "bleu": bleu} for step, bleu in enumerate(values, 1)}
    Training(tmp_path, scores=scores, steps=6, evaluate_every=1).run()
    assert not own_messages(caplog)


def test_a_validation_loss_that_is_no_number_is_never_the_best(tmp_path):
    losses = [math.nan, 3.0, math.nan, 2.0]
    scores = {step: {"loss": loss, "bleu": 0.0} for step, loss in enumerate(losses, 1)}
    training = Training(tmp_path, scores=scores, steps=4, evaluate_every=1, select_by="loss")
    training.run()
    validations = [record["best"] for record in training.records if record["kind"] == "validation"]
    assert validations == [True, True, False, True]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_first()[0] == 4


def test_what_an_older_version_remembers_of_its_best_is_understood(tmp_path):
    scores = {step: {"loss": 1.0, "bleu": bleu} for step, bleu in ((4, 3.0), (6, 2.0))}
    training = Training(tmp_path, scores=scores, steps=8, evaluate_every=2, patience=2)
    loop = {"best": 4.0, "since_best": 0, "seconds": Ledger().read(), "saved_at": 0.0}
    older = Progress.from_json({"step": 2, "score": 4.0, "loop": loop})
    _, progress = training.run(older)
    assert progress.step == 6
    assert not any(record["best"] for record in training.records if record["kind"] == "validation")


def test_a_finished_run_takes_no_batch(tmp_path):
    Training(tmp_path, steps=3).run()
    again = Training(tmp_path, steps=3)
    state, progress = again.run(again.checkpoints.progress(3))
    assert (int(state.step), progress.step, again.batches_taken, again.records) == (3, 3, 0, [])


@pytest.mark.parametrize("stop", [2, 3, 5, 6])
def test_a_continued_run_records_the_same(tmp_path, stop):
    scores = {step: {"loss": 1.0, "bleu": bleu} for step, bleu in ((4, 3.0), (8, 2.0), (9, 3.0))}
    settings = {"scores": scores, "log_every": 5, "evaluate_every": 4, "patience": 9, "steps": 9}
    whole = Training(tmp_path / "whole", checkpoint_every=1, **settings)
    whole.run()
    rest = Training(tmp_path / "rest", checkpoint_every=1, **settings)
    with Checkpoints(tmp_path / "whole", read_only=True) as checkpoints:
        rest.run(checkpoints.progress(stop))
    assert timeless(rest.records) == [record for record in timeless(whole.records) if record["step"] > stop]
    assert len(rest.records) >= 3
    assert rest.batches_taken == 9 - stop


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_preempted_run_is_saved_and_goes_on_as_if_nothing_had_been(tmp_path, stop):
    """It ends after the step, with its validation if it has one (step 4), and remembers what was not recorded yet."""
    scores = {step: {"loss": 1.0, "bleu": bleu} for step, bleu in ((4, 3.0), (8, 2.0), (9, 3.0))}
    settings = {"scores": scores, "log_every": 5, "evaluate_every": 4, "checkpoint_every": 100, "steps": 9}
    whole = Training(tmp_path / "whole", **settings)
    whole.run()
    first = Training(tmp_path / "rest", **settings)
    first.job.preempted = lambda step: step == stop
    _, progress = first.run()
    assert progress.step == stop
    with Checkpoints(tmp_path / "rest", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == stop
    rest = Training(tmp_path / "rest", **settings)
    rest.run(progress)
    assert timeless(first.records + rest.records) == timeless(whole.records)


@pytest.mark.parametrize(("name", "value"), [("loss", math.nan), ("loss", math.inf), ("gradient_norm", math.nan)])
def test_a_loss_that_is_no_number_stops_training(tmp_path, name, value):
    def diverging(step):
        return figures(step) | ({name: per_step(jnp.float32(value))} if step >= 4 else {})

    training = Training(tmp_path, figures=diverging, steps=9, checkpoint_every=2, log_every=1)
    with pytest.raises(NonFiniteLossError, match=f"step 4: {name} = {value}.*last good checkpoint is step 2") as error:
        training.run()
    assert "\n" not in str(error.value)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]
    assert [record["step"] for record in training.records] == [1, 2, 3]


def test_a_mistake_behind_a_figure_that_is_no_number_is_named(tmp_path):
    training = Training(tmp_path, figures=lambda step: figures(step) | {"loss": mean(math.nan, 1.0)}, steps=9)
    training.reason = "the reward is none."
    with pytest.raises(ValueError, match=r"^step 1: the reward is none\.$"):
        training.run()


def test_speed_leaves_compilation_out(tmp_path):
    """Steps 1 and 4 take 50 ms longer, which are compilation: no record counts them, and the ledger does."""
    training = Training(tmp_path, steps=6, log_every=2, compiles_at=(1, 4))
    _, progress = training.run()
    for record in training.records:
        assert 2 / record["steps_per_second"] < record["seconds"]
    first, second, _ = training.records
    spent = progress.loop.seconds
    assert spent["compiling"] == pytest.approx(2 * COMPILATION)
    # What the steps took, added up from the records, is what the ledger has besides.
    took = sum(2 / record["steps_per_second"] for record in training.records)
    assert took <= spent["training"] + spent["input"] + 1e-6
    assert first["seconds"] >= COMPILATION and second["seconds"] >= 2 * COMPILATION


def test_mfu_is_never_more_than_the_whole(tmp_path):
    training = Training(tmp_path, steps=2, log_every=1, peak_flops=1e-9)
    training.least_peak = True
    training.run()
    assert [record["mfu"] for record in training.records] == [1.0, 1.0]


def test_divergence_before_the_first_checkpoint_says_so(tmp_path):
    training = Training(tmp_path, figures=lambda step: figures(step) | {"loss": mean(math.inf, 1.0)}, steps=9)
    with pytest.raises(NonFiniteLossError, match="step 1: loss = inf.*no checkpoint yet"):
        training.run()


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0}, {"target_tokens_per_batch": 0}, {"accumulation": 0}, {"log_every": 0}, {"checkpoint_every": -1},
        {"evaluate_every": 0}, {"keep_latest": 0}, {"seed": -1}, {"num_sample_outputs": -1}, {"patience": 0},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*{next(iter(settings.values()))}"):
        TrainingConfig(**settings)


def test_without_a_known_peak_there_is_no_mfu(tmp_path):
    training = Training(tmp_path, steps=2, peak_flops=None)
    training.run()
    assert "mfu" not in training.records[0] and training.records[0]["model_flops_per_second"] > 0


def test_saving_stalls_the_window_that_it_falls_in(tmp_path):
    """The save of step 2 comes after the record of step 2, in the window of step 4."""
    training = Training(tmp_path, steps=5, log_every=2, checkpoint_every=2)
    training.run()
    first, second, _ = training.records
    assert first["checkpoint_stall_fraction"] == 0.0
    assert second["checkpoint_stall_fraction"] > 0.0


def test_a_second_compilation_for_one_shape_is_warned_of_once(tmp_path, caplog):
    Training(tmp_path / "once", steps=4).run()
    assert not own_messages(caplog)
    training = Training(tmp_path / "again", steps=4, log_every=1, compiles_at=(1, 3, 4))
    training.run()
    assert [record["compilations"] for record in training.records] == [1, 1, 2, 3]
    [warning] = own_messages(caplog)
    assert (
        warning.startswith("Step 3 took")
        and f"source (1, {SOURCE_POSITIONS}), target (1, {TARGET_POSITIONS})" in warning
    )


def test_a_compilation_is_announced_before_it_begins_and_once_per_shape(tmp_path):
    training = Training(tmp_path, steps=4, compiles_at=(1, 3))
    longer = Batch(source=rows(SOURCE_POSITIONS + 10), target=rows(TARGET_POSITIONS))

    def batches():
        for training.batches_taken, batch in enumerate((BATCH, BATCH, longer, BATCH), 1):
            yield batch

    training.batches = batches
    training.run()
    assert [(taken, compiled) for taken, compiled, _ in training.announced] == [(1, 0), (3, 1)]
    assert [batch for *_, batch in training.announced] == [BATCH, longer]
