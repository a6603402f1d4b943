"""Records of a run: kept as JSON lines, and sent where the user looks at them."""

import contextlib
import json
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seq2seq_jax.files import write_whole
from seq2seq_jax.old_names import current_metrics
from seq2seq_jax.training.writers import Writer

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""One line of metrics.jsonl: `kind` (train or validation), `step`, and metrics by name."""


def read_records(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, a last line that was cut off left out; none if the file is not there.

    Other lines that are no records are left out too, and logged.
    """
    found = [_record_of(line) for line in _lines(path)]
    damaged = [number for number, record in enumerate(found[:-1], 1) if record is None]
    if damaged:
        logger.warning("%s: %d lines are damaged and left out, the first is line %d.", path, len(damaged), damaged[0])
    return [record for record in found if record is not None]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []


def _record_of(line: bytes) -> Record | None:
    """The record that a line holds, under current names; None = it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("kind"), str) and type(record.get("step")) is int
    return current_metrics(record) if whole else None


class RecordFiles:
    """metrics.jsonl of a run directory, continued after a step, and the writers that get the same records.

    Attributes:
        records: all that have been written, those of earlier processes included.
        checksums: CRC-32 of the line of each; a checkpoint keeps them, so that what is missing later is noticed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        after_step: int,
        checksums: Sequence[int] | None = None,
        writers: Sequence[Writer] = (),
    ):
        """Args:
        writers: closed with this.
        after_step: updates that the run has done; records of later ones, left by a run that was killed, are removed.
        checksums: of the lines that there were then; None = not known. Lines with others are left out, and if one is
            missing that is logged and the file kept aside.
        """
        self.path = directory / "metrics.jsonl"
        if checksums is None:
            kept = [record for record in read_records(self.path) if record["step"] <= after_step]
            lines = [json.dumps(record).encode() for record in kept]
        else:
            lines = self._verified(checksums, after_step)
        self.records = [current_metrics(json.loads(line)) for line in lines]
        self.checksums = [zlib.crc32(line) for line in lines]
        write_whole(self.path, b"".join(line + b"\n" for line in lines))
        self._file = self.path.open("a", buffering=1)
        self._writers = writers

    def __enter__(self) -> "RecordFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        # Each is closed, whatever happens to the others.
        with contextlib.ExitStack() as closing:
            closing.callback(self._file.close)
            for writer in self._writers:
                closing.callback(writer.close, failed=kind is not None)

    def _verified(self, checksums: Sequence[int], after_step: int) -> list[bytes]:
        """The lines with these checksums, in their order; if one is missing that is logged and the file kept aside."""
        found = _lines(self.path)
        by_checksum = {zlib.crc32(line): line for line in found}
        lines = [by_checksum[checksum] for checksum in checksums if checksum in by_checksum]
        if len(lines) < len(checksums):
            logger.warning(
                "%s lacks %d of its %d records up to step %d, or they are damaged. Learning curves and the metrics at "
                "the end go without them%s.",
                self.path, len(checksums) - len(lines), len(checksums), after_step, self._keep_aside(),
            )  # fmt: skip
        return lines

    def _keep_aside(self) -> str:
        """Copy the file as it is to damaged/, and say so in the words that a message ends in."""
        if not self.path.exists():
            return ""
        aside = self.path.parent / "damaged"
        aside.mkdir(exist_ok=True)
        copy = aside / f"{self.path.name}-{sum(1 for _ in aside.iterdir())}"
        write_whole(copy, self.path.read_bytes())
        return f"; the file as it was found is kept as {copy}"

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: it could not be written.
        """
        line = json.dumps(record)
        self.records.append(record)
        self.checksums.append(zlib.crc32(line.encode()))
        self._file.write(line + "\n")
        for writer in self._writers:
            writer.write(record)
