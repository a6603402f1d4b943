"""Your own recordings, as frames of features that were made elsewhere, with a Transformer; made for imported Whisper.

    seq2seq import whisper-tiny.en --output runs/whisper --config own_sounds/features
    seq2seq train runs/whisper/config.py --run-dir runs/tuned --data.directory DIR

DIR holds train.tsv, train.features.f32, dev.tsv and dev.features.f32: tables with the columns id, speaker, frames and
text, and all frames behind each other as little-endian float32, 80 features of each. An imported Whisper expects 3,000
frames per recording, 30 seconds padded with silence, of its own log-mel features. The architecture here, that of
Whisper-tiny without a front end of its own, is what is trained without an import. Not measured.
"""

from seq2seq_jax.data.audio.features import SpeechFeatures
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import FeaturesConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 4, "model_dim": 384, "num_heads": 6, "hidden_dim": 1536, "dropout": 0.1}
    return Experiment(
        data=SpeechFeatures(
            directory="data",
            features=80,
            suffix=".features.f32",
            stride=2,
            max_source_length=1_500,
            max_target_length=128,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=None),
        model=ModelConfig(
            front_end=FeaturesConfig(features=80, normalization="none", convolutions=2, strides=(1, 2)),
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            tied_embeddings="decoder",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(learning_rate=1e-3, warmup_steps=2_000, ema_decay=0.999),
        training=TrainingConfig(
            steps=20_000, target_tokens_per_batch=16 * 128, log_every=100, checkpoint_every=1_000, evaluate_every=1_000
        ),
        generation=BeamSearch(beam_size=4, maximum_length_ratio=0.1, maximum_length_extra=32),
    )
