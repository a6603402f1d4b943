"""Your own parallel text files with a base Transformer.

    seq2seq train own_text/transformer --data.directory DIR --data.source en --data.target de

DIR holds train.en, train.de, val.en, val.de, test.en, test.de (plain or .gz, one sentence per line). Other file stems,
or none: --data.train news --data.validation None --data.test None. What to expect depends on the text: this is the base
model of Vaswani et al. 2017 (about 60M parameters with 32,000 tokens), a fair start from some 100,000 pairs on; with
less text, lower model_dim and hidden_dim, raise dropout, and look at configs/multi30k/transformer_small.py. Text is
kept as it is; --tokenizer.normalization nfkc makes one of full-width and plain forms, which is easier to learn where
the difference does not matter. The size of the vocabulary follows the amount of text (training says what it chose);
--tokenizer.vocabulary_size 16000 sets it.
"""

from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 6, "model_dim": 512, "num_heads": 8, "hidden_dim": 2048, "dropout": 0.1}
    return Experiment(
        data=ParallelText(directory="data", source="source", target="target"),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=None, character_coverage=0.9999),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(learning_rate=1e-3, warmup_steps=4_000, ema_decay=0.999),
        training=TrainingConfig(
            steps=50_000,
            target_tokens_per_batch=64 * 128,
            log_every=100,
            checkpoint_every=1_000,
            evaluate_every=1_000,
            patience=10,
        ),
        generation=BeamSearch(beam_size=4),
    )
