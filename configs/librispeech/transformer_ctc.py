"""LibriSpeech, 960 hours: Transformer with joint CTC and attention, for a TPU slice or a host with 8 GPUs.

    seq2seq train librispeech/transformer_ctc --data.directory DIR

DIR holds the extracted FLAC files and the manifests train.tsv and validation.tsv (columns file, text, speaker). The
store of 960 hours at 16,000 samples per second is 110.6 GB. A row is 41 seconds, a batch 256 rows, at most 2.9 hours.
12 + 6 layers of width 512, feed-forward 2048. Not trained here.
"""

from seq2seq_jax.data.audio.augmentation import SoundAugmentationConfig, SpeedPerturbation
from seq2seq_jax.data.audio.recordings import Recordings
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
    stack = {"model_dim": 512, "num_heads": 8, "hidden_dim": 2048, "dropout": 0.1}
    return Experiment(
        data=Recordings(
            directory="data/librispeech",
            stride=640,
            max_source_length=1024,
            max_target_length=256,
            max_examples_per_row=16,
            lowercase=True,
            workers=16,
            augmentation=SoundAugmentationConfig(speed=SpeedPerturbation()),
        ),
        tokenizer=TokenizerConfig(kind="unigram", vocabulary_size=5_000, byte_fallback=False, normalization="nfkc"),
        model=ModelConfig(
            front_end=LogMelConfig(rate=16_000, bands=80, spec_augment=SpecAugmentConfig(max_frequency_mask=27)),
            encoder=TransformerEncoderConfig(num_layers=12, remat="save_attention", **stack),
            decoder=TransformerDecoderConfig(num_layers=6, **stack),
            tied_embeddings="decoder",
            ctc=True,
            precision="bfloat16",
        ),
        objective=JointCtcConfig(ctc_weight=0.3, label_smoothing=0.1, loss_chunk=64),
        optimizer=AdamWConfig(learning_rate=1.5e-3, warmup_steps=8_000, ema_decay=0.9995),
        training=TrainingConfig(
            steps=60_000, target_tokens_per_batch=256 * 256, log_every=50, checkpoint_every=1_000, evaluate_every=5_000
        ),
        generation=BeamSearch(beam_size=10, ctc_weight=0.3, maximum_length_ratio=0.25, maximum_length_extra=10),
    )
