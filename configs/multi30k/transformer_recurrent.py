"""Multi30k English to German: Transformer encoder, LSTM decoder with additive attention (Chen et al. 2018)."""

import dataclasses

from seq2seq_jax.experiment import Experiment, named


def experiment() -> Experiment:
    """The experiment."""
    base = named("multi30k/recurrent_additive")
    encoder = named("multi30k/transformer_small").model.encoder
    return dataclasses.replace(base, model=dataclasses.replace(base.model, encoder=encoder))
