"""C4 with the 3B model of Raffel et al. 2020 (T5 1.0): t5_large with a feed-forward of 16,384 and 32 heads of 128.

2.8 billion parameters. All else is c4_span_corruption/t5_large, whose docstring says where it stands.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, named


def experiment() -> Experiment:
    """The experiment."""
    base = named("c4_span_corruption/t5_large")
    sizes = {"hidden_dim": 16_384, "num_heads": 32, "head_dim": 128}
    model = dataclasses.replace(
        base.model,
        encoder=dataclasses.replace(base.model.encoder, **sizes),
        decoder=dataclasses.replace(base.model.decoder, **sizes),
    )
    return dataclasses.replace(base, model=model)
