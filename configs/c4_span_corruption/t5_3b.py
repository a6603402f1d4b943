"""T5-3B pre-trained on C4 by span corruption: t5_large with feed-forward 16,384 and 32 heads of 128, 2.9 billion
parameters.

Parameters and Adafactor's state are divided over all chips (mesh.fsdp), as rows are; to divide heads and hidden dims
too: --mesh.tensor N. Data, batches, steps and what to expect are those of c4_span_corruption/t5_large. Not measured;
docs/results/tpu_estimates.md has the cost of a step on TPUs, as compiled.

    seq2seq compile c4_span_corruption/t5_3b --topology v5p:4x4x4
    seq2seq train c4_span_corruption/t5_3b --data.directory DIR
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("c4_span_corruption/t5_large")
    size = {"num_heads": 32, "head_dim": 128, "hidden_dim": 16384}
    model = dataclasses.replace(
        base.model,
        encoder=dataclasses.replace(base.model.encoder, **size),
        decoder=dataclasses.replace(base.model.decoder, **size),
    )
    return dataclasses.replace(base, model=model)
