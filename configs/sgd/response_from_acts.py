"""Responses on SGD from what the system is to say: acts, slots and values to a sentence.

    seq2seq train sgd/response_from_acts --data.directory DIR    # DIR: {train,dev}.jsonl[.gz], schema.{train,dev}.json

Values are copied from the source (pointer-generator). Not measured yet as it is, with names of services and slots in
words; with --data.names tokens, on one core of an AMD EPYC with AVX512-BF16, another training on the other one (jax
0.10.2, Python 3.11), beam 4, dev:

    BLEU 24.27, missing values 8.36, slot error rate 10.02 (step 4,000 of 8,000, the best)

Slot errors are above the template's (6.8) there: see docs/tasks/dialogue.md.
"""

from seq2seq_jax.data.schema_dialogues import DialogueActs
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
    stack = {"model_dim": 256, "num_heads": 4, "hidden_dim": 768, "dropout": 0.2}
    return Experiment(
        data=DialogueActs(
            directory="data/sgd", names="words", max_source_length=96, max_target_length=96, too_long="truncate"
        ),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=4_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(num_layers=2, **stack),
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
            steps=4_000,
            target_tokens_per_batch=32 * 96,
            log_every=100,
            checkpoint_every=2_000,
            evaluate_every=4_000,
            select_by="loss",
        ),
        generation=BeamSearch(beam_size=4, length_penalty=1.0, source_tokens_per_batch=4_096),
    )
