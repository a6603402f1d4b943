"""Pronunciation of English words (CMUdict): letters to phonemes, with a Transformer sized for 2 CPU cores.

    seq2seq train cmudict/transformer_small --data.directory DIR    # DIR has cmudict.dict[.gz]

3.13M parameters. A step of 256 rows (some 920 words) takes 0.60 s on 2 cores of an AMD EPYC with AVX-512 (jax 0.10.2,
Python 3.11) in float32, so that the 4,200 steps are 42 minutes; rows of 64 letters instead of 32 made it 1.0 to 1.2 s.

Test words are those whose MD5 hash modulo 100 is below 10, validation words those with 10 and 11; all pronunciations of
a word are in one split. Stress marks are left out; --data.stress True keeps them.
"""

from seq2seq_jax.data.pronunciations import Pronunciations
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.evaluation.metrics.pronunciation import PronunciationErrors
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {"num_layers": 3, "model_dim": 192, "num_heads": 4, "hidden_dim": 768, "dropout": 0.1}
    return Experiment(
        data=Pronunciations(directory="data/cmudict", max_source_length=32, max_target_length=28),
        tokenizer=TokenizerConfig(
            kind="char",
            target_kind="words",
            joint=False,
            vocabulary_size=500,
            byte_fallback=False,
            normalization="nfkc",
        ),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            tied_embeddings="decoder",
            precision="bfloat16_products",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=400, ema_decay=0.998),
        training=TrainingConfig(
            steps=4_200, target_tokens_per_batch=256 * 28, log_every=50, checkpoint_every=700, evaluate_every=700
        ),
        generation=BeamSearch(beam_size=5, maximum_length_ratio=1.5),
        metrics=(PronunciationErrors(),),
    )
