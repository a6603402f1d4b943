"""The synthetic task of SeqGAN by professor forcing: an LSTM whose states are alike on references and on its own texts.

    seq2seq train synthetic/professor_forcing --data.oracle oracle.npz --metrics oracle,path=oracle.npz

It starts from nothing: the likelihood of references is a part of its loss. Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.professor_forcing import ProfessorForcingConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("synthetic/maximum_likelihood")
    return dataclasses.replace(
        base,
        objective=ProfessorForcingConfig(minimum_length=20, maximum_length_ratio=0.0, maximum_length_extra=21),
    )
