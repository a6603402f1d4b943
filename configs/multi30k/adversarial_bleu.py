"""Multi30k English to German: adversarial training in which 0.7 of the reward is sentence BLEU (Yang et al. 2018).

    seq2seq train multi30k/adversarial_bleu --data.directory DIR --init-from RUN

Otherwise as multi30k/adversarial. Not measured yet.
"""

import dataclasses

from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("multi30k/adversarial")
    objective = dataclasses.replace(
        base.objective, metric_weight=0.7, discriminator_weight=0.3, discriminator_reward="probability"
    )
    return dataclasses.replace(base, objective=objective)
