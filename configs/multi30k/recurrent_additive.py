"""Multi30k English to German: LSTM encoder of two directions, LSTM decoder with additive attention.

Bahdanau et al. 2015, with LSTM cells; 7.58M parameters. Measured on 2 cores of an AMD EPYC with AVX-512 (jax 0.10.2,
Python 3.11), 2,800 steps in 17 min 41 s while other jobs shared the cores (8,800 target tokens/s while none did):

    test_2016_flickr, beam 5    BLEU 37.43   nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
                                chrF 62.62   nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0
    validation, beam 5          BLEU 39.50

    seq2seq train multi30k/recurrent_additive --data.directory DIR
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small")
    stack = {"num_layers": 1, "model_dim": 256, "dropout": 0.3}
    return dataclasses.replace(
        base,
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(hidden_dim=384, **stack),
            decoder=RecurrentDecoderConfig(
                hidden_dim=576, attention=AdditiveAttentionConfig(attention_dim=256), deep_output=True, **stack
            ),
            precision="bfloat16_products",
        ),
        optimizer=dataclasses.replace(base.optimizer, warmup_steps=400),
        training=dataclasses.replace(base.training, steps=2_800, checkpoint_every=700, evaluate_every=700),
    )
