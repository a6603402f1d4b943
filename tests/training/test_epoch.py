"""A whole epoch of the real loop: what is compiled, and what its records say of its speed."""

import dataclasses
import math

import numpy as np
import pytest

from seq2seq_jax.data.pipeline import training_batches
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.parallel.processes import Job
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.goodput import Ledger
from seq2seq_jax.training.loop import Loop
from seq2seq_jax.training.progress import Progress

ROWS = 32


def small(cache, *, packing, steps):
    """Dates, few and with a small model."""
    experiment = load_config_by_name("dates/transformer")
    stack = {"num_layers": 1, "model_dim": 16, "num_heads": 2, "hidden_dim": 32}
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data,
            packing=packing,
            train_examples=1_200,
            validation_examples=20,
            test_examples=20,
            cache_directory=str(cache),
        ),
        tokenizer=dataclasses.replace(experiment.tokenizer, vocabulary_size=800),
        model=dataclasses.replace(
            experiment.model,
            encoder=dataclasses.replace(experiment.model.encoder, **stack),
            decoder=dataclasses.replace(experiment.model.decoder, **stack),
            precision="float32",
        ),
        training=dataclasses.replace(
            experiment.training,
            steps=steps,
            target_tokens_per_batch=ROWS * experiment.max_target_length,
            log_every=5,
        ),
    )


def batches_of(run, count):
    experiment = run.experiment
    return training_batches(
        run.data.store("train", run.tokenizer),
        experiment.batch_format,
        vocabulary=run.tokenizer.vocabulary,
        target_tokens_per_batch=experiment.training.target_tokens_per_batch,
        seed=0,
        first_batch=0,
        num_batches=count,
    )


def pairs_of(batch):
    """Lengths of source and target of each pair, one by one."""
    for sources, targets in zip(batch.source.segment_ids, batch.target.segment_ids, strict=True):
        for segment in range(1, targets.max(initial=0) + 1):
            yield int(np.sum(sources == segment)), int(np.sum(targets == segment))


@pytest.mark.long
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "buckets"])
def test_the_update_is_compiled_once_a_shape_and_records_tell_its_flops(tmp_path, packing, caplog):
    run = TrainingRun(tmp_path / "run", small(tmp_path / "cache", steps=1, packing=packing))
    run.begin("small")
    # An epoch, until every example has come once.
    seen, batches = 0, []
    for batch in batches_of(run, 1_000):
        batches.append(batch)
        seen += len(list(pairs_of(batch)))
        if seen >= len(run.data.store("train", run.tokenizer)):
            break
    steps = len(batches)
    shapes = {batch.target.tokens.shape for batch in batches}
    assert len(shapes) == 1 if packing else len(shapes) > 1

    run = TrainingRun(tmp_path / "run2", small(tmp_path / "cache", steps=steps, packing=packing))
    run.begin("small")
    update, records, peak = run.system.build_update(), [], 3e9
    with Checkpoints(tmp_path / "checkpoints", keep_latest=1) as checkpoints:
        _, progress = Loop(
            run.experiment.training,
            update=update,
            place=run.system.place,
            validate=None,
            learning_rates=run.system.learning_rates,
            checkpoints=checkpoints,
            record=records.append,
            ledger=Ledger(),
            job=Job(),
            peak_flops=lambda reached: peak,
        ).run(run.initial_state(), Progress(step=0), iter(batches), plan_position=list)

    assert update.compilations == len(shapes)
    assert records[-1]["compilations"] == len(shapes)
    # Compilation is no training: it has its own account, and no record's speed.
    spent = progress.loop.seconds
    assert spent["compiling"] == pytest.approx(update.compiling_seconds) and update.compiling_seconds > 0.0
    assert not [message for message in caplog.messages if "compile the update again" in message]

    assert [record["step"] for record in records] == [*range(5, steps, 5), steps]
    for record in records:
        first = 5 * math.ceil(record["step"] / 5) - 5
        pairs = [pair for batch in batches[first : record["step"]] for pair in pairs_of(batch)]
        vocabulary = run.tokenizer.vocabulary
        forward = run.experiment.model.forward_flops
        flops = sum(3 * forward(source, target, vocabulary=vocabulary) for source, target in pairs)
        seconds = record["target_tokens"] / record["tokens_per_second"]
        assert record["mfu"] == pytest.approx(flops / seconds / peak, rel=1e-5)
        assert record["model_flops_per_second"] == pytest.approx(flops / seconds, rel=1e-5)
        assert record["pairs_per_second"] == pytest.approx(len(pairs) / seconds)
        both = sum(source + target for source, target in pairs)
        assert record["source_and_target_tokens_per_second"] == pytest.approx(both / seconds)
