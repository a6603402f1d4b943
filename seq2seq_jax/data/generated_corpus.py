"""A directory in which a corpus is made shard by shard, by one process or several, each shard complete or absent."""

import gzip
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seq2seq_jax.files import UNFINISHED, write_whole

CORPUS = "corpus.jsonl.gz"
"""The finished corpus: JSON lines, which `data.tables.Table` reads."""
DESCRIPTION = "corpus.json"
SHARDS = "shards"


class GeneratedCorpus:
    """Shards of JSON lines, which become one file when all of them are there.

    Whoever makes a shard writes it under another name first, so that processes need no lock: two that make the same
    one write the same bytes, and what was complete when a process was killed is not made again.

    Attributes:
        directory: that holds all of it.
        num_shards: number of shards.
    """

    def __init__(self, directory: Path, description: Mapping[str, Any], *, num_shards: int):
        """Begin a corpus, or go on with one.

        Args:
            description: JSON values that say what is made of what, the same for every process and every continuation.

        Raises:
            ValueError: the directory holds a corpus of another description.
        """
        self.directory = directory
        self.num_shards = num_shards
        path = directory / DESCRIPTION
        # As it will be read.
        own = json.loads(json.dumps(description))
        if path.exists():
            _check_same(own, json.loads(path.read_text(encoding="utf-8")), directory)
        elif directory.exists() and any(directory.iterdir()):
            raise ValueError(
                f"expected an empty directory, or one with a corpus to go on with; {directory} holds other files: name "
                "another"
            )
        (directory / SHARDS).mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(own, indent=2, ensure_ascii=False) + "\n")

    @property
    def path(self) -> Path:
        """Of the finished corpus."""
        return self.directory / CORPUS

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.path.exists()

    def has(self, shard: int) -> bool:
        """Whether a shard is complete."""
        return self._path(shard).exists() or self.is_finished

    def missing(self) -> int:
        """How many shards are not complete."""
        return sum(not self.has(shard) for shard in range(self.num_shards))

    def write(self, shard: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a shard: all of it, or after a failure nothing.

        Args:
            records: what its lines hold, as JSON values.

        Raises:
            OSError: it cannot be written.
        """
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        # Without a time, the same shard has the same bytes.
        write_whole(self._path(shard), gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0))

    def finish(self) -> bool:
        """Join the shards to one file if all of them are there, and remove them.

        Returns:
            Whether the corpus is finished.

        Raises:
            OSError: it cannot be written; the shards stay.
        """
        if not self.is_finished:
            if self.missing():
                return False
            # Whatever other process joins them at the same time writes the same bytes under another name.
            unfinished = self.directory / f".{CORPUS}.{secrets.token_hex(8)}{UNFINISHED}"
            try:
                with open(unfinished, "xb") as joined:
                    for shard in range(self.num_shards):
                        with open(self._path(shard), "rb") as file:
                            shutil.copyfileobj(file, joined)
                    joined.flush()
                    os.fsync(joined.fileno())
                unfinished.replace(self.path)
            except FileNotFoundError:
                # Another process was first, and has removed shards.
                if not self.is_finished:
                    raise
            finally:
                unfinished.unlink(missing_ok=True)
        shutil.rmtree(self.directory / SHARDS, ignore_errors=True)
        return True

    def _path(self, shard: int) -> Path:
        return self.directory / SHARDS / f"{shard:06d}.jsonl.gz"


def _check_same(own: Mapping[str, Any], there: Mapping[str, Any], directory: Path) -> None:
    """Raises: ValueError: they differ, with the first key that does."""
    for key in dict.fromkeys([*own, *there]):
        if own.get(key) != there.get(key):
            raise ValueError(
                f"{directory} holds another corpus: its {key} is {_short(there.get(key))}, and here it would be "
                f"{_short(own.get(key))}. Go on with the command that began it, or name another directory."
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
