"""Summaries of any dataset of the tensorflow-datasets catalogue, with a Transformer that copies from the source.

    seq2seq train summarisation/transformer                                                            # cnn_dailymail
    seq2seq train summarisation/transformer --data.name xsum --data.source document --data.target summary
    seq2seq train summarisation/transformer --data.name samsum --data.source dialogue --data.target summary
    seq2seq train summarisation/transformer --data.name aeslc --data.source email_body --data.target subject_line

Not measured. Sources are truncated to 512 tokens and summaries to 128: --data.max-source-length,
--data.max-target-length.
"""

from seq2seq_jax.data.catalogue import Catalogue
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.tasks.summarisation import Summarisation
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 6, "model_dim": 512, "num_heads": 8, "hidden_dim": 2048, "dropout": 0.1}
    return Experiment(
        data=Catalogue(
            name="cnn_dailymail",
            source="article",
            target="highlights",
            max_source_length=512,
            max_target_length=128,
            too_long="truncate",
        ),
        task=Summarisation(),
        tokenizer=TokenizerConfig(kind="unigram", normalization="nfkc", vocabulary_size=32_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack), copying=True
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1, loss_chunk=32),
        optimizer=AdamWConfig(learning_rate=1e-3, warmup_steps=4_000),
        training=TrainingConfig(steps=100_000, target_tokens_per_batch=64 * 128, evaluate_every=5_000),
        generation=BeamSearch(beam_size=4, length_penalty=1.0, maximum_length_ratio=0.0, maximum_length_extra=128),
    )
