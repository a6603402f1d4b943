"""Multi30k English to German, with German sentences that were translated back into English by another run.

The synthetic pairs are made by a run that translates German to English, and each stands behind the tag <bt>:

    seq2seq train multi30k/transformer_small --data.source de --data.target en --run-dir runs/de_en
    seq2seq translate-corpus runs/de_en --input mono.de --output data/back_translated
    seq2seq train multi30k/back_translation

--data.parts.1.tag None leaves the tag out; --data.parts.0.weights 4 repeats the real pairs four times per epoch. What
it gains with 5,000 real pairs and 24,000 German sentences is measured by studies/little_data.py: not measured yet.
"""

import dataclasses

from seq2seq_jax.data.mixture import Mixture, Part
from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small")
    real = ParallelText(directory="data/multi30k", source="en", target="de", test="test_2016_flickr")
    back_translated = Table(
        directory="data/back_translated",
        source="output",
        target="source",
        train="corpus.jsonl.gz",
        validation=None,
        test=None,
    )
    return dataclasses.replace(
        base,
        data=Mixture(
            parts=(
                Part(name="real", source=real),
                Part(name="back_translated", source=back_translated, tag="<bt>"),
            ),
            max_source_length=64,
            max_target_length=66,
        ),
    )
