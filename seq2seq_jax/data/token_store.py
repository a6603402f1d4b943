"""A split as token ids on disk: encoded once, memory-mapped by every later run and process."""

import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt

from seq2seq_jax.data.source import PairCorpus
from seq2seq_jax.data.store_files import (
    Verification,
    digest,
    map_array,
    open_or_build,
    read_header,
    token_dtype,
    write_header,
)
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.paths import unicode_path

FORMAT_VERSION = 2
CHUNK_PAIRS = 8192
SIDES = ("source", "target")

logger = logging.getLogger(__name__)


class TokenStore:
    """The examples of one split, in the corpus' order; example i is `source(i)` and `target(i)`, each ending in the
    EOS token.

    A store pickles as its path, so that a worker process maps the same files.

    Attributes:
        directory: where its files are.
        key: digest of all that decides the content: the text, the split, the tokenizer and the format.
        source_lengths: tokens of each source, EOS token included.
        target_lengths: tokens of each target, EOS token included.
        source_tokens, target_tokens: all examples' ids behind each other.
        source_offsets, target_offsets: where each example begins, and the end of the last.
    """

    source_lengths: Int[np.ndarray, " examples"]
    target_lengths: Int[np.ndarray, " examples"]
    source_tokens: UInt[np.ndarray, " source_tokens"]
    target_tokens: UInt[np.ndarray, " target_tokens"]
    source_offsets: Int[np.ndarray, " examples_and_end"]
    target_offsets: Int[np.ndarray, " examples_and_end"]

    def __init__(self, directory: str | os.PathLike, *, verify: Verification = "always"):
        """Map the store that `open_or_build` made in a directory.

        Raises:
            DamagedStoreError: a file is missing, cut short or altered.
        """
        self.directory = pathlib.Path(directory)
        header = read_header(self.directory, verify=verify)
        self.key = header["key"]
        for side in SIDES:
            offsets = map_array(self.directory, f"{side}.offsets", header)
            setattr(self, f"{side}_tokens", map_array(self.directory, f"{side}.tokens", header))
            setattr(self, f"{side}_offsets", offsets)
            setattr(self, f"{side}_lengths", np.diff(offsets).astype(np.int32))

    @classmethod
    def open_or_build(
        cls,
        directory: str | os.PathLike,
        corpus: PairCorpus,
        split: str,
        tokenizer: Tokenizer,
        *,
        verify: Verification = "always",
        found_in: pathlib.Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "TokenStore":
        """The store of a split below `directory`; encoded now if it is not there complete.

        Safe with several processes: each builds under a name of its own, and the first to finish is kept.

        Args:
            verify: when the files are compared with their digests.
            found_in: see `store_files.open_or_build`.
            progress: called with (pairs encoded, pairs in all) after every chunk; not called for a store that is
                there already.

        Raises:
            ValueError: there is no such split, or it is empty.
        """
        key = digest(corpus.split_fingerprint(split), split, tokenizer.fingerprint, FORMAT_VERSION)
        return open_or_build(
            functools.partial(cls, verify=verify),
            unicode_path(directory),
            key,
            lambda path: _build(path, corpus, split, tokenizer, key, progress),
            found_in=found_in,
        )

    def __len__(self) -> int:
        return len(self.source_lengths)

    def __reduce__(self):
        return _open_again, (self.directory,)

    def source(self, index: int | np.integer) -> UInt[np.ndarray, " length"]:
        """Source ids of an example, ending in the EOS token."""
        return self.source_tokens[self.source_offsets[index] : self.source_offsets[index + 1]]

    def target(self, index: int | np.integer) -> UInt[np.ndarray, " length"]:
        """Target ids of an example, ending in the EOS token."""
        return self.target_tokens[self.target_offsets[index] : self.target_offsets[index + 1]]


def _open_again(directory: pathlib.Path) -> TokenStore:
    """The store in a worker, whose parent has verified it."""
    return TokenStore(directory, verify="never")


def _build(
    path: pathlib.Path,
    corpus: PairCorpus,
    split: str,
    tokenizer: Tokenizer,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    vocabulary = tokenizer.vocabulary
    sizes = {"source": vocabulary.source_size, "target": vocabulary.target_size}
    encoders = {"source": tokenizer.encode_source, "target": tokenizer.encode_target}
    dtypes = {side: token_dtype(sizes[side]) for side in SIDES}
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
    dtype_of = {f"{side}.tokens": dtypes[side].name for side in SIDES}
    num_tokens = {}
    for side in SIDES:
        offsets = np.concatenate([np.zeros(1, "<i8"), np.cumsum(np.concatenate(lengths[side]))]).astype("<i8")
        offsets.tofile(path / f"{side}.offsets")
        dtype_of[f"{side}.offsets"] = "int64"
        num_tokens[side] = int(offsets[-1])
    write_header(path, {"format": FORMAT_VERSION, "key": key, "split": split, "examples": num_done, "dtypes": dtype_of})
    logger.info(
        "encoded %d pairs of the split %s: %d source and %d target tokens",
        num_done, split, num_tokens["source"], num_tokens["target"],
    )  # fmt: skip
