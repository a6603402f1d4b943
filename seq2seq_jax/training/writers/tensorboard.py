"""TensorBoard: event files in tensorboard/ of the run directory."""

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from seq2seq_jax.training.writers import Writer, scalars

SECONDS_BETWEEN_FLUSHES = 60.0


class RecordWriter(Writer):
    """Writes event files, which `tensorboard --logdir RUN/tensorboard` shows."""

    def __init__(self, directory: Path, *, after_step: int, experiment: dict[str, Any]):
        """See `open_writers`."""
        (directory / "tensorboard").mkdir(exist_ok=True)
        # Not tensorboardX's SummaryWriter: it writes in a thread, which can tell nobody that the disk is full.
        self._board = EventsWriter(str(directory / "tensorboard" / "events"))
        self._flushed = time.monotonic()
        # TensorBoard hides what other files have from this step on.
        self._write_event(step=after_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: dict[str, Any]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record).items()]
        self._write_event(step=record["step"], summary=Summary(value=values))
        if record["kind"] == "validation" or time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._board.flush()
            self._flushed = time.monotonic()

    def close(self, *, failed: bool = False) -> None:
        self._board.close()

    def _write_event(self, **content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), **content))
