"""Multi30k English to German: Transformer encoder, LSTM decoder with additive attention (Chen et al. 2018).
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.experiment import Experiment, named
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    base = named("multi30k/transformer_small")
    return dataclasses.replace(
        base,
        model=ModelConfig(
            encoder=base.model.encoder,
            decoder=named("multi30k/recurrent_additive").model.decoder,
            precision="bfloat16_products",
        ),
        optimizer=dataclasses.replace(base.optimizer, warmup_steps=400),
        training=dataclasses.replace(base.training, steps=2_800, checkpoint_every=700, evaluate_every=700),
    )
