"""Encoder–decoder training on JAX.

import seq2seq_jax
from seq2seq_jax.experiment import load_config_by_name
run = seq2seq_jax.train(load_config_by_name("dates/transformer"), "runs/dates")  # or load("runs/dates")
texts = run.generate(["de: Dienstag, 3. Mai 2022"])
"""

from typing import TYPE_CHECKING, Any

from seq2seq_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from seq2seq_jax.experiment import Experiment
    from seq2seq_jax.generation.ensemble import Mean
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


def load(
    run_dir: str,
    *others: str,
    mean: "Mean" = "probabilities",
    weights: "Sequence[float]" = (),
    trust_code: "bool | Collection[str]" = False,
) -> "Inference":
    """A trained run, ready to `generate`, `evaluate`, `score` and `align`; or an ensemble of several.

    Args:
        run_dir: what `seq2seq train` made.
        others: further runs with the same tokenizer, of any architecture: the probabilities of the next token are the
            mean of all runs'. Limits, method and data are those of run_dir.
        mean: of an ensemble: of "probabilities", or of "log_probabilities" (the geometric mean).
        weights: of its runs in the mean, that of run_dir first; empty = equal ones.
        trust_code: modules outside the package that may be imported, which executes them, where the run names classes
            or functions in them; True = all.

    Raises:
        ValueError: it is not the directory of a run, needs code that is not trusted, or the runs do not fit together.
    """
    from seq2seq_jax.run.ensemble import EnsembleInference

    return EnsembleInference.open_all((run_dir, *others), mean=mean, weights=weights, trust_code=trust_code)
