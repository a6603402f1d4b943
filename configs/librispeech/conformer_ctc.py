"""LibriSpeech, 960 hours: Conformer with joint CTC and attention, for a TPU slice or a host with 8 GPUs.

    seq2seq train librispeech/conformer_ctc --data.directory DIR    # prepared as transformer_ctc says

The encoder's 12 layers are Conformer blocks (Gulati et al. 2020) with a convolution over 31 positions and rotary
positions instead of the paper's relative ones. Not trained here.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("librispeech/transformer_ctc")
    encoder = dataclasses.replace(base.model.encoder, convolution_kernel=31, positions="rotary", activation="silu")
    return dataclasses.replace(base, model=dataclasses.replace(base.model, encoder=encoder))
