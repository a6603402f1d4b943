"""Your own parallel text files with the architecture of mT5-XXL, for a TPU slice or a GPU host.

own_text/flan_t5_xl with width 4096, 64 heads, feed-forward 10,240 and 250,112 ids: 12.9 billion parameters (Xue et al.
2021). Settings, import and LoRA are as there. Not measured; docs/results/transfer.md has the commands that say what a
step needs as compiled:

    seq2seq compile own_text/mt5_xxl --topology v5p:4x4x4
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("own_text/flan_t5_xl")
    size = {"model_dim": 4096, "num_heads": 64, "hidden_dim": 10_240}
    model = dataclasses.replace(
        base.model,
        encoder=dataclasses.replace(base.model.encoder, **size),
        decoder=dataclasses.replace(base.model.decoder, **size),
    )
    return dataclasses.replace(
        base, model=model, tokenizer=dataclasses.replace(base.tokenizer, vocabulary_size=250_112)
    )
