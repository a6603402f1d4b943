"""Span corruption over the English and German lines of Multi30k: T5's objective, sized for 2 CPU cores.

58,000 lines, 846,000 tokens, in chunks of 141: 128 source and 29 target tokens per row. Measured on 2 cores of an AMD
EPYC that also did other work (jax 0.10.2, Python 3.11), 600 steps in 10 min 59 s with everything included:

    validation loss     4.694 after 200 steps, 4.425 after 400, 4.336 after 600 nats per target token
    test_2016_flickr    4.357

A start, not the end of what it learns: a model that knows where sentinels stand, the language and how frequent each
token is, but no context, would have 4.43. A longer run: --training.steps 20000 (not measured).

    seq2seq train multi30k/denoising_small --data.directory DIR    # DIR has {train,val,test_2016_flickr}.{en,de}[.gz]
"""

from seq2seq_jax.data.text_files import DocumentFiles
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
        "num_layers": 3,
        "model_dim": 256,
        "num_heads": 4,
        "hidden_dim": 1024,
        "normalization": "rms",
        "positions": "relative",
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "attention_bias": False,
        "dropout": 0.1,
    }
    return Experiment(
        data=DocumentFiles(
            directory="data/multi30k",
            train=("train.en", "train.de"),
            validation=("val.en", "val.de"),
            test=("test_2016_flickr.en", "test_2016_flickr.de"),
            max_source_length=128,
        ),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=8_000, num_sentinels=16),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            precision="bfloat16_products",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0),
        optimizer=AdamWConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=100),
        training=TrainingConfig(
            steps=600,
            target_tokens_per_batch=32 * 29,
            log_every=50,
            checkpoint_every=200,
            evaluate_every=200,
            select_by="loss",
        ),
        generation=BeamSearch(beam_size=1),
    )
