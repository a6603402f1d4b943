"""Compiles the training step of the T5 configs for eight devices; prints the large tensors that fsdp does not divide.

Run in a process of its own, which has eight devices: python t5_shardings.py CONFIG...
"""

import dataclasses
import json
import math
import sys

import jax

from seq2seq_jax.compilation.programs import build_step, system_without_data
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.parallel.mesh_config import MeshConfig

MEBIBYTE = 2**20


def found_in(config: str) -> dict:
    """Numbers of large tensors, and what is whole of them."""
    experiment = load_config_by_name(config)
    experiment = dataclasses.replace(
        experiment,
        mesh=MeshConfig(data=1, fsdp=4, tensor=2),
        training=dataclasses.replace(experiment.training, target_tokens_per_batch=8 * experiment.max_target_length),
    )
    compiled = build_step("train", experiment, jax.devices()).lowered.compile()
    (state, _), _ = compiled.input_shardings
    layout = system_without_data(experiment, jax.devices()).layout
    large, whole = 0, []

    # What the program does not read has no sharding: the numbers in place of moments that are not factored.
    def is_none(leaf):
        return leaf is None

    leaves = jax.tree_util.tree_leaves_with_path(layout, is_leaf=is_none)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(state, is_leaf=is_none), strict=True):
        if sharding is None or math.prod(leaf.shape) * leaf.dtype.itemsize <= MEBIBYTE:
            continue
        large += 1
        divided = {axis for part in sharding.spec for axis in (part if isinstance(part, tuple) else (part,))}
        if "fsdp" not in divided:
            whole.append([jax.tree_util.keystr(path), list(leaf.shape), str(sharding.spec)])
    return {"large": large, "whole": whole}


if __name__ == "__main__":
    json.dump({config: found_in(config) for config in sys.argv[1:]}, sys.stdout)
