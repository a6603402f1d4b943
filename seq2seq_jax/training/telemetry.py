"""Records of a run: kept as JSON lines and in TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

import tensorboardX

Record = dict[str, Any]
"""One line of metrics.jsonl: `kind` (train or validation), `step`, and figures by name."""


def read_records(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, a last line that was cut off left out; none if the file is not there."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class RecordFiles:
    """metrics.jsonl and tensorboard/ of a run directory, continued after a step."""

    def __init__(self, directory: Path, *, after_step: int):
        """Args:
        after_step: updates that the run has done; records of later ones, left by a run that was killed, are removed.
        """
        self.path = directory / "metrics.jsonl"
        self.records = [record for record in read_records(self.path) if record["step"] <= after_step]
        replacement = self.path.with_suffix(".tmp")
        replacement.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        replacement.replace(self.path)
        self._file = self.path.open("a", buffering=1)
        self._board = tensorboardX.SummaryWriter(
            str(directory / "tensorboard"), purge_step=after_step + 1, write_to_disk=True
        )

    def __enter__(self) -> "RecordFiles":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._board.close()

    def write(self, record: Record) -> None:
        """Append a record."""
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name not in ("kind", "step") and isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        if record["kind"] == "validation":
            self._board.flush()
