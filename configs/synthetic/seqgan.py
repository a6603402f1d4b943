"""The synthetic task of SeqGAN, adversarially: rollouts for every prefix, a convolutional discriminator.

    seq2seq train synthetic/seqgan --data.oracle oracle.npz --metrics oracle,path=oracle.npz --init-from RUN

RUN is one of synthetic/maximum_likelihood. As the released code, the discriminator has convolutions of 1 to 20 tokens
(here an eighth of its filters, for CPUs), its probability is the reward, and 16 rollouts value each prefix; it is
trained alone until it has an accuracy of 0.7, and then in each of 5 steps for one of the generator, which has up to 400
updates (the released code: 200). Not measured yet.
"""

import dataclasses

from seq2seq_jax.discriminators.losses import Logistic
from seq2seq_jax.discriminators.two_towers import PooledConvolutionConfig, TwoTowersConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.adversarial import AdversarialConfig
from seq2seq_jax.objectives.estimators import Reinforce
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("synthetic/maximum_likelihood")
    return dataclasses.replace(
        base,
        objective=AdversarialConfig(
            reward=None,
            estimator=Reinforce(),
            samples_per_source=1,
            minimum_length=20,
            maximum_length_ratio=0.0,
            maximum_length_extra=21,
            discriminator=TwoTowersConfig(
                source=PooledConvolutionConfig(model_dim=4, widths=(1,), filters=(4,), highway=False, dropout=0.0),
                target=PooledConvolutionConfig(
                    model_dim=64,
                    widths=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20),
                    filters=(12, 25, 25, 25, 25, 12, 12, 12, 12, 12, 20, 20),
                ),
                hidden_dim=64,
            ),
            discriminator_loss=Logistic(),
            discriminator_reward="probability",
            reward_form="rollouts",
            rollouts=16,
            target_accuracy=0.7,
            target_steps=1_000,
            generator_every=5,
            discriminator_optimizer=AdamWConfig(learning_rate=1e-3, schedule="constant", warmup_steps=0),
        ),
        training=dataclasses.replace(
            base.training, steps=2_000, log_every=50, checkpoint_every=250, evaluate_every=250
        ),
        init_from="runs/synthetic/maximum_likelihood/default/seed=0",
    )
