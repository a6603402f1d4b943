"""Multi30k English to German: the small Transformer, trained on for sentence BLEU with leave-one-out baselines.

    seq2seq train multi30k/transformer_small_leave_one_out --data.directory DIR --init-from RUN

From a run with 38.71 BLEU by greedy search and 39.67 with beam 5 on test_2016_flickr, in 40 min on one of 2 cores of an
AMD EPYC; and the mean of the last parameters of two runs, of seeds 1 and 2, in 42 min on both cores:

                                one run, the mean of two
    test_2016_flickr, greedy    BLEU 39.64, 39.97   nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
    test_2016_flickr, beam 5    BLEU 40.21, 40.94   the same signature
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.estimators import LeaveOneOut


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small_self_critical")
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, estimator=LeaveOneOut()))
