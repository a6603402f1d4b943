"""Where the records of a run go, beside its metrics.jsonl: one file per service."""

import abc
import importlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

WriterName = Literal["tensorboard", "wandb", "mlflow"]


class _Service(NamedTuple):
    """What a service is called, and what it needs."""

    title: str
    package: str
    """The package that must be installed, and, except for TensorBoard's, the extra that brings it."""
    module: str
    """Module beside this one whose `RecordWriter` sends records there."""


SERVICES = {
    "tensorboard": _Service("TensorBoard", "tensorboardX", "tensorboard"),
    "wandb": _Service("Weights & Biases", "wandb", "weights_and_biases"),
    "mlflow": _Service("MLflow", "mlflow", "mlflow_tracking"),
}


class Writer(abc.ABC):
    """Sends the records of one run to a service."""

    @abc.abstractmethod
    def write(self, record: dict[str, Any]) -> None:
        """Send a record, a line of metrics.jsonl.

        Raises:
            OSError: it could not be written to this machine's disk.
        """

    @abc.abstractmethod
    def close(self, *, failed: bool = False) -> None:
        """Send what is left.

        Args:
            failed: whether the run ended with an error.
        """


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, named "train/loss", "validation/SET/bleu" and the like."""
    prefix = "/".join(filter(None, (record["kind"], record.get("set"))))
    return {
        f"{prefix}/{name}": value
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, int | float) and math.isfinite(value)
    }


def check_installed(names: Sequence[WriterName]) -> None:
    """Return if every service has its package.

    Raises:
        ValueError: one has not; the message says how to install it.
    """
    for name in names:
        service = SERVICES[name]
        if importlib.util.find_spec(service.package) is None:
            raise ValueError(
                f"--writers {name} needs the package of {service.title}, which is not installed: "
                f"pip install 'seq2seq_jax[{name}]', or leave it out."
            )


def open_writers(
    names: Sequence[WriterName], directory: Path, *, after_step: int, experiment: dict[str, Any]
) -> list[Writer]:
    """One writer per service.

    Args:
        directory: of the run. What a service keeps on this machine goes below it.
        after_step: updates that the run has done; what later ones left there before is taken back or written again.
        experiment: dotted names and values of the run's config.
    """
    return [
        importlib.import_module(f"{__name__}.{SERVICES[name].module}").RecordWriter(
            directory, after_step=after_step, experiment=experiment
        )
        for name in names
    ]
