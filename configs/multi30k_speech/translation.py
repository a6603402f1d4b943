"""Multi30k from speech: English sentences that a program reads aloud to German text, for 2 CPU cores.

    python -m studies.synthetic_speech --text DIR/train.en --target DIR/train.de --output SPEECH/train
    python -m studies.synthetic_speech --text DIR/val.en --target DIR/val.de --output SPEECH/validation
    seq2seq train multi30k_speech/translation --data.directory SPEECH

Synthetic speech (espeak-ng, many voices): whatever is measured on it is no measurement of human speech. Any source can
have any target: this is spoken_digits/transformer_ctc with other data and German text. Not measured yet.
"""

import dataclasses

from seq2seq_jax.data.audio.recordings import Recordings
from seq2seq_jax.evaluation.metrics import DEFAULT_METRICS
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.generation.methods.beam_search import BeamSearch


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("spoken_digits/transformer_ctc")
    front_end = dataclasses.replace(base.model.front_end, rate=16_000, bands=80)
    return dataclasses.replace(
        base,
        data=Recordings(
            directory="data/multi30k_speech",
            stride=640,
            max_source_length=256,
            max_target_length=64,
            other_rates="resample",
        ),
        tokenizer=dataclasses.replace(base.tokenizer, kind="bpe", vocabulary_size=2_000),
        model=dataclasses.replace(base.model, front_end=front_end),
        training=dataclasses.replace(
            base.training, steps=4_000, target_tokens_per_batch=16 * 64, checkpoint_every=1_000, evaluate_every=1_000
        ),
        # German words come in another order than English ones, which CTC cannot follow: it only helps in training.
        generation=BeamSearch(beam_size=5, maximum_length_ratio=0.5, maximum_length_extra=5),
        metrics=DEFAULT_METRICS,
    )
