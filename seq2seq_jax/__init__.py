"""Encoder–decoder training on JAX.

import seq2seq_jax
texts = seq2seq_jax.load("runs/dates/transformer/default/seed=0").generate(["de: Dienstag, 3. Mai 2022"])
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seq2seq_jax.run.inference import Inference


def load(run_dir: str) -> "Inference":
    """A trained run, ready to `generate` and `align`.

    Args:
        run_dir: what `seq2seq train` made.

    Raises:
        ValueError: it is not the directory of a run.
    """
    from seq2seq_jax.run.inference import Inference

    return Inference.open(run_dir)
