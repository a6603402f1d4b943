"""Your own table, TSV with a header or JSON lines, with the model of own_text/transformer.

    seq2seq train own_table/transformer --data.directory DIR --data.source question --data.target answer

DIR holds train.jsonl, validation.jsonl and test.jsonl (or .tsv, each also .gz); other names: --data.train pairs.tsv.
"""

import dataclasses

from seq2seq_jax.data.tables import Table
from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    return dataclasses.replace(
        load_config_by_name("own_text/transformer"), data=Table(directory="data", source="source", target="target")
    )
