"""Multi30k English to German: LSTM encoder of two directions, LSTM decoder with general attention and input feeding.

Luong et al. 2015; 7.62M parameters. Measured on 2 cores of an AMD EPYC with AVX-512 (jax 0.10.2, Python 3.11), 2,800
steps in 37 min 28 s while other jobs shared the cores (7,300 target tokens/s while none did):

    test_2016_flickr, beam 5    BLEU 36.91   nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
                                chrF 60.74   nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0
    validation, beam 5          BLEU 36.72

    seq2seq train multi30k/recurrent_general --data.directory DIR
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.global_attention import GeneralAttentionConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 1, "model_dim": 256, "dropout": 0.3}
    return dataclasses.replace(
        load_config_by_name("multi30k/recurrent_additive"),
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(hidden_dim=384, **stack),
            decoder=RecurrentDecoderConfig(
                hidden_dim=512, attention=GeneralAttentionConfig(), input_feeding=True, **stack
            ),
            precision="bfloat16_products",
        ),
    )
