"""Open conversation (the chitchat dataset) with a Transformer sized for 2 CPU cores.

    seq2seq train chitchat/transformer_small --data.directory DIR    # DIR has chitchat.{train,dev}.jsonl[.gz]

2.69M parameters. Measured on one core of an AMD EPYC with AVX512-BF16, another training on the other one (jax 0.10.2,
Python 3.11), 15,000 steps, nine epochs, in 49 minutes with everything included:

    perplexity of dev per token 51.70, per word between white space 199.00, per word or mark 85.9

Text is lower-case; --data.lowercase False keeps the case.
"""

from seq2seq_jax.data.conversations import Conversations
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.sampling import Sampling
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.tasks.conversation import Conversation
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"model_dim": 192, "num_heads": 3, "dropout": 0.1}
    return Experiment(
        data=Conversations(
            directory="data/chat",
            train="chitchat.train.jsonl",
            validation="chitchat.dev.jsonl",
            speakers=("A", "B"),
            max_turns=2,
            lowercase=True,
            max_source_length=160,
            max_target_length=80,
            too_long="truncate",
        ),
        task=Conversation(),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=6_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(num_layers=1, hidden_dim=512, **stack),
            decoder=TransformerDecoderConfig(num_layers=2, hidden_dim=768, **stack),
            precision="bfloat16_products",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0),
        optimizer=AdamWConfig(learning_rate=1.5e-3, schedule="cosine", warmup_steps=500, ema_decay=0.998),
        training=TrainingConfig(
            steps=15_000,
            target_tokens_per_batch=24 * 80,
            log_every=100,
            checkpoint_every=3_000,
            evaluate_every=3_000,
            select_by="perplexity_per_word",
        ),
        generation=Sampling(top_p=0.9, maximum_length_ratio=0.0, maximum_length_extra=80),
        metrics=(Perplexity(), Perplexity(per="word")),
    )
