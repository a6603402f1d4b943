"""Subject lines of emails (AESLC) with a Transformer sized for 2 CPU cores: the subject is a summary of the body.

    seq2seq train aeslc/transformer_small --data.directory DIR    # DIR has {train,dev}.jsonl[.gz]

A line of either file is an object with the fields email_body and subject_line.
"""

from seq2seq_jax.data.tables import Table
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
    stack = {
        "num_layers": 3,
        "model_dim": 256,
        "num_heads": 4,
        "hidden_dim": 1024,
        "dropout": 0.3,
        "attention_dropout": 0.1,
    }
    return Experiment(
        data=Table(
            directory="data/aeslc",
            source="email_body",
            target="subject_line",
            validation="dev.jsonl",
            test=None,
            max_source_length=256,
            max_target_length=24,
            too_long="truncate",
        ),
        task=Summarisation(),
        tokenizer=TokenizerConfig(kind="unigram", normalization="nfkc", vocabulary_size=8_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            precision="bfloat16_products",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(
            learning_rate=1e-3, schedule="cosine", warmup_steps=400, final_fraction=0.02, ema_decay=0.998
        ),
        training=TrainingConfig(
            steps=3_600, target_tokens_per_batch=32 * 24, log_every=50, checkpoint_every=900, evaluate_every=900
        ),
        generation=BeamSearch(
            beam_size=5,
            length_penalty=1.0,
            maximum_length_ratio=0.0,
            maximum_length_extra=24,
            source_tokens_per_batch=8_192,
        ),
    )
