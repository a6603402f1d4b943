"""A config whose objective, encoder, data, task, optimizer and generation are from another package than seq2seq_jax."""

from tandem.data import Twice
from tandem.encoder import ScaledEncoderConfig
from tandem.method import Shortest
from tandem.objective import HideLengthConfig
from tandem.optimizer import LionConfig
from tandem.task import Gaps

from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.training.config import TrainingConfig


def experiment():
    """Twelve steps, the first six of which are the critic's alone."""
    stack = {"num_layers": 1, "model_dim": 16, "num_heads": 2, "hidden_dim": 32, "dropout": 0.1}
    return Experiment(
        data=Twice(cache_directory="cache", max_source_length=8, max_target_length=16, packing=False),
        task=Gaps(),
        tokenizer=TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False),
        model=ModelConfig(encoder=ScaledEncoderConfig(scale=0.5, **stack), decoder=TransformerDecoderConfig(**stack)),
        objective=HideLengthConfig(critic_alone=6),
        optimizer=LionConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9),
        training=TrainingConfig(
            steps=12, target_tokens_per_batch=128, log_every=3, checkpoint_every=3, evaluate_every=12, select_by="loss"
        ),
        generation=Shortest(samples=3),
    )
