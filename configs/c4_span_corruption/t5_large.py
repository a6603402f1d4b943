"""T5-Large pre-trained on C4 by span corruption, as Raffel et al. 2020 trained theirs.

24 + 24 layers, width 1024, 16 heads of 64, feed-forward 4096 (738M parameters); chunks of 568 tokens with 15% taken
out in spans of 3 on average: 512 source and 114 target tokens per row. The paper's last setting (section 3.7): a
million steps of 2,048 rows, about a trillion tokens; Adafactor at 1 / sqrt(max(step, 10,000)), where this config rises
to 0.01 along a line in those 10,000 steps; no dropout, as its authors found better for pre-training afterwards (notes
to T5 1.1). Parameters and Adafactor's state are divided over all chips (mesh.fsdp), as rows are. Vocabulary of 32,000
pieces and 100 sentinels there; 32,128 here, the sentinels and 256 bytes counted, trained on the first half a million
documents. The paper names no loss to expect. Not measured here: C4 could not be downloaded; the same data source trains
multi30k/denoising_small, which is measured.

C4 (365 million documents, 806 GB of text) is prepared once with TensorFlow and Apache Beam, or converted from the
tfrecord files that others have prepared (neither was tried here); reading it needs neither:

    tfds build c4/en --file_format=array_record --data_dir DIR --beam_pipeline_options=...
    tfds convert_format --dataset_version_dir TFRECORDS/c4/en/3.1.0 --out_file_format array_record \\
        --out_dir DIR/c4/en/3.1.0
    seq2seq train c4_span_corruption/t5_large --data.directory DIR

docs/results/span_corruption.md has the time of encoding, once for all runs; docs/results/tpu_estimates.md the cost of a
step on TPUs, as compiled:

    seq2seq compile c4_span_corruption/t5_large --topology v5e:16x16
"""

from seq2seq_jax.data.catalogue import CatalogueDocuments
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.tasks.denoising import Denoising
from seq2seq_jax.training.config import TrainingConfig
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
    data, task = CatalogueDocuments(name="c4/en", validation="validation[:5%]", test=None), Denoising()
    _, target_length = task.row_lengths(data)
    return Experiment(
        data=data,
        task=task,
        tokenizer=TokenizerConfig(
            kind="unigram",
            normalization="nfkc",
            vocabulary_size=32_128,
            num_sentinels=100,
            character_coverage=0.9999,
            training_examples=500_000,
        ),
        model=ModelConfig(
            encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack), precision="bfloat16"
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0, z_loss=1e-4),
        optimizer=AdafactorConfig(learning_rate=0.01, warmup_steps=10_000, clip_norm=None),
        training=TrainingConfig(
            steps=1_000_000,
            target_tokens_per_batch=2_048 * target_length,
            log_every=100,
            checkpoint_every=2_000,
            evaluate_every=10_000,
            select_by="loss",
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        generation=BeamSearch(beam_size=1),
    )
