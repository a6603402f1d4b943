"""Multi30k English to German: LSTM encoder of two directions, LSTM decoder with general attention and input feeding.

Luong et al. 2015.
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, named
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    base = named("multi30k/transformer_small")
    stack = {"num_layers": 1, "model_dim": 256, "dropout": 0.3}
    return dataclasses.replace(
        base,
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(hidden_dim=384, **stack),
            decoder=RecurrentDecoderConfig(hidden_dim=512, attention="general", input_feeding=True, **stack),
            precision="bfloat16_products",
        ),
        optimizer=dataclasses.replace(base.optimizer, warmup_steps=400),
        training=dataclasses.replace(base.training, steps=2_800, checkpoint_every=700, evaluate_every=700),
    )
