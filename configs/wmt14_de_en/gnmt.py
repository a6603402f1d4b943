"""WMT 2014 German to English with the LSTM of Wu et al. 2016 (GNMT), from tensorflow-datasets.

8 + 8 layers of 1024, the lowest encoder layer in both directions, residual connections from the third layer on,
additive attention from the first decoder layer's output, whose context all layers above read; dropout 0.2. Wu et al.
trained with Adam, then SGD, on words cut into 32,000 pieces, and published 24.6 BLEU for the other direction on
newstest2014 (one model, maximum likelihood, 6 days on 96 K80 GPUs). Here: AdamW, batches and steps of
wmt14_de_en/transformer_big. Not measured.

    seq2seq train wmt14_de_en/gnmt --data.directory DIR    # prepared as transformer_big says
"""

import dataclasses

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 8, "model_dim": 1024, "hidden_dim": 1024, "residual_from": 3, "dropout": 0.2}
    base = load_config_by_name("wmt14_de_en/transformer_big")
    return dataclasses.replace(
        base,
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(bidirectional_layers=1, **stack),
            decoder=RecurrentDecoderConfig(attention_layer="first", **stack),
            precision="bfloat16",
        ),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=1e-3),
    )
