"""Multi30k English to German: the small Transformer, trained on for sentence BLEU with leave-one-out baselines.

    seq2seq train multi30k/transformer_small_leave_one_out --data.directory DIR --init-from RUN

Its score is not measured to the end: configs/README.md says where this stands.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, named
from seq2seq_jax.objectives.estimators import LeaveOneOut


def experiment() -> Experiment:
    """The experiment."""
    base = named("multi30k/transformer_small_self_critical")
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, estimator=LeaveOneOut()))
