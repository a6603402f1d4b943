"""C4 with the large model of Raffel et al. 2020 (T5 1.0): 24 + 24 layers, width 1024, 16 heads of 64, 737M parameters.

Their setting (sections 2.1, 3.1 and 3.7): RMS norm before each branch, relative positions in 32 buckets up to 128
tokens, shared by the layers of a stack, no biases, 32,128 ids, one embedding for all; rows of 512 source and 114 target
tokens, 2,048 a batch, a million steps; Adafactor, whose learning rate is 1 / sqrt(max(step, 10,000)), here with a rise
in place of the plateau. Scores of attention are divided by the root of the width of a head, which T5 folds into its
initial values. There is no dropout, as its authors found better for pre-training afterwards (notes to T5 1.1).

Not trained here. What it takes on TPUs is in launch/README.md, as compiled:

    seq2seq compile c4_span_corruption/t5_large --topology v5e:16x16 --mesh.fsdp 256 --mesh.data 1
"""

from seq2seq_jax.data.catalogue import Catalogue
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.search import GenerationConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh import MeshConfig
from seq2seq_jax.training.loop import TrainingConfig
from seq2seq_jax.training.optimizer import AdafactorConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {
        "num_layers": 24,
        "model_dim": 1024,
        "num_heads": 16,
        "head_dim": 64,
        "hidden_dim": 4096,
        "feed_forward_bias": False,
        "normalization": "rms",
        "positions": "relative",
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "attention_bias": False,
        "dropout": 0.0,
        "scan_layers": True,
        "remat": "full",
    }
    return Experiment(
        data=Catalogue(name="c4/en", source="text", target="text", max_source_length=512, max_target_length=114),
        tokenizer=TokenizerConfig(kind="unigram", vocabulary_size=32_128, character_coverage=0.9999),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack), precision="bfloat16"
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0, z_loss=1e-4),
        optimizer=AdafactorConfig(learning_rate=0.01, warmup_steps=10_000, clip_norm=None),
        training=TrainingConfig(
            steps=1_000_000,
            batch_tokens=2_048 * 114,
            log_every=100,
            checkpoint_every=5_000,
            evaluate_every=20_000,
            select_by="loss",
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        generation=GenerationConfig(beam_size=1, maximum_length_ratio=0.25),
    )
