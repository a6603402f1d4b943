"""Policy-gradient steps on meshes of eight devices and on one device; prints what came out as JSON.

Run in a process of its own, which has eight devices.
"""

import json
import sys

import jax
import numpy as np
from architectures import recurrent, transformer
from batches import batch, random_pairs
from on_meshes import MESHES, TOKENIZER

from seq2seq_jax.objectives.adversarial import AdversarialConfig
from seq2seq_jax.objectives.estimators import LeaveOneOut, Reinforce, SelfCritical
from seq2seq_jax.objectives.objective import values_of
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.training.optimizer import AdamWConfig
from seq2seq_jax.training.step import build_update, initial_state, player_optimizers

STEPS, ROWS, LENGTH = 3, 16, 8
REWARD = RewardConfig(bleu=1.0, chrf=1.0, word_error_rate=0.1)
# Adam divides by the size of a gradient: with a small epsilon rounding would move what has a gradient of 0.
OPTIMIZER = AdamWConfig(learning_rate=1e-3, warmup_steps=1, epsilon=1e-3, ema_decay=0.9)
SHARED = {"reward": REWARD, "samples_per_source": 3, "maximum_length_extra": 4, "likelihood_weight": 0.1}
CASES = {
    "self-critical transformer": (
        transformer(num_layers=1),
        PolicyGradientConfig(estimator=SelfCritical(), kl_weight=0.1, **SHARED),
    ),
    "moving average": (transformer(num_layers=1), PolicyGradientConfig(estimator=Reinforce(), **SHARED)),
    "leave one out LSTM": (recurrent(), PolicyGradientConfig(estimator=LeaveOneOut(), **SHARED)),
    "adversarial": (
        transformer(num_layers=1),
        AdversarialConfig(
            estimator=LeaveOneOut(),
            metric_weight=0.5,
            train_prefixes=True,
            reward_form="potential",
            r1_weight=0.1,
            replay_size=24,
            replay_length=8,
            replay_fraction=0.5,
            discriminator_optimizer=OPTIMIZER,
            **SHARED,
        ),
    ),
}


def training_batch(number: int):
    """One pair per row."""
    rng = np.random.default_rng([3, number])
    pairs = random_pairs(rng, rng.integers(2, LENGTH, ROWS), rng.integers(2, LENGTH, ROWS), TOKENIZER.vocabulary)
    return batch([[pair] for pair in pairs], LENGTH, LENGTH, TOKENIZER.vocabulary)


def trained(name: str, sizes: tuple[int, int, int]) -> dict[str, list[float]]:
    """All figures of each step, and the norm of every parameter after the last."""
    model, config = CASES[name]
    data, fsdp, tensor = sizes
    mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
    objective = config.build(model.build(TOKENIZER.vocabulary), TOKENIZER)
    optimizers, decays = player_optimizers(objective, OPTIMIZER, steps=STEPS)
    build, layout = initial_state(objective, optimizers, average_decays=decays, seed=0, mesh=mesh)
    update = build_update(
        objective, optimizers, accumulation=2, average_decays=decays, seed=0, mesh=mesh, layout=layout
    )
    state, figures = build(), []
    for step in range(STEPS):
        state, metrics = update(state, jax.device_put(training_batch(step), batch_sharding(mesh)))
        figures.append(values_of(metrics))
    params = jax.device_get({name: player.params for name, player in state.players.items()})
    norms = [float(np.linalg.norm(leaf.ravel())) for leaf in jax.tree.leaves(params)]
    return {"norms": norms} | {figure: [each[figure] for each in figures] for figure in figures[0]}


if __name__ == "__main__":
    json.dump({name: {mesh: trained(name, MESHES[mesh]) for mesh in ("one", "all")} for name in CASES}, sys.stdout)
