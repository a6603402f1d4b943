"""Multi30k English to German: the control of all that trains on, about as many minutes of maximum likelihood.

    seq2seq train multi30k/transformer_small_more_likelihood --data.directory DIR --init-from RUN

From a run of multi30k/transformer_small, with the learning rate, the schedule and the moving average of
multi30k/adversarial and its controls. Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small")
    return dataclasses.replace(
        base,
        optimizer=dataclasses.replace(
            base.optimizer, learning_rate=2e-4, warmup_steps=20, final_fraction=0.0, ema_decay=0.99
        ),
        training=dataclasses.replace(base.training, steps=5_000, evaluate_every=1_250, checkpoint_every=1_250),
        init_from="runs/multi30k/transformer_small/default/seed=0",
    )
