"""WMT 2014 German to English, Transformer-big on 64 chips: the batch of Ott et al. 2018, 24 rows of 256 tokens per
chip.

Ott et al. trained with batches of about 400,000 tokens on 128 V100 GPUs, twice the usual learning rate, and published
29.3 tokenised BLEU for the other direction on newstest2014 after 85 minutes. Here: 393,216 target positions per batch,
peak learning rate 0.001 after 4,000 steps, and 20,000 steps, in which as many tokens pass as in the 300,000 steps of
Vaswani et al. 2017; the last 10 checkpoints averaged (`seq2seq average RUN --last 10`). Not measured.

    seq2seq train wmt14_de_en/transformer_big_64_chips --data.directory DIR    # prepared as transformer_big says
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("wmt14_de_en/transformer_big")
    return dataclasses.replace(
        base,
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-3),
        training=dataclasses.replace(
            base.training,
            steps=20_000,
            target_tokens_per_batch=64 * 24 * 256,
            log_every=50,
            checkpoint_every=500,
            evaluate_every=1_000,
            keep_latest=10,
        ),
    )
