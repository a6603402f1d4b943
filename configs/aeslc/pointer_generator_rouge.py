"""Subject lines of emails (AESLC): the pointer-generator, trained on for ROUGE by policy gradients.

    seq2seq train aeslc/pointer_generator --data.directory DIR
    seq2seq train aeslc/pointer_generator_rouge --data.directory DIR --init-from RUN

The reward is the mean of the F measures ROUGE-1 and ROUGE-L, without stemmer.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.estimators import LeaveOneOut
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("aeslc/pointer_generator")
    # As in multi30k/transformer_small_self_critical: sampled and learned from with the same masks.
    model = dataclasses.replace(
        base.model, decoder=dataclasses.replace(base.model.decoder, dropout=0.0, attention_dropout=0.0)
    )
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, packing=False, bucket_lengths=(64, 96, 128, 192, 256)),
        model=model,
        objective=PolicyGradientConfig(
            reward=RewardConfig(rouge_1=0.5, rouge_l=0.5),
            estimator=LeaveOneOut(),
            samples_per_source=5,
            sample_with_encoder_dropout=True,
            maximum_length_ratio=0.0,
            maximum_length_extra=24,
            likelihood_weight=0.05,
        ),
        optimizer=AdamWConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=20, epsilon=1e-5, ema_decay=0.99),
        training=TrainingConfig(
            steps=1_000, target_tokens_per_batch=32 * 24, log_every=20, checkpoint_every=250, evaluate_every=500
        ),
        init_from="runs/aeslc/pointer_generator/default/seed=0",
    )
