"""Multi30k in four directions in one model: English to German and French, and both back.

A tag before the source says into which language: "<2fr> A man rides a horse." A direction that was never trained, such
as German to French, is requested likewise (zero shot). Validation is by direction: English to German is the run's own,
the others are the sets en_fr, de_en and fr_en. Johnson et al. 2017. Measured against four models of one direction each
by studies/little_data.py: not measured yet.

    seq2seq train multi30k/multilingual
"""

import dataclasses

from seq2seq_jax.data.mixture import Mixture, Part
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.experiment import Experiment, load_config_by_name

DIRECTIONS = (("en", "de"), ("en", "fr"), ("de", "en"), ("fr", "en"))


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small")
    parts = tuple(
        Part(
            name=f"{source}_{target}",
            source=ParallelText(directory="data/multi30k", source=source, target=target, test="test_2016_flickr"),
            tag=f"<2{target}>",
        )
        for source, target in DIRECTIONS
    )
    return dataclasses.replace(
        base,
        data=Mixture(parts=parts, max_source_length=64, max_target_length=66),
        tokenizer=dataclasses.replace(base.tokenizer, vocabulary_size=12_000),
    )
