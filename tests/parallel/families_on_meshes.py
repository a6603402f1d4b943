"""Trains and continues architectures on eight devices and on one; prints what came out as JSON.

Run in a process of its own, which has eight devices: python families_on_meshes.py NAME... of architectures.
Checkpoints go to the current directory.
"""

import json
import os
import sys

import jax
import numpy as np
from architectures import ARCHITECTURES
from on_meshes import MESHES, Trainer

from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.progress import Progress

STEPS, SAVED_STEP = 3, 2


def same_bits(left, right) -> bool:
    """Whether two states are equal to the last bit."""
    pairs = zip(jax.tree.leaves(jax.device_get(left)), jax.tree.leaves(jax.device_get(right)), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def trained(name: str) -> dict:
    """Losses of both meshes, those of a run that goes on on the other one, and whether a resumed run is the same."""
    one, many = (Trainer(MESHES[mesh], ARCHITECTURES[name].config) for mesh in ("one", "all"))
    _, alone = one.train(one.initial_state(), range(STEPS))
    state, losses = many.train(many.initial_state(), range(SAVED_STEP))
    with Checkpoints(f"{os.getcwd()}/{name}") as checkpoints:
        checkpoints.save(state, Progress(step=SAVED_STEP))
        checkpoints.wait()
        uninterrupted, last = many.train(state, range(SAVED_STEP, STEPS))
        resumed, _ = many.train(checkpoints.restore_newest(many.layout)[0], range(SAVED_STEP, STEPS))
        _, moved = one.train(checkpoints.restore_newest(one.layout)[0], range(SAVED_STEP, STEPS))
    return {"one": alone, "all": losses + last, "moved": moved, "resumed": same_bits(uninterrupted, resumed)}


if __name__ == "__main__":
    json.dump({name: trained(name) for name in sys.argv[1:]}, sys.stdout)
