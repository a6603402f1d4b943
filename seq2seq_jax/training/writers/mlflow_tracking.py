"""MLflow. MLFLOW_TRACKING_URI and its other variables hold; without it, mlflow.db of the run directory is written."""

import logging
import os
from pathlib import Path
from typing import Any

import mlflow  # pyright: ignore[reportMissingImports]  (an extra)

from seq2seq_jax.files import write_whole
from seq2seq_jax.training.writers import Writer, scalars

LONGEST_VALUE = 500
"""Characters of a value of the config; older servers take no more."""

logger = logging.getLogger(__name__)


class RecordWriter(Writer):
    """Sends records to one run there, which a continued run keeps using; its id stands in mlflow_run_id."""

    def __init__(self, directory: Path, *, after_step: int, experiment: dict[str, Any]):
        """See `open_writers`."""
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(directory / 'mlflow.db').absolute()}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        identity = directory / "mlflow_run_id"
        if not identity.exists():
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "seq2seq_jax")
            found = self._client.get_experiment_by_name(name)
            place = found.experiment_id if found else self._client.create_experiment(name)
            run = self._client.create_run(place, run_name=os.environ.get("MLFLOW_RUN_NAME", str(directory)))
            for field, value in experiment.items():
                self._client.log_param(run.info.run_id, field, str(value)[:LONGEST_VALUE])
            write_whole(identity, run.info.run_id)
        self._id = identity.read_text().strip()
        self._client.update_run(self._id, status="RUNNING")
        self._is_failing = False

    def write(self, record: dict[str, Any]) -> None:
        metrics = [
            mlflow.entities.Metric(
                name, value, timestamp=mlflow.utils.time.get_current_time_millis(), step=record["step"]
            )
            for name, value in scalars(record).items()
        ]
        try:
            self._client.log_batch(self._id, metrics=metrics)
        except mlflow.exceptions.MlflowException as error:
            # A server that is away must not end a training of days; metrics.jsonl has the record.
            if not self._is_failing:
                logger.warning(
                    "MLflow did not take the record of step %d: %s. Training continues.", record["step"], error
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def close(self, *, failed: bool = False) -> None:
        try:
            self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
        except mlflow.exceptions.MlflowException as error:
            logger.warning("MLflow was not informed that the run has ended: %s.", error)
