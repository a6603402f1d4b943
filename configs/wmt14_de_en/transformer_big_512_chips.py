"""WMT 2014 German to English, Transformer-big on 512 chips: 4 rows of 256 tokens per chip.

A batch of 524,288 target positions, a third more than the largest of Ott et al. 2018, so that each chip has some
thousand tokens per side; learning rate and warm-up are those of transformer_big_64_chips, and 15,000 steps as many
tokens. No recipe for batches of this size is published that this config could follow, and a step so short is mostly the
sum of gradients over chips: what 512 chips gain over 64 is to be measured before they are used. Not measured.

    seq2seq train wmt14_de_en/transformer_big_512_chips --data.directory DIR    # prepared as transformer_big says
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("wmt14_de_en/transformer_big_64_chips")
    return dataclasses.replace(
        base, training=dataclasses.replace(base.training, steps=15_000, target_tokens_per_batch=512 * 4 * 256)
    )
