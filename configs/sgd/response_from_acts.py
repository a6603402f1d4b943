"""Responses on SGD from what the system is to say: acts, slots and values to a sentence.

    seq2seq train sgd/response_from_acts --data.directory DIR    # DIR: {train,dev}.jsonl[.gz], schema.{train,dev}.json

Values are copied from the source (pointer-generator). Measured on one core of an AMD EPYC without AVX-512, in float32,
other programs on the other one (jax 0.10.2, Python 3.11), 2,600 steps in 95 minutes and 18 for dev, beam 4, all of dev:

    BLEU 30.15, missing values 5.31, slot error rate 6.84

Most of these errors are in services that training has not seen; docs/tasks/dialogue.md has how to require values.
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
            steps=2_600,
            target_tokens_per_batch=32 * 96,
            log_every=100,
            checkpoint_every=1_300,
            evaluate_every=2_600,
            select_by="loss",
        ),
        generation=BeamSearch(beam_size=4, length_penalty=1.0, source_tokens_per_batch=4_096),
    )
