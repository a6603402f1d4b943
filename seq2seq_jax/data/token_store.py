"""A split as token ids on disk: encoded once, memory-mapped by every later run and process."""

import hashlib
import itertools
import json
import logging
import os
import pathlib
import secrets
import shutil
import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt

from seq2seq_jax.data.source import Corpus
from seq2seq_jax.data.tokenizer import Tokenizer

FORMAT_VERSION = 1
CHUNK_PAIRS = 8192
HEADER_FILE = "header.json"
SIDES = ("source", "target")

logger = logging.getLogger(__name__)


class DamagedStoreError(Exception):
    """The files of a token store are not what its header says."""


class TokenStore:
    """The examples of one split, in the corpus' order; example i is `source(i)` and `target(i)`, each ending in the
    end id.

    A store pickles as its path, so that a worker process maps the same files.

    Attributes:
        directory: where its files are.
        key: digest of all that decides the content: the text, the split, the tokenizer and the format.
        source_lengths: tokens of each source, end mark included.
        target_lengths: tokens of each target, end mark included.
        source_tokens, target_tokens: all examples' ids behind each other.
        source_offsets, target_offsets: where each example begins, and the end of the last.
    """

    source_lengths: Int[np.ndarray, " examples"]
    target_lengths: Int[np.ndarray, " examples"]
    source_tokens: UInt[np.ndarray, " source_tokens"]
    target_tokens: UInt[np.ndarray, " target_tokens"]
    source_offsets: Int[np.ndarray, " examples_and_end"]
    target_offsets: Int[np.ndarray, " examples_and_end"]

    def __init__(self, directory: str | os.PathLike):
        """Map the store that `open_or_build` made in a directory.

        Raises:
            DamagedStoreError: a file is missing, cut short or altered.
        """
        self.directory = pathlib.Path(directory)
        header = _read_header(self.directory)
        self.key = header["key"]
        for side in SIDES:
            tokens = self._map(side, "tokens", header)
            offsets = self._map(side, "offsets", header)
            # Every length comes from the offsets, so they are checked byte by byte; the tokens by their size alone,
            # because they can be larger than memory.
            if zlib.crc32(offsets) != header["files"][f"{side}.offsets"]["crc32"] or offsets[-1] != len(tokens):
                raise DamagedStoreError(f"{self.directory}: {side}.offsets is not what was written")
            setattr(self, f"{side}_tokens", tokens)
            setattr(self, f"{side}_offsets", offsets)
            setattr(self, f"{side}_lengths", np.diff(offsets).astype(np.int32))

    def _map(self, side: str, name: str, header: dict) -> np.ndarray:
        path = self.directory / f"{side}.{name}"
        entry = header["files"][path.name]
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        if not path.is_file() or path.stat().st_size != entry["length"] * dtype.itemsize:
            raise DamagedStoreError(f"{path} does not have {entry['length']} values of {dtype.itemsize} bytes")
        return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)

    @classmethod
    def open_or_build(
        cls,
        directory: str | os.PathLike,
        corpus: Corpus,
        split: str,
        tokenizer: Tokenizer,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> "TokenStore":
        """The store of a split below `directory`; encoded now if it is not there whole.

        Safe with several processes: each builds under a name of its own, and the first to finish is kept.

        Args:
            progress: called with (pairs encoded, pairs in all) after every chunk; not called for a store that is
                there already.

        Raises:
            ValueError: there is no such split, or it is empty.
        """
        facts = [corpus.fingerprint, split, tokenizer.fingerprint, FORMAT_VERSION]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        root = pathlib.Path(directory).expanduser()
        path = root / key
        if (store := _open_whole(path)) is not None:
            return store
        unfinished = root / f"{key}.unfinished.{secrets.token_hex(8)}"
        unfinished.mkdir(parents=True)
        try:
            _build(unfinished, corpus, split, tokenizer, key, progress)
            if _open_whole(path) is None:
                shutil.rmtree(path, ignore_errors=True)
                unfinished.rename(path)
        except OSError:
            # Between the look and the rename another process may have put its own copy there.
            if _open_whole(path) is None:
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return cls(path)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def __reduce__(self):
        return TokenStore, (self.directory,)

    def source(self, index: int | np.integer) -> UInt[np.ndarray, " length"]:
        """Source ids of an example, ending in the end id."""
        return self.source_tokens[self.source_offsets[index] : self.source_offsets[index + 1]]

    def target(self, index: int | np.integer) -> UInt[np.ndarray, " length"]:
        """Target ids of an example, ending in the end id."""
        return self.target_tokens[self.target_offsets[index] : self.target_offsets[index + 1]]


def _open_whole(path: pathlib.Path) -> TokenStore | None:
    if not path.exists():
        return None
    try:
        return TokenStore(path)
    except DamagedStoreError as error:
        logger.warning("encoding a split again, its token store is damaged: %s", error)
        return None


def _header_digest(header: dict) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _read_header(directory: pathlib.Path) -> dict:
    try:
        stored = json.loads((directory / HEADER_FILE).read_text())
        header, digest = stored["header"], stored["sha256"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedStoreError(f"{directory / HEADER_FILE} cannot be read") from error
    if _header_digest(header) != digest:
        raise DamagedStoreError(f"{directory / HEADER_FILE} is not what was written")
    return header


def _build(
    path: pathlib.Path,
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    vocabulary = tokenizer.vocabulary
    sizes = {"source": vocabulary.source_size, "target": vocabulary.target_size}
    encoders = {"source": tokenizer.encode_source, "target": tokenizer.encode_target}
    dtypes = {side: np.dtype("<u2" if sizes[side] <= 2**16 else "<u4") for side in SIDES}
    lengths = {side: [] for side in SIDES}
    pairs = corpus.pairs(split)
    num_done = 0
    with open(path / "source.tokens", "wb") as source_file, open(path / "target.tokens", "wb") as target_file:
        files = {"source": source_file, "target": target_file}
        while chunk := list(itertools.islice(pairs, CHUNK_PAIRS)):
            for side, texts in zip(SIDES, zip(*chunk, strict=True), strict=True):
                encoded = encoders[side](list(texts))
                files[side].write(np.array(list(itertools.chain.from_iterable(encoded)), dtypes[side]))
                lengths[side].append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            num_done += len(chunk)
            if progress is not None:
                progress(num_done, corpus.splits[split])
    if not num_done:
        raise ValueError(f"the split {split!r} has no pairs: expected at least one, check the source's files")
    files = {}
    for side in SIDES:
        offsets = np.concatenate([np.zeros(1, "<i8"), np.cumsum(np.concatenate(lengths[side]))]).astype("<i8")
        offsets.tofile(path / f"{side}.offsets")
        files[f"{side}.offsets"] = {"dtype": "int64", "length": len(offsets), "crc32": zlib.crc32(offsets)}
        files[f"{side}.tokens"] = {"dtype": dtypes[side].name, "length": int(offsets[-1])}
    header = {"format": FORMAT_VERSION, "key": key, "split": split, "examples": num_done, "files": files}
    stored = {"header": header, "sha256": _header_digest(header)}
    (path / HEADER_FILE).write_text(json.dumps(stored, indent=1))
    logger.info(
        "encoded %d pairs of the split %s: %d source and %d target tokens",
        num_done, split, files["source.tokens"]["length"], files["target.tokens"]["length"],
    )  # fmt: skip
