"""Multi30k English to German: the small Transformer, trained on for sentence BLEU by minimum risk.

    seq2seq train multi30k/transformer_small_minimum_risk --data.directory DIR --init-from RUN

Its score is not measured yet: configs/README.md says where this stands.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, named
from seq2seq_jax.objectives.estimators import MinimumRisk


def experiment() -> Experiment:
    """The experiment."""
    base = named("multi30k/transformer_small_self_critical")
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, estimator=MinimumRisk()))
