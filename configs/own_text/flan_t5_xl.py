"""Your own parallel text files with the architecture of Flan-T5-XL, for a TPU slice or a GPU host.

24 + 24 layers, width 2048, 32 heads of 64, gated feed-forward 5120, 2.85 billion parameters (Chung et al. 2022). It is
for fine-tuning what was imported, whose tokenizer and parameters it then has:

    seq2seq import flan-t5-xl --config own_text/flan_t5_xl --output runs/flan
    seq2seq train runs/flan/config.py --run-dir runs/tuned --data.directory DIR --data.source en --data.target de

Adafactor at a constant rate, as T5 was fine-tuned with (Raffel et al. 2020, section 3.1.2). Parameters and optimizer
state are divided over all chips. With LoRA there is optimizer state for the changes alone:

    ... --model.encoder.lora_rank 8 --model.decoder.lora_rank 8 --optimizer adamw --optimizer.learning_rate 3e-4

Not measured; docs/results/transfer.md has the commands that say what a step needs as compiled:

    seq2seq compile own_text/flan_t5_xl --topology v5e:4x4
"""

from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdafactorConfig


def experiment() -> Experiment:
    """The experiment."""
    stack = {
        "num_layers": 24,
        "model_dim": 2048,
        "num_heads": 32,
        "head_dim": 64,
        "hidden_dim": 5120,
        "activation": "gelu",
        "gated": True,
        "attention_bias": False,
        "attention_scale": 1.0,
        "normalization": "rms",
        "positions": "relative",
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "dropout": 0.1,
        "scan_layers": True,
        "remat": "full",
    }
    return Experiment(
        data=ParallelText(
            directory="data", source="source", target="target", max_source_length=256, max_target_length=256
        ),
        tokenizer=TokenizerConfig(kind="unigram", vocabulary_size=32_128, character_coverage=0.9999),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**stack),
            tied_embeddings="inputs",
            scaled_embeddings="none",
            precision="bfloat16",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0),
        optimizer=AdafactorConfig(learning_rate=1e-3, schedule="constant", warmup_steps=1_000),
        training=TrainingConfig(
            steps=10_000, target_tokens_per_batch=64 * 256, log_every=100, checkpoint_every=1_000, evaluate_every=1_000
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        generation=BeamSearch(beam_size=4),
    )
