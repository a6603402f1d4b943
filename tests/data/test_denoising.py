"""Documents to batches of source and target: chunks, epochs, shares, workers, and what a config may not say."""

import hashlib
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data import store as store_module
from seq2seq_jax.data.batch_format import row_shapes
from seq2seq_jax.data.pipeline import evaluation_batches, training_batches
from seq2seq_jax.data.source import Corpus, DocumentSource
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.store_files import DamagedStoreError
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.data.transforms.span_corruption import SpanCorruption
from seq2seq_jax.tasks.denoising import Denoising

REPOSITORY = pathlib.Path(__file__).parents[2]
PADDING, START, END = 0, 2, 3
SENTINELS = tuple(range(4, 12))
VOCABULARY = Vocabulary(
    source_size=60_000,
    target_size=60_000,
    joint=True,
    pad_id=PADDING,
    bos_id=START,
    eos_id=END,
    sentinel_ids=SENTINELS,
)
NUM_TOKENS = 1_000
CHUNK = 34
NUM_CHUNKS = 30
"""The last of 14 tokens."""


class FakeDocuments(Corpus):
    """Documents of 1, 2, ... tokens, in all the numbers from 100 on, so that each token tells its place."""

    columns = ("text",)

    def __init__(self, num_tokens=NUM_TOKENS):
        self.num_reads = 0
        numbers = list(map(str, range(100, 100 + num_tokens)))
        self._documents = []
        while numbers:
            length = len(self._documents) + 1
            self._documents.append(" ".join(numbers[:length]))
            numbers = numbers[length:]

    @property
    def fingerprint(self):
        return hashlib.sha256(repr(self._documents).encode()).hexdigest()

    @property
    def splits(self):
        return {"train": len(self._documents)}

    def examples(self, split):
        self.num_reads += 1
        return ((document,) for document in self._documents)


class FakeTokenizer(Tokenizer):
    vocabulary = VOCABULARY
    fingerprint = "ids"

    def __init__(self):
        pass

    def encode_documents(self, texts):
        return [list(map(int, text.split())) for text in texts]


class Source(DocumentSource):
    def open(self):
        raise NotImplementedError


COLUMNS = Denoising().columns(Source(max_source_length=32))


def make_store(directory, num_tokens=NUM_TOKENS):
    return Store.open_or_build(directory, FakeDocuments(num_tokens), "train", COLUMNS, FakeTokenizer())


def source_config(max_source_length=32, **task):
    return Denoising(**task).batch_format(Source(max_source_length=max_source_length))


def some_batches(store, config, *, rows=4, first_batch=0, num_batches=40, seed=3, **settings):
    batches = training_batches(
        store, config, vocabulary=VOCABULARY, target_tokens_per_batch=rows * config.max_target_length, seed=seed,
        first_batch=first_batch, num_batches=num_batches, **settings,
    )  # fmt: skip
    return list(batches)


def same(batch, other):
    return all(map(np.array_equal, jax.tree.leaves(batch), jax.tree.leaves(other)))


def texts(batch):
    """The chunk of each row, put together from its source and target."""
    found = []
    for source, target, source_mask, target_mask in zip(
        batch.source.tokens, batch.target.tokens, batch.source.mask, batch.target.mask, strict=True
    ):
        source, target = source[source_mask].tolist(), target[target_mask].tolist()
        assert source[-1] == target[-1] == END
        spans, last = {}, None
        for token in target[:-1]:
            if token in SENTINELS:
                last = spans.setdefault(token, [])
            else:
                last.append(token)
        assert list(spans) == list(SENTINELS[: len(spans)])
        found.append([piece for token in source[:-1] for piece in spans.get(token, [token])])
    return found


def chunk_of(text):
    """Which chunk a text is; it must be the whole chunk."""
    chunk, rest = divmod(text[0] - 100, CHUNK)
    assert rest == 0
    begin = chunk * CHUNK + 100
    assert text == list(range(begin, min(begin + CHUNK, 100 + NUM_TOKENS)))
    return chunk


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores"))


def test_a_row_has_the_lengths_of_t5():
    task, data = Denoising(), Source()
    assert (task.chunk_length(data), *task.row_lengths(data)) == (568, 512, 114)
    assert task.num_sentinels(data) == 28 and task.has_unpacked_rows(data)
    (shape,) = row_shapes(task.batch_format(data), 2048 * 114)
    assert (shape.rows, shape.source_length, shape.target_length) == (2048, 512, 114)


def test_documents_stand_one_after_the_other_and_are_encoded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "EXAMPLES_AT_ONCE", 7)
    corpus, calls = FakeDocuments(), []
    store = Store.open_or_build(
        tmp_path, corpus, "train", COLUMNS, FakeTokenizer(), progress=lambda *done: calls.append(done)
    )
    assert store.columns["text"].values.dtype == np.uint16
    assert store.columns["text"].values.tolist() == list(range(100, 100 + NUM_TOKENS))
    assert len(store) == 45 and calls[:2] == [(7, 45), (14, 45)] and calls[-1] == (45, 45)
    again = Store.open_or_build(tmp_path, corpus, "train", COLUMNS, FakeTokenizer())
    assert again.key == store.key and corpus.num_reads == 1
    (tmp_path / store.key / "text.values").write_bytes(b"short")
    with pytest.raises(DamagedStoreError, match="5 bytes instead of 2000"):
        Store(tmp_path / store.key)
    assert (
        len(Store.open_or_build(tmp_path, corpus, "train", COLUMNS, FakeTokenizer()).columns["text"].values)
        == NUM_TOKENS
    )
    assert corpus.num_reads == 2


def test_a_split_without_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no examples"):
        make_store(tmp_path, num_tokens=0)
    assert not list(tmp_path.iterdir())


def test_every_epoch_has_every_chunk_once_in_another_order_and_corrupted_otherwise(store):
    config = source_config()
    assert config.columns["text"].max_length == CHUNK
    batches = some_batches(store, config, rows=5, num_batches=2 * NUM_CHUNKS // 5)
    chunks = [chunk_of(text) for batch in batches for text in texts(batch)]
    first, second = chunks[:NUM_CHUNKS], chunks[NUM_CHUNKS:]
    assert sorted(first) == sorted(second) == list(range(NUM_CHUNKS))
    assert first != second and first != sorted(first)
    targets = np.concatenate([batch.target.tokens for batch in batches])
    as_first, as_second = np.argsort(first), NUM_CHUNKS + np.argsort(second)
    # A chunk has 4 x 28 masks, and the short last one has one.
    assert (targets[as_first] != targets[as_second]).any(axis=1).mean() > 0.8


def test_rows_are_full_but_for_the_last_chunk(store):
    batches = some_batches(store, source_config(), rows=NUM_CHUNKS, num_batches=1)
    (batch,) = batches
    short = [text[0] - 100 == CHUNK * (NUM_CHUNKS - 1) for text in texts(batch)]
    assert sum(short) == 1
    # 34 tokens, of which 5 are taken out in 2 spans; 14, of which 2 in one.
    assert batch.source.mask.sum(axis=1).tolist() == [14 if each else 32 for each in short]
    assert batch.target.mask.sum(axis=1).tolist() == [4 if each else 8 for each in short]
    assert batch.source.tokens.shape == (NUM_CHUNKS, 32) and batch.target.tokens.shape == (NUM_CHUNKS, 8)
    for side in (batch.source, batch.target):
        assert {leaf.dtype for leaf in jax.tree.leaves(side)} == {np.dtype(np.int32)}
        assert (side.tokens[~side.mask] == PADDING).all() and (side.positions[~side.mask] == 0).all()
        assert (side.segment_ids == side.mask).all()
        for row, mask in zip(side.positions, side.mask, strict=True):
            assert row[mask].tolist() == list(range(mask.sum()))


def test_a_batch_may_hold_several_epochs_of_a_short_text(store):
    (batch,) = some_batches(store, source_config(), rows=3 * NUM_CHUNKS, num_batches=1)
    chunks = [chunk_of(text) for text in texts(batch)]
    for epoch in range(3):
        assert sorted(chunks[epoch * NUM_CHUNKS : (epoch + 1) * NUM_CHUNKS]) == list(range(NUM_CHUNKS))


def test_any_batch_is_the_same_wherever_the_run_begins(store):
    config = source_config()
    whole = some_batches(store, config)
    assert all(map(same, whole[23:], some_batches(store, config, first_batch=23, num_batches=17)))
    assert not any(map(same, whole, some_batches(store, config, seed=4)))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_rows_in_order(store, count):
    config = source_config()
    whole = some_batches(store, config)
    shares = [some_batches(store, config, process_index=index, process_count=count) for index in range(count)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert same(batch, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def test_rows_that_cannot_be_shared_are_refused(store):
    with pytest.raises(ValueError, match="4 rows of a batch cannot be shared by 3 processes"):
        some_batches(store, source_config(), process_count=3)


def test_too_few_sentinels_are_refused(store):
    config = source_config(max_source_length=256)
    with pytest.raises(ValueError, match="has 8 sentinels, and a row needs 14: set tokenizer.num_sentinels"):
        some_batches(store, config)


def test_evaluation_holds_every_chunk_once_always_corrupted_alike(store):
    def batches(**settings):
        return evaluation_batches(
            store, source_config(), vocabulary=VOCABULARY, target_tokens_per_batch=4 * 8, **settings
        )

    found = batches()
    assert found.num_examples == NUM_CHUNKS and len(found.too_long) == 0
    whole = list(found)
    assert np.concatenate([examples for _, examples in whole]).tolist() == list(range(NUM_CHUNKS))
    for batch, examples in whole:
        filled = batch.source.mask.any(axis=1)
        assert filled.sum() == len(examples)
        assert [
            chunk_of(text) for text in texts(jax.tree.map(lambda rows, filled=filled: rows[filled], batch))
        ] == examples.tolist()
    assert all(same(one[0], two[0]) for one, two in zip(whole, batches(), strict=True))
    # The last batch has two chunks, and the second process none of them.
    shares = [list(batches(process_index=index, process_count=2)) for index in range(2)]
    assert shares[1][-1].examples.tolist() == [] and not shares[1][-1].batch.source.mask.any()
    for (batch, examples), first, second in zip(whole, *shares, strict=True):
        assert same(batch, jax.tree.map(lambda *leaves: np.concatenate(leaves), first.batch, second.batch))
        assert examples.tolist() == [*first.examples, *second.examples]


@pytest.mark.long
def test_workers_change_nothing(store, tmp_path):
    script = tmp_path / "digests.py"
    script.write_text(
        textwrap.dedent(f"""
        import hashlib, sys
        import jax
        from seq2seq_jax.batch import Vocabulary
        from seq2seq_jax.data.pipeline import training_batches
        from seq2seq_jax.data.source import DocumentSource
        from seq2seq_jax.data.store import Store
        from seq2seq_jax.tasks.denoising import Denoising

        class Source(DocumentSource):
            def open(self):
                raise NotImplementedError

        if __name__ == "__main__":
            batches = training_batches(
                Store(sys.argv[1]), Denoising().batch_format(Source(max_source_length=32)), workers=int(sys.argv[2]),
                vocabulary=Vocabulary(source_size=60_000, target_size=60_000, joint=True, pad_id=0, bos_id=2,
                                      eos_id=3, sentinel_ids={SENTINELS}),
                target_tokens_per_batch=32, seed=3, first_batch=0, num_batches=12,
            )
            for batch in batches:
                print(hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(batch))).hexdigest())
            batches.close()
        """)
    )

    def digests(workers):
        found = subprocess.run(
            [sys.executable, script, store.directory, str(workers)],
            cwd=REPOSITORY, env={"PATH": "", "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return found.stdout.split()

    expected = [
        hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(batch))).hexdigest()
        for batch in some_batches(store, source_config(), num_batches=12)
    ]
    assert digests(0) == digests(2) == expected


def test_the_corruption_is_that_of_the_config(store):
    corruption = SpanCorruption(density=0.5, mean_span_length=5.0)
    config = source_config(corruption=corruption)
    (batch,) = some_batches(store, config, rows=10, num_batches=1)
    taken, spans = corruption.num_noise(config.columns["text"].max_length)
    full = batch.target.mask.all(axis=1)
    assert full.sum() >= 9
    assert (np.isin(batch.target.tokens[full], SENTINELS).sum(axis=1) == spans).all()
    assert config.max_target_length == taken + spans + 1
