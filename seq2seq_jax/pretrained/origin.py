"""What a run keeps of the checkpoint that it was imported from, so that it is exported as it came.

`pretrained/` in the run's directory holds the files that are no weights unchanged, the tensors that are no parameters
of the model, and the names, dtypes and files of all tensors.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq_jax.files import write_whole
from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.safetensors_files import INDEX_FILE, NewTensor, StoredTensor, read_header, write_file
from seq2seq_jax.pretrained.transforms import ChosenRows

DIRECTORY = "pretrained"
TENSORS_FILE = "tensors.json"
KEPT_FILE = "kept.safetensors"
FILES = "files"
WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".pt", ".pth", ".onnx", ".gguf")
LARGEST_COPIED = 100 * 2**20
"""Bytes of a file that is kept beside the weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What was kept.

    Attributes:
        directory: of the run.
        tensors: name of each tensor in the files -> dtype, file, and `as`: the name that the table has for it; None
            for those that are no parameters.
        metadata: of the files.
        files: names of the files beside the weights.
        rows: id of the run -> id in the files, or -1 for one that stands for nothing; None = the same ids.
    """

    directory: Path
    tensors: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]
    files: tuple[str, ...]
    rows: tuple[int, ...] | None = None

    @property
    def config(self) -> Path:
        """Where its config.json lies."""
        return self.directory / DIRECTORY / FILES / "config.json"

    def kept(self) -> dict[str, StoredTensor]:
        """The tensors that are no parameters, and those of the vocabulary of which not all rows are."""
        path = self.directory / DIRECTORY / KEPT_FILE
        return read_header(path)[0] if path.is_file() else {}

    @classmethod
    def read(cls, directory: Path) -> "Origin | None":
        """What a run's directory keeps; None = it was not imported.

        Raises:
            ValueError: it is damaged.
        """
        path = directory / DIRECTORY / TENSORS_FILE
        if not path.is_file():
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                directory=directory,
                tensors=facts["tensors"],
                metadata=facts["metadata"],
                files=tuple(sorted(each.name for each in (directory / DIRECTORY / FILES).iterdir())),
                rows=None if facts.get("rows") is None else tuple(facts["rows"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}). Restore it, or import the model again.") from error


def keep(checkpoint: Checkpoint, directory: Path) -> None:
    """Write what `Origin.read` reads."""
    place = directory / DIRECTORY
    (place / FILES).mkdir(parents=True)
    for path in sorted(checkpoint.directory.iterdir()):
        is_small = path.is_file() and path.stat().st_size <= LARGEST_COPIED
        if is_small and path.suffix not in WEIGHTS and path.name != INDEX_FILE and not path.name.startswith("."):
            shutil.copyfile(path, place / FILES / path.name)
    own = {file: name for name, file in checkpoint.names.items()}
    same = {name: names[0] for names in checkpoint.tables.values() for name in names}
    tensors = {
        file: {
            "dtype": tensor.dtype,
            "file": tensor.path.name,
            "as": None if file in checkpoint.unused else same.get(own[file], own[file]),
        }
        for file, tensor in checkpoint.files.tensors.items()
    }
    facts = {"metadata": dict(checkpoint.files.metadata), "tensors": tensors}
    if checkpoint.rows is not None:
        facts["rows"] = list(checkpoint.rows)
    write_whole(place / TENSORS_FILE, json.dumps(facts, indent=1) + "\n")
    needed = {*checkpoint.unused}
    if checkpoint.rows is not None and len({*checkpoint.rows} - {-1}) < checkpoint.described.vocabulary_size:
        # Rows that the run does without go out again as they came.
        chosen = {name for name, each in checkpoint.places.items() if isinstance(each.entry.transform, ChosenRows)}
        needed |= {checkpoint.names[name] for name in chosen}
    kept = [
        NewTensor(name=name, dtype=tensor.dtype, shape=tensor.shape, values=tensor.open)
        for name, tensor in checkpoint.files.tensors.items()
        if name in needed
    ]
    if kept:
        write_file(place / KEPT_FILE, kept, metadata={})


def copy(old: Path, new: Path) -> None:
    """Take over what an imported run keeps to one that starts from it."""
    if (old / DIRECTORY).is_dir():
        shutil.copytree(old / DIRECTORY, new / DIRECTORY, dirs_exist_ok=True)
