"""Multi30k English to German: the control of adversarial training, with the same reward for every sample.

    seq2seq train multi30k/adversarial_constant --data.directory DIR --init-from RUN

Everything is as in multi30k/adversarial (samples, discriminator, teacher forcing, cost), but no sample is rewarded more
than another: what is gained here as well is no merit of the discriminator (Choshen et al. 2020). The estimator has no
baseline, without which a constant reward would have no effect at all. Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name
from seq2seq_jax.objectives.estimators import Reinforce


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/adversarial")
    estimator = Reinforce(baseline="none", baseline_decay=None)
    return dataclasses.replace(
        base, objective=dataclasses.replace(base.objective, estimator=estimator, reward_control="constant")
    )
