"""Records of a run: kept as JSON lines and in TensorBoard."""

import json
import math
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

SECONDS_BETWEEN_FLUSHES = 60.0

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
        (directory / "tensorboard").mkdir(exist_ok=True)
        # Not tensorboardX's SummaryWriter: it writes in a thread, which can tell nobody that the disk is full.
        self._board = EventsWriter(str(directory / "tensorboard" / "events"))
        self._flushed = time.monotonic()
        # TensorBoard hides what other files have from this step on.
        self._write_event(step=after_step + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "RecordFiles":
        return self

    def __exit__(self, *exception) -> None:
        try:
            self._board.close()
        finally:
            self._file.close()

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: it could not be written.
        """
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        values = [
            Summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
            for name, value in record.items()
            if name not in ("kind", "step") and isinstance(value, int | float) and math.isfinite(value)
        ]
        self._write_event(step=record["step"], summary=Summary(value=values))
        if record["kind"] == "validation" or time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._board.flush()
            self._flushed = time.monotonic()

    def _write_event(self, **content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), **content))
