"""Multi30k English to German with a convolutional encoder and decoder (Gehring et al. 2017).

7.88M parameters. Measured on 2 cores of an AMD EPYC with AVX-512 (jax 0.10.2, Python 3.11), 2,800 steps in 50 min 55 s
while other jobs shared the cores or had it paused (8,400 target tokens/s in a benchmark of its own, about 11 minutes):

    test_2016_flickr, beam 5    BLEU 38.57   nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
                                chrF 63.19   nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0
    validation, beam 5          BLEU 38.81

    seq2seq train multi30k/convolutional --data.directory DIR
"""

import dataclasses

from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 6, "model_dim": 256, "hidden_dim": 256, "max_positions": 96, "dropout": 0.3}
    return dataclasses.replace(
        load_config_by_name("multi30k/recurrent_additive"),
        model=ModelConfig(
            encoder=ConvolutionalEncoderConfig(**stack),
            decoder=ConvolutionalDecoderConfig(**stack),
            precision="bfloat16_products",
        ),
    )
