"""Multi30k English to German: a mixture of three experts that share the small Transformer, trained on from it.

    seq2seq train multi30k/mixture_of_experts --data.directory DIR --init-from RUN    # of multi30k/transformer_small
    seq2seq generate RUN2 --input sources.txt --n 3

Measured at step 700 of 1,000, from a run with 39.56 BLEU (beam 5), float32, on 2 shared CPU cores:

    test_2016_flickr, greedy    BLEU 38.65 of expert 0, 38.04 of the three texts, 43.00 of the best of them
                                nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
                                pairwise BLEU 74.42
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.generation.methods.mixture_of_experts import MixtureOfExperts
from seq2seq_jax.objectives.mixture_of_experts import MixtureOfExpertsConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small")
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, num_experts=3),
        objective=MixtureOfExpertsConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(
            learning_rate=1e-3, schedule="cosine", warmup_steps=50, final_fraction=0.02, ema_decay=0.998
        ),
        training=dataclasses.replace(
            base.training, steps=1_000, log_every=25, checkpoint_every=100, evaluate_every=250
        ),
        generation=MixtureOfExperts(experts=3, maximum_length_ratio=1.2, source_tokens_per_batch=2_048),
    )
