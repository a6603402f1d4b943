"""Responses on SGD from what was said so far, without acts and without a database: end to end.

    seq2seq train sgd/response --data.directory DIR    # DIR has {train,dev}.jsonl[.gz]

Words are copied from the source (pointer-generator). Half a second per step on 2 cores, so 4,400 steps; scores are not
measured yet.
"""

from seq2seq_jax.data.dialogues import Dialogues
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.variety import Variety
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.tasks.conversation import Conversation
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"model_dim": 256, "num_heads": 4, "hidden_dim": 768, "dropout": 0.2}
    return Experiment(
        data=Dialogues(
            directory="data/sgd",
            answers=("SYSTEM",),
            max_turns=6,
            max_source_length=256,
            max_target_length=64,
            too_long="truncate",
        ),
        task=Conversation(),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=4_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(num_layers=3, **stack),
            decoder=TransformerDecoderConfig(num_layers=3, **stack),
            copying=True,
            copying_in_order=True,
            precision="bfloat16_products",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(
            learning_rate=2e-3, schedule="cosine", warmup_steps=400, final_fraction=0.02, ema_decay=0.998
        ),
        training=TrainingConfig(
            steps=4_400,
            target_tokens_per_batch=32 * 64,
            log_every=100,
            checkpoint_every=2_200,
            evaluate_every=2_200,
            select_by="loss",
        ),
        metrics=(Bleu(), Variety()),
        generation=BeamSearch(beam_size=4, length_penalty=1.0, source_tokens_per_batch=8_192),
    )
