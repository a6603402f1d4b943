"""The synthetic task of SeqGAN with soft tokens and a relativistic discriminator (RelGAN, with an LSTM as generator).

    seq2seq train synthetic/relgan --data.oracle oracle.npz --metrics oracle,path=oracle.npz --init-from RUN

RUN is one of synthetic/maximum_likelihood. Not measured yet.
"""

import dataclasses

from seq2seq_jax.discriminators.two_towers import PooledConvolutionConfig, TwoTowersConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.relaxed import RelaxedConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("synthetic/maximum_likelihood")
    return dataclasses.replace(
        base,
        objective=RelaxedConfig(
            temperature_steps=2_000,
            discriminator=TwoTowersConfig(
                source=PooledConvolutionConfig(model_dim=4, widths=(1,), filters=(4,), highway=False, dropout=0.0),
                target=PooledConvolutionConfig(model_dim=64, widths=(2, 3, 4, 5), filters=(75, 75, 75, 75)),
                hidden_dim=100,
            ),
        ),
        optimizer=AdamWConfig(learning_rate=1e-4, schedule="constant", warmup_steps=20, clip_norm=5.0),
        training=dataclasses.replace(
            base.training, steps=2_000, log_every=50, checkpoint_every=250, evaluate_every=250
        ),
        init_from="runs/synthetic/maximum_likelihood/default/seed=0",
    )
