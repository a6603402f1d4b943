"""Multi30k English to German with a convolutional encoder and decoder (Gehring et al. 2017).
"""

import dataclasses

from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.experiment import Experiment, named
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    base = named("multi30k/transformer_small")
    stack = {"num_layers": 6, "model_dim": 256, "hidden_dim": 256, "max_positions": 96, "dropout": 0.3}
    return dataclasses.replace(
        base,
        model=ModelConfig(
            encoder=ConvolutionalEncoderConfig(**stack),
            decoder=ConvolutionalDecoderConfig(**stack),
            precision="bfloat16_products",
        ),
        optimizer=dataclasses.replace(base.optimizer, warmup_steps=400),
        training=dataclasses.replace(base.training, steps=2_800, checkpoint_every=700, evaluate_every=700),
    )
