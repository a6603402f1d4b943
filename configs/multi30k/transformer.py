"""Multi30k English to German with the Transformer-Tiny of Wu et al. 2021, for one GPU.

Published for this architecture: 41.0 tokenised BLEU on test2016 (Wu et al. 2021, "Good for Misconceived Reasons", table
1; lower-cased Moses tokens, so not comparable with the cased 13a score that `evaluate` prints). Not measured here yet:
no GPU was at hand when this config was written.

    seq2seq train multi30k/transformer --data.directory DIR      # DIR has {train,val,test_2016_flickr}.{en,de}[.gz]
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
    stack = {
        "num_layers": 4,
        "model_dim": 128,
        "num_heads": 4,
        "hidden_dim": 256,
        "dropout": 0.3,
        "norm_position": "post",
    }
    return Experiment(
        data=ParallelText(
            directory="data/multi30k",
            source="en",
            target="de",
            test="test_2016_flickr",
            max_source_length=128,
            max_target_length=132,
        ),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=10_000),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack), precision="bfloat16"
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1),
        optimizer=AdamWConfig(learning_rate=5e-3, warmup_steps=2_000, ema_decay=0.999),
        training=TrainingConfig(
            steps=8_000,
            target_tokens_per_batch=64 * 132,
            log_every=100,
            checkpoint_every=500,
            evaluate_every=500,
            patience=6,
        ),
        generation=BeamSearch(beam_size=5, maximum_length_ratio=1.2),
    )
