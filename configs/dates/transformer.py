"""Date normalisation: dates as people write them in 57 locales, to ISO 8601. Needs no download.

Measured on 2 cores of an Intel Xeon with AMX (jax 0.10.2, Python 3.11): 99.35% exact match on the 2,000 test pairs
after 1,400 steps in 2 min 58 s, 8,611 target tokens/s while training (launch/local.sh: 3 min 24 s after installation).
"""

from seq2seq_jax.data.dates import Dates
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
    stack = {"num_layers": 2, "model_dim": 128, "num_heads": 4, "hidden_dim": 512, "dropout": 0.0}
    return Experiment(
        data=Dates(max_source_length=96, max_target_length=36),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=2_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            precision="bfloat16_products",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0),
        optimizer=AdamWConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=200),
        training=TrainingConfig(
            steps=1_400,
            target_tokens_per_batch=32 * 36,
            log_every=50,
            checkpoint_every=700,
            evaluate_every=700,
            select_by="exact_match",
        ),
        generation=BeamSearch(beam_size=1),
    )
