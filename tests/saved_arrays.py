"""Reads checkpoints without this project, and without the devices that saved them."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint


def saved_arrays(run: Path, step: int) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name -> type, shape and bits of every array of a run's checkpoint."""
    path = run / "checkpoints" / f"{step:08d}" / "state"
    checkpointer = orbax.checkpoint.PyTreeCheckpointer()
    saved = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: orbax.checkpoint.RestoreArgs(restore_type=np.ndarray), saved)
    tree = checkpointer.restore(path, restore_args=as_numpy)
    return {
        jax.tree_util.keystr(path): (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
