"""Multi30k English to German: the small Transformer, trained on for sentence BLEU by minimum risk.

    seq2seq train multi30k/transformer_small_minimum_risk --data.directory DIR --init-from RUN

From a run with 38.71 BLEU by greedy search and 39.67 with beam 5 on test_2016_flickr, in 41 min on one of 2 cores of an
AMD EPYC:

    test_2016_flickr, greedy    BLEU 38.88   nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
    test_2016_flickr, beam 5    BLEU 40.04   the same signature
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.estimators import MinimumRisk


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small_self_critical")
    objective = dataclasses.replace(base.objective, estimator=MinimumRisk(sharpness=0.5))
    return dataclasses.replace(base, objective=objective)
