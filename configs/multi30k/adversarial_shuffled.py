"""Multi30k English to German: the control of adversarial training with the rewards of other sources' samples.

    seq2seq train multi30k/adversarial_shuffled --data.directory DIR --init-from RUN

Everything is as in multi30k/adversarial, rewards of the same size and spread included, but they say nothing of the
samples. Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/adversarial")
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, reward_control="shuffled"))
