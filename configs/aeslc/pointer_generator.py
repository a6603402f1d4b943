"""Subject lines of emails (AESLC): aeslc/transformer_small with copying from the body (pointer-generator).

    seq2seq train aeslc/pointer_generator --data.directory DIR    # DIR has {train,dev}.jsonl[.gz]

With the coverage loss, against repetition: --objective.coverage-weight 1.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("aeslc/transformer_small")
    return dataclasses.replace(base, model=dataclasses.replace(base.model, copying=True, copying_in_order=True))
