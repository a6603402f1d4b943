"""TED talks, Portuguese to English, from tensorflow-datasets, with the model of own_text/transformer made smaller.

    seq2seq train ted_hrlr_translate/transformer
    seq2seq train ted_hrlr_translate/transformer --data.name ted_hrlr_translate/ru_to_en --data.source ru

Any dataset of the catalogue with two text fields will do: name it, and its fields. About 52,000 training pairs. Not
measured here: the machine it was written on could not download the data.
"""

import dataclasses

from seq2seq_jax.data.catalogue import Catalogue
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 4, "model_dim": 256, "num_heads": 4, "hidden_dim": 1024, "dropout": 0.3}
    return dataclasses.replace(
        load_config_by_name("own_text/transformer"),
        data=Catalogue(name="ted_hrlr_translate/pt_to_en", source="pt", target="en"),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=8_000),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
    )
