"""Multi30k English to German: the small Transformer, trained on against a discriminator, with teacher forcing.

    seq2seq train multi30k/transformer_small --data.directory DIR
    seq2seq train multi30k/adversarial --data.directory DIR --init-from RUN

The discriminator is a causal one of about a quarter of the model, trained alone until it is right about 70% of fresh
samples and references; BLEU of the samples is logged, and no part of the reward. Not measured yet; docs/adversarial.md
says which runs a gain is to be compared with.
"""

import dataclasses

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.discriminators.causal import CausalDiscriminatorConfig
from seq2seq_jax.discriminators.losses import Logistic
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.adversarial import AdversarialConfig
from seq2seq_jax.objectives.estimators import LeaveOneOut
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/transformer_small_self_critical")
    stack = {"num_layers": 2, "model_dim": 128, "num_heads": 4, "hidden_dim": 512, "dropout": 0.3}
    return dataclasses.replace(
        base,
        objective=AdversarialConfig(
            reward=RewardConfig(bleu=1.0),
            estimator=LeaveOneOut(),
            samples_per_source=5,
            temperature=0.6,
            sample_with_encoder_dropout=True,
            maximum_length_ratio=1.2,
            maximum_length_extra=5,
            likelihood_weight=0.2,
            label_smoothing=0.1,
            discriminator=CausalDiscriminatorConfig(
                model=ModelConfig(
                    encoder=TransformerEncoderConfig(**stack),
                    decoder=TransformerDecoderConfig(**stack),
                    precision=base.model.precision,
                )
            ),
            discriminator_loss=Logistic(smoothing=0.1),
            discriminator_reward="log_probability",
            target_accuracy=0.7,
            target_steps=300,
            accuracy_ceiling=0.95,
            discriminator_optimizer=AdamWConfig(learning_rate=5e-4, schedule="constant", warmup_steps=50),
            replay_size=1_024,
            replay_length=64,
            replay_fraction=0.25,
        ),
        training=dataclasses.replace(base.training, steps=500, evaluate_every=125, checkpoint_every=125),
    )
