"""Multi30k English to German through one vector: LSTM encoder of two directions, LSTM decoder without attention.

Sutskever et al. 2014, with an encoder that reads in both directions instead of a reversed source. 7.68M parameters.
Measured on 2 cores of an AMD EPYC with AVX-512 (jax 0.10.2, Python 3.11), 2,800 steps in 25 min 31 s while
other jobs shared the cores (7,400 target tokens/s at best):

    test_2016_flickr, beam 5    BLEU 22.98   nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
                                chrF 46.37   nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0
    validation, beam 5          BLEU 22.61

    seq2seq train multi30k/recurrent_fixed_vector --data.directory DIR
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 1, "model_dim": 256, "dropout": 0.3}
    return dataclasses.replace(
        load_config_by_name("multi30k/recurrent_additive"),
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(hidden_dim=448, **stack),
            decoder=RecurrentDecoderConfig(hidden_dim=576, attention=None, **stack),
            precision="bfloat16_products",
        ),
    )
