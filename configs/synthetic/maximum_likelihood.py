"""The synthetic task of SeqGAN: an LSTM that learns 10,000 texts of an oracle, by maximum likelihood.

    seq2seq train synthetic/maximum_likelihood --data.oracle oracle.npz --metrics oracle,path=oracle.npz

Without --data.oracle it is an oracle of its own, whose entropy (and so every figure) is another. The settings are those
of the released code: Adam with 0.01, batches of 64 texts, clipping at 5, 33 epochs, 32 units. By then the model is
overfitted; the checkpoint of the best loss is an early one. Not measured with this project yet.
"""

from seq2seq_jax.data.oracle_texts import OracleTexts
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.evaluation.metrics.oracle import OracleLikelihood
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.generation.methods import Sampling
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig

EPOCH = 156
"""Steps: 10,000 texts in batches of 64."""


def experiment() -> Experiment:
    """The experiment."""
    return Experiment(
        data=OracleTexts(packing=False, bucket_lengths=(21,)),
        tokenizer=TokenizerConfig(
            kind="words", joint=False, vocabulary_size=5_010, byte_fallback=False, normalization="nfkc"
        ),
        model=ModelConfig(
            encoder=RecurrentEncoderConfig(model_dim=8, hidden_dim=8, dropout=0.0),
            decoder=RecurrentDecoderConfig(model_dim=32, hidden_dim=32, attention=None, dropout=0.0),
            tied_embeddings="none",
        ),
        objective=MaximumLikelihoodConfig(label_smoothing=0.0),
        optimizer=AdamWConfig(
            learning_rate=0.01, schedule="constant", warmup_steps=20, clip_norm=5.0, beta2=0.999, epsilon=1e-8
        ),
        training=TrainingConfig(
            steps=33 * EPOCH,
            target_tokens_per_batch=64 * 21,
            log_every=EPOCH,
            checkpoint_every=EPOCH,
            evaluate_every=EPOCH,
            select_by="loss",
        ),
        generation=Sampling(maximum_length_ratio=0.0, maximum_length_extra=21, controls=Controls(minimum_length=21)),
        metrics=(OracleLikelihood(),),
    )
