"""Strings of spoken digits (Free Spoken Digit Dataset): Transformer with joint CTC and attention, for 2 CPU cores.

    seq2seq train spoken_digits/transformer_ctc --data.directory DIR    # DIR has recordings.tar and recordings.tsv

Real voices, made sequences: strings of 3 to 7 words of one speaker, with faint noise between them, at 8,000 samples per
second. A string to train on is a function of (seed, index). A position is 40 ms.

1.78M parameters. Word error rate of the 500 strings of strings_dev.tsv (known speakers) after 1,800 steps in float32:
1.15% by attention alone with beam 5, 0.37% with CTC in the score (0.3), 0.90% by the most probable path of CTC, 0.57%
by its search over prefixes; a step takes 0.51 s of CPU time (AMD EPYC).
"""

from seq2seq_jax.data.audio.digit_strings import DigitStrings
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import LogMelConfig, SpecAugmentConfig
from seq2seq_jax.objectives.joint_ctc import JointCtcConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"model_dim": 144, "num_heads": 4, "hidden_dim": 576, "dropout": 0.1}
    return Experiment(
        data=DigitStrings(directory="data/speech/digits", stride=320, max_source_length=256, max_target_length=24),
        tokenizer=TokenizerConfig(kind="words", vocabulary_size=100, byte_fallback=False, normalization="nfkc"),
        model=ModelConfig(
            front_end=LogMelConfig(
                rate=8_000, bands=40, spec_augment=SpecAugmentConfig(max_time_mask=20, max_frequency_mask=8)
            ),
            encoder=TransformerEncoderConfig(num_layers=4, **stack),
            decoder=TransformerDecoderConfig(num_layers=2, **stack),
            tied_embeddings="decoder",
            ctc=True,
            precision="bfloat16_products",
        ),
        objective=JointCtcConfig(ctc_weight=0.3, label_smoothing=0.1),
        optimizer=AdamWConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=150, ema_decay=0.99),
        training=TrainingConfig(
            steps=1_800, target_tokens_per_batch=16 * 24, log_every=50, checkpoint_every=450, evaluate_every=900
        ),
        generation=BeamSearch(beam_size=5, ctc_weight=0.4, maximum_length_ratio=0.25, maximum_length_extra=3),
    )
