"""Multi30k English to German: preference optimisation (DPO) between the best and the worst of 5 samples by BLEU.

    seq2seq train multi30k/preference --data.directory DIR --init-from RUN

The samples are drawn anew in every step, and the likelihood of the better one counts too. CPO, which needs no
reference model: --objective.loss cpo. Not measured yet.
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
            reward=RewardConfig(bleu=1.0),
            margin=0.02,
            beta=0.1,
            likelihood_weight=0.05,
            samples_per_source=5,
            maximum_length_ratio=1.2,
            maximum_length_extra=5,
            label_smoothing=0.1,
        ),
    )
