"""The synthetic task of SeqGAN, by cooperative training (CoT): a mediator learns the mean of references and samples.

    seq2seq train synthetic/cooperative --data.oracle oracle.npz --metrics oracle,path=oracle.npz

It starts from nothing, and needs no reward. Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.cooperative import CooperativeConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("synthetic/maximum_likelihood")
    return dataclasses.replace(
        base,
        objective=CooperativeConfig(minimum_length=20, maximum_length_ratio=0.0, maximum_length_extra=21),
    )
