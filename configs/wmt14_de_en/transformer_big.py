"""WMT 2014 German to English with the big Transformer of Vaswani et al. 2017, from tensorflow-datasets.

The paper's setting (table 3, "big"; section 5): 6 + 6 layers, width 1024, 16 heads, feed-forward 4096, about 210M
parameters, batches of about 25,000 target tokens, 300,000 steps, dropout 0.3, label smoothing 0.1, peak learning rate
(1024 x 4000)^-0.5, beam 4 with length penalty 0.6, the last 20 checkpoints averaged (`seq2seq average RUN --last 20`).
Published for the other direction: 28.4 tokenised BLEU on newstest2014 English to German, 3.5 days on 8 P100 GPUs. Not
measured here: the tests train it, made small, on `tfds.testing.mock_data`.

Layers are not in a loop: on an H100 (256 rows of 128 + 128 tokens) a step takes 119 ms and 18.9 GB of temporaries, in
a loop 169 ms and 30.9 GB, since a loop copies what it saves to and from arrays of all layers; it compiles in 75 s, in a
loop in 21.

Preparing this dataset needs TensorFlow once (to unpack its archives); reading it does not:

    tfds build wmt14_translate/de-en --file_format=array_record --data_dir DIR
    seq2seq train wmt14_de_en/transformer_big --data.directory DIR
"""

from seq2seq_jax.data.catalogue import Catalogue
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
        "num_layers": 6,
        "model_dim": 1024,
        "num_heads": 16,
        "hidden_dim": 4096,
        "norm_position": "post",
        "dropout": 0.3,
    }
    return Experiment(
        data=Catalogue(
            name="wmt14_translate/de-en",
            source="de",
            target="en",
            max_source_length=256,
            max_target_length=256,
            window=131_072,
            max_examples_per_row=32,
        ),
        tokenizer=TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=37_000, character_coverage=0.9999),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack), precision="bfloat16"
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.1, loss_chunk=64),
        optimizer=AdamWConfig(learning_rate=(1024 * 4_000) ** -0.5, warmup_steps=4_000),
        training=TrainingConfig(
            steps=300_000,
            target_tokens_per_batch=128 * 256,
            log_every=100,
            checkpoint_every=1_500,
            evaluate_every=6_000,
            keep_latest=20,
        ),
        generation=BeamSearch(beam_size=4, length_penalty=0.6, maximum_length_ratio=1.5, maximum_length_extra=50),
    )
