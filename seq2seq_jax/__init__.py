"""Encoder–decoder training on JAX.

import seq2seq_jax
from seq2seq_jax.experiment import load_config_by_name
run = seq2seq_jax.train(load_config_by_name("dates/transformer"), "runs/dates")  # or load("runs/dates")
texts = run.generate(["de: Dienstag, 3. Mai 2022"])
"""

from typing import TYPE_CHECKING, Any

from seq2seq_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Collection

    from seq2seq_jax.experiment import Experiment
    from seq2seq_jax.run.inference import Inference


def train(experiment: "Experiment", run_dir: str, **options: Any) -> "Inference":
    """Train an experiment as `seq2seq train` does, or continue it, and load what it has learned.

    Args:
        experiment: see `seq2seq_jax.experiment`; `load_config_by_name` gives that of a config.
        run_dir: directory of the run, new or to be continued.
        options: of `seq2seq train`: json, writers, trust_code, loss_scale, compilation_cache.

    Raises:
        ValueError: something does not fit, or the directory holds another run.
    """
    from seq2seq_jax.commands.options import TrainOptions, with_experiment
    from seq2seq_jax.commands.train import run
    from seq2seq_jax.experiment import CommandLine

    chosen = with_experiment(TrainOptions)(run_dir=run_dir, experiment=experiment, **options)
    run([f"--run-dir {run_dir} (from Python)"], CommandLine("python", experiment, chosen))
    return load(run_dir, trust_code=True)


def load(run_dir: str, *, trust_code: "bool | Collection[str]" = False) -> "Inference":
    """A trained run, ready to `generate`, `evaluate`, `score` and `align`.

    Args:
        run_dir: what `seq2seq train` made.
        trust_code: modules outside the package that may be imported, which executes them, where the run names classes
            or functions in them; True = all.

    Raises:
        ValueError: it is not the directory of a run, or needs code that is not trusted.
    """
    from seq2seq_jax.run.inference import Inference

    return Inference.open(run_dir, trust_code=trust_code)
