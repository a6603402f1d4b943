"""Batches stay, bit for bit, what they were when they were recorded: packed, bucketed, cut, denoised, shared.

After a change that is meant to change batches, and says why: python tests/data/test_recorded_batches.py records anew.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.pipeline import evaluation_batches, training_batches
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import DocumentFiles, ParallelText
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.experiment import default_task
from seq2seq_jax.tasks.denoising import Denoising

RECORDED = Path(__file__).with_suffix(".json")
EOS_ID, SENTINELS, FIRST_BYTE = 3, tuple(range(4, 44)), 44
VOCABULARY = Vocabulary(
    source_size=300, target_size=300, joint=True, pad_id=0, bos_id=2, eos_id=EOS_ID, sentinel_ids=SENTINELS
)


class Bytes(Tokenizer):
    """A token per byte; no library decides what they are."""

    vocabulary = VOCABULARY
    fingerprint = "bytes"

    def __init__(self):
        pass

    def encode_documents(self, texts):
        return [[FIRST_BYTE + byte for byte in text.encode()] for text in texts]

    def encode_source(self, texts):
        return [[*ids, EOS_ID] for ids in self.encode_documents(texts)]

    encode_target = encode_source


def write_text(directory):
    rng = random.Random(0)
    words = "ein eine der die das Hund Katze läuft sieht über grün".split()
    for split, size in (("train", 900), ("val", 70)):
        lines = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(2 * size)]
        for extension, chosen in (("en", lines[:size]), ("de", lines[size:])):
            (directory / f"{split}.{extension}").write_text("\n".join(chosen) + "\n", encoding="utf-8")
        rows = [{"a": source, "b": target} for source, target in zip(lines[:size], lines[size:], strict=True)]
        (directory / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def cases(directory):
    """Data sources by name, with the target tokens of a batch."""
    places = {"directory": str(directory), "cache_directory": str(directory / "cache")}
    text = {"source": "en", "target": "de", "test": None, "max_source_length": 64, "max_target_length": 48} | places
    table = {"source": "a", "target": "b", "train": "train.jsonl", "validation": "val.jsonl", "test": None} | places
    documents = {"train": ("train.en", "train.de"), "validation": ("val.en",), "test": None} | places
    dates = {"train_examples": 800, "validation_examples": 60, "test_examples": 1, "window": 300}
    return {
        "packed": (ParallelText(**text, window=400), 8 * 48),
        "packed_two_per_row_truncated": (
            ParallelText(**text, window=400, max_examples_per_row=2, too_long="truncate"), 8 * 48,
        ),
        "bucketed": (ParallelText(**text, window=400, packing=False), 8 * 48),
        "bucketed_truncated": (
            ParallelText(**text, packing=False, bucket_lengths=(20, 64), too_long="truncate"), 8 * 48,
        ),
        "table": (Table(**table, max_source_length=100, max_target_length=100), 4 * 100),
        "dates": (Dates(**dates, cache_directory=places["cache_directory"], packing=False), 8 * 128),
        "denoising": (
            DocumentFiles(**documents, max_source_length=100),
            8 * Denoising().row_lengths(DocumentFiles(**documents, max_source_length=100))[1],
        ),
    }  # fmt: skip


def digest(batches):
    hashed = hashlib.sha256()
    for batch in batches:
        for leaf in jax.tree.leaves(batch):
            hashed.update(f"{leaf.dtype} {leaf.shape}\n".encode())
            hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()


def digests(directory, name):
    """Of the batches of several epochs, of those from the middle of a run, of a process's share, of an evaluation."""
    data, target_tokens = cases(directory)[name]
    corpus, tokenizer = data.open(("train", "validation")), Bytes()
    task = default_task(data)
    batch_format, columns = task.batch_format(data), task.columns(data)
    stores = {
        split: Store.open_or_build(directory / "stores", corpus, split, columns, tokenizer)
        for split in ("train", "validation")
    }

    def training(first=0, number=150, **share):
        batches = training_batches(
            stores["train"], batch_format, vocabulary=VOCABULARY, target_tokens_per_batch=target_tokens, seed=5,
            first_batch=first, num_batches=number, **share,
        )  # fmt: skip
        return digest(batches)

    def evaluation(**share):
        batches = evaluation_batches(
            stores["validation"], batch_format, vocabulary=VOCABULARY, target_tokens_per_batch=target_tokens, **share
        )
        hashed = hashlib.sha256()
        for batch, examples in batches:
            hashed.update(f"{digest([batch])} {examples.tolist()}\n".encode())
        return hashed.hexdigest()

    second = {"process_index": 1, "process_count": 2}
    return {
        "training": training(),
        "training from 97": training(97, 20),
        "training, second of two processes": training(**second),
        "evaluation": evaluation(),
        "evaluation, second of two processes": evaluation(**second),
    }


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    write_text(directory)
    return directory


@pytest.mark.parametrize("name", list(cases(Path())))
def test_batches_are_what_they_were(text, name):
    assert digests(text, name) == json.loads(RECORDED.read_text())[name]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        write_text(Path(place))
        found = {name: digests(Path(place), name) for name in cases(Path(place))}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{RECORDED}\n")
