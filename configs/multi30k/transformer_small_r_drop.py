"""Multi30k English to German: the small Transformer with R-Drop, within 90 minutes on 2 CPU cores.

A step computes each row twice with other dropout (`objective.r_drop_weight`), so 5,600 steps take about twice the 40
minutes of multi30k/transformer_small. BLEU on test_2016_flickr: not measured yet (studies/little_data.py, job
all_pairs_r_drop/seed=0). Policy gradients go on from it:

    seq2seq train multi30k/transformer_small_r_drop --data.directory DIR
    seq2seq train multi30k/transformer_small_self_critical --data.directory DIR --init-from RUN
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small")
    return dataclasses.replace(base, objective=dataclasses.replace(base.objective, r_drop_weight=3.0))
