"""Multi30k English to German: Transformer encoder, LSTM decoder with additive attention (Chen et al. 2018)."""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/recurrent_additive")
    encoder = load_config_by_name("multi30k/transformer_small").model.encoder
    return dataclasses.replace(base, model=dataclasses.replace(base.model, encoder=encoder))
