"""C4 with the 11B model of Raffel et al. 2020 (T5 1.0): t5_large with a feed-forward of 65,536 and 128 heads of 128.

11.3 billion parameters. All else is c4_span_corruption/t5_large, whose docstring says where it stands.

    seq2seq compile c4_span_corruption/t5_11b --topology v5p:8x8x16 --mesh.data 1 --mesh.fsdp 256 --mesh.tensor 4
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, named


def experiment() -> Experiment:
    """The experiment."""
    base = named("c4_span_corruption/t5_large")
    sizes = {"hidden_dim": 65_536, "num_heads": 128, "head_dim": 128}
    model = dataclasses.replace(
        base.model,
        encoder=dataclasses.replace(base.model.encoder, **sizes),
        decoder=dataclasses.replace(base.model.decoder, **sizes),
    )
    return dataclasses.replace(base, model=model)
