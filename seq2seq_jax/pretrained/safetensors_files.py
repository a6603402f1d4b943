"""Tensors in safetensors files: found by the headers alone, read slice by slice, written whole or not at all.

A file is 8 bytes with the length of the header (little-endian), the header (JSON: name -> dtype, shape, offsets), and
the bytes of the tensors one after the other. Nothing in it is executed.
"""

import dataclasses
import json
import mmap
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes of parameters."""

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
LARGEST_HEADER = 100 * 2**20
"""Bytes; the limit of the format's own library."""
LARGEST_SHARD = 5 * 10**9
"""Bytes of a file that is written, at most, unless one tensor is larger."""
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "tf_model.h5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        path: of its file.
        dtype: its name in the header.
        start: of its first byte in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize

    def open(self) -> np.ndarray:
        """A read-only view of the file, of which only the bytes that are used are read. They count as memory of this
        process until the view is dropped. `will_need` reads ahead; the system does not do so by itself.
        """
        dtype = DTYPES[self.dtype]
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        start = self.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), self.start + self.nbytes - start, offset=start, access=mmap.ACCESS_READ)
        if CAN_ADVISE:
            # Otherwise megabytes behind each row that is used may be read as well.
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, np.uint8, self.nbytes, self.start - start).view(dtype).reshape(self.shape)


CAN_ADVISE = hasattr(mmap, "MADV_RANDOM") and hasattr(mmap, "MADV_WILLNEED")
"""Whether the system takes advice on what of a file will be read."""


def will_need(view: np.ndarray) -> None:
    """Have the system read what lies between the first and the last byte of a view of `StoredTensor.open`."""
    owner: Any = view
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not CAN_ADVISE or not isinstance(owner, mmap.mmap) or view.size == 0:
        return
    low, high = np.lib.array_utils.byte_bounds(view)
    first = np.frombuffer(owner, np.uint8).ctypes.data
    start = (low - first) // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(mmap.MADV_WILLNEED, start, high - first - start)


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata.

    Raises:
        ValueError: it is no safetensors file, was cut off, or has a dtype that is not known.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else LARGEST_HEADER + 1
        if length > min(LARGEST_HEADER, size - 8):
            raise ValueError(f"{path} is not a whole safetensors file: its header is cut off. Copy it again.")
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            found = {}
            for name, facts in header.items():
                start, end = facts["data_offsets"]
                if facts["dtype"] not in DTYPES:
                    raise ValueError(
                        f"{path}: tensor {name} has dtype {facts['dtype']}; expected one of {', '.join(DTYPES)}. "
                        "Convert it."
                    )
                tensor = StoredTensor(
                    path=path, dtype=facts["dtype"], shape=tuple(facts["shape"]), start=8 + length + start
                )
                if tensor.nbytes != end - start:
                    raise ValueError(
                        f"{path}: tensor {name}, {tensor.dtype} {list(tensor.shape)}, has {end - start} bytes instead "
                        f"of {tensor.nbytes}. Copy the file again."
                    )
                if tensor.start + tensor.nbytes > size:
                    raise ValueError(
                        f"{path} was cut off: tensor {name} ends at byte {tensor.start + tensor.nbytes:,}, and the "
                        f"file has {size:,}. Copy it again."
                    )
                found[name] = tensor
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header cannot be read. Copy it again.") from error
    return found, metadata


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorFiles:
    """The tensors of a directory, which may lie in several files.

    Attributes:
        tensors: by name, in the order of the files.
        files: names of the files.
        metadata: of the first file.
        index_metadata: of the index of several files; None = there is one file.
    """

    tensors: Mapping[str, StoredTensor]
    files: tuple[str, ...]
    metadata: Mapping[str, str]
    index_metadata: Mapping[str, Any] | None

    @classmethod
    def open(cls, directory: Path) -> "TensorFiles":
        """Read the headers.

        Raises:
            ValueError: there are no safetensors files, one of them is missing or damaged, or the index does not fit.
        """
        index = directory / INDEX_FILE
        if (directory / SINGLE_FILE).is_file() or not index.is_file():
            names, index_metadata, placed = [SINGLE_FILE], None, None
        else:
            try:
                facts = json.loads(index.read_text(encoding="utf-8"))
                placed, index_metadata = dict(facts["weight_map"]), facts.get("metadata", {})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{index} cannot be read: expected JSON with a weight_map. Copy it again.") from error
            names = sorted(set(placed.values()))
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for name in names:
            path = directory / name
            if not path.is_file():
                raise ValueError(_describe_missing(directory, name, is_indexed=placed is not None))
            found, of_file = read_header(path)
            doubled = sorted(found.keys() & tensors.keys())
            if doubled:
                raise ValueError(
                    f"{directory} has {describe_names(doubled)} in two files, {tensors[doubled[0]].path.name} "
                    f"and {name}. Leave one out."
                )
            tensors |= found
            metadata = metadata or of_file
        if placed is not None:
            wrong = [name for name, file in placed.items() if name not in tensors or tensors[name].path.name != file]
            wrong += [name for name in tensors if name not in placed]
            if wrong:
                raise ValueError(
                    f"{index} and the files do not fit: {describe_names(wrong)} is not where the index says. Copy "
                    "all again."
                )
        return cls(tensors=tensors, files=tuple(names), metadata=metadata, index_metadata=index_metadata)


def _describe_missing(directory: Path, name: str, *, is_indexed: bool) -> str:
    if is_indexed:
        return f"{directory / INDEX_FILE} names {name}, and there is no such file in {directory}. Copy it, too."
    pickles = [pickle for pickle in PICKLES if (directory / pickle).is_file()]
    pickles += sorted(path.name for path in directory.glob("*.bin"))
    if pickles:
        return (
            f"{directory} has {pickles[0]} and no {SINGLE_FILE}: such files run code when they are read. Convert it "
            'where it came from: python -c "from transformers import AutoModelForSeq2SeqLM as Auto; '
            "Auto.from_pretrained('DIR').save_pretrained('NEW')\" (AutoModelForCausalLM for a decoder alone, AutoModel "
            "for an encoder), and copy the tokenizer's files; or take the safetensors version of the model."
        )
    return f"{directory} has no {SINGLE_FILE} and no {INDEX_FILE}. Give the directory of a model in safetensors files."


def describe_names(names: Sequence[str]) -> str:
    """Up to five names, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to be written.

    Attributes:
        dtype: its name in the header.
        values: gives the array when its turn has come.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize


def write_file(path: Path, tensors: Iterable[NewTensor], *, metadata: Mapping[str, str]) -> None:
    """Write a file, one tensor after the other."""
    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for tensor in tensors:
        end = start + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.values(), DTYPES[tensor.dtype])
            assert values.shape == tensor.shape, (tensor.name, values.shape, tensor.shape)
            file.write(values.reshape(-1).view(np.uint8).data)


def write_files(
    directory: Path,
    tensors: Sequence[NewTensor],
    *,
    metadata: Mapping[str, str],
    largest: int = LARGEST_SHARD,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to model.safetensors, or to several files with an index if they are larger than `largest` bytes.

    Args:
        files: name of each tensor's file, where it is given; None = as many tensors to a file as fit.
    """
    if files is not None:
        shards = [
            [tensor for tensor in tensors if files[tensor.name] == name] for name in dict.fromkeys(files.values())
        ]
        names = list(dict.fromkeys(files.values()))
    else:
        shards, size = [[]], 0
        for tensor in tensors:
            if shards[-1] and size + tensor.nbytes > largest:
                shards.append([])
                size = 0
            shards[-1].append(tensor)
            size += tensor.nbytes
        count = len(shards)
        names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        names = [SINGLE_FILE] if count == 1 else names
    for name, shard in zip(names, shards, strict=True):
        write_file(directory / name, shard, metadata=metadata)
    if names != [SINGLE_FILE]:
        placed = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)}, "weight_map": placed}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
