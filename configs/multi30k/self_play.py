"""Multi30k English to German: self-play (SPIN), references against samples of the generator of 100 steps before.

    seq2seq train multi30k/self_play --data.directory DIR --init-from RUN

Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.preference import PreferenceConfig
from seq2seq_jax.rewards.reward import RewardConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small_self_critical")
    return dataclasses.replace(
        base,
        objective=PreferenceConfig(
            pairs="self_play",
            reward=RewardConfig(bleu=1.0),
            beta=0.1,
            reference_steps=100,
            samples_per_source=1,
            maximum_length_ratio=1.2,
            maximum_length_extra=5,
            label_smoothing=0.1,
        ),
    )
