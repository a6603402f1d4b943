"""Date normalisation with the attention that began it: additive, between LSTMs (Bahdanau et al. 2015).

Measured on 2 cores of an AMD EPYC with AVX-512 (jax 0.10.2, Python 3.11): 99.20% exact match on the 2,000 test pairs
after 1,400 steps, 4 min 33 s while other jobs shared the cores.
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 1, "model_dim": 128, "dropout": 0.0}
    return dataclasses.replace(
        load_config_by_name("dates/transformer"),
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(hidden_dim=128, **stack),
            decoder=RecurrentDecoderConfig(
                hidden_dim=256, attention=AdditiveAttentionConfig(attention_dim=128), **stack
            ),
            precision="bfloat16_products",
        ),
    )
