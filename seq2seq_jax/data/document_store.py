"""A split of documents as token ids on disk: encoded once, memory-mapped by every later run and process."""

import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt

from seq2seq_jax.data.source import DocumentCorpus
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
DOCUMENTS_AT_ONCE = 2048
TOKENS_FILE = "tokens"

logger = logging.getLogger(__name__)


class DocumentStore:
    """The documents of one split, in the corpus' order, one after the other without a mark between them.

    A store pickles as its path, so that a worker process maps the same file.

    Attributes:
        directory: where its files are.
        key: digest of all that decides the content: the text, the split, the tokenizer and the format.
        tokens: all documents' ids.
    """

    tokens: UInt[np.ndarray, " tokens"]

    def __init__(self, directory: str | os.PathLike, *, verify: Verification = "always"):
        """Map the store that `open_or_build` made in a directory.

        Raises:
            DamagedStoreError: a file is missing, cut short or altered.
        """
        self.directory = pathlib.Path(directory)
        header = read_header(self.directory, verify=verify)
        self.key = header["key"]
        self.tokens = map_array(self.directory, TOKENS_FILE, header)
        self._num_documents = header["documents"]

    @classmethod
    def open_or_build(
        cls,
        directory: str | os.PathLike,
        corpus: DocumentCorpus,
        split: str,
        tokenizer: Tokenizer,
        *,
        verify: Verification = "always",
        found_in: pathlib.Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "DocumentStore":
        """The store of a split below `directory`; encoded now if it is not there complete, in memory of a fixed size.

        Safe with several processes: each builds under a name of its own, and the first to finish is kept.

        Args:
            verify: when the files are compared with their digests.
            found_in: see `store_files.open_or_build`.
            progress: called with (documents encoded, documents in all) now and then; not called for a store that is
                there already.

        Raises:
            ValueError: there is no such split, or no text in it.
        """
        key = digest("documents", corpus.split_fingerprint(split), split, tokenizer.fingerprint, FORMAT_VERSION)
        return open_or_build(
            functools.partial(cls, verify=verify),
            unicode_path(directory),
            key,
            lambda path: _build(path, corpus, split, tokenizer, key, progress),
            found_in=found_in,
        )

    def __len__(self) -> int:
        """Number of documents."""
        return self._num_documents

    def __reduce__(self):
        return _open_again, (self.directory,)


def _open_again(directory: pathlib.Path) -> DocumentStore:
    """The store in a worker, whose parent has verified it."""
    return DocumentStore(directory, verify="never")


def _build(
    path: pathlib.Path,
    corpus: DocumentCorpus,
    split: str,
    tokenizer: Tokenizer,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    dtype = token_dtype(tokenizer.vocabulary.source_size)
    documents = corpus.documents(split)
    num_documents = num_tokens = 0
    with open(path / TOKENS_FILE, "wb") as file:
        while texts := list(itertools.islice(documents, DOCUMENTS_AT_ONCE)):
            encoded = tokenizer.encode_documents(texts)
            tokens = np.fromiter(itertools.chain.from_iterable(encoded), dtype, sum(map(len, encoded)))
            file.write(tokens)
            num_tokens += len(tokens)
            num_documents += len(texts)
            if progress is not None:
                progress(num_documents, corpus.splits[split])
    if not num_tokens:
        raise ValueError(f"the split {split!r} has no text: expected some, check the source's files")
    dtypes = {TOKENS_FILE: dtype.name}
    write_header(
        path, {"format": FORMAT_VERSION, "key": key, "split": split, "documents": num_documents, "dtypes": dtypes}
    )
    logger.info("encoded %d documents of the split %s: %d tokens", num_documents, split, num_tokens)
