"""Encoder–decoder training on JAX.

import seq2seq_jax
texts = seq2seq_jax.load("runs/dates/transformer/default/seed=0").generate(["de: Dienstag, 3. Mai 2022"])
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from collections.abc import Collection

    from seq2seq_jax.run.inference import Inference


def load(run_dir: str, *, trust_code: "bool | Collection[str]" = False) -> "Inference":
    """A trained run, ready to `generate` and `align`.

    Args:
        run_dir: what `seq2seq train` made.
        trust_code: modules outside the package that may be imported, which executes them, where the run names classes
            or functions in them; True = all.

    Raises:
        ValueError: it is not the directory of a run, or needs code that is not trusted.
    """
    from seq2seq_jax.run.inference import Inference

    return Inference.open(run_dir, trust_code=trust_code)
