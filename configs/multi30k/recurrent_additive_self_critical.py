"""Multi30k English to German: the LSTM with additive attention, trained on for sentence BLEU by self-critical policy
gradients.

    seq2seq train multi30k/recurrent_additive_self_critical --data.directory DIR --init-from RUN

Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base, model = (
        load_config_by_name("multi30k/transformer_small_self_critical"),
        load_config_by_name("multi30k/recurrent_additive").model,
    )
    return dataclasses.replace(
        base,
        model=dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, dropout=0.0)),
        init_from="runs/multi30k/recurrent_additive/default/seed=0",
    )
