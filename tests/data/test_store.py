import concurrent.futures
import hashlib
import pickle
import threading

import numpy as np
import pytest

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data import store as store_module
from seq2seq_jax.data import store_files
from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.source import Corpus
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.store_files import DamagedStoreError
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.files import file_digest

COLUMNS = {"source": Tokens(side="source"), "target": Tokens(side="target")}


class FakeCorpus(Corpus):
    columns = ("source", "target")

    def __init__(self, num_pairs=500, word="word"):
        self._pairs = [(f"{word} {index} " * (index % 4), str(index)) for index in range(num_pairs)]
        self.num_reads = 0

    @property
    def fingerprint(self):
        return hashlib.sha256(repr(self._pairs).encode()).hexdigest()

    @property
    def splits(self):
        return {"train": len(self._pairs), "validation": 3}

    def examples(self, split):
        self.num_reads += 1
        return iter(self._pairs[: self.splits[split]])


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(FakeCorpus().examples("train"), TokenizerConfig(kind="char"))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(store_module, "EXAMPLES_AT_ONCE", 64)


def test_examples_are_those_of_the_tokenizer(tmp_path, tokenizer, small_chunks):
    corpus = FakeCorpus()
    store = Store.open_or_build(tmp_path, corpus, "train", COLUMNS, tokenizer)
    sources, targets = zip(*corpus.examples("train"), strict=True)
    assert len(store) == 500
    assert store.columns["source"].values.dtype == np.uint16
    for index, (source, target) in enumerate(
        zip(tokenizer.encode_source(list(sources)), tokenizer.encode_target(list(targets)), strict=True)
    ):
        assert store.columns["source"][index].tolist() == source
        assert store.columns["target"][index].tolist() == target
        assert tuple(store.columns[side].lengths[index] for side in COLUMNS) == (len(source), len(target))
    assert store.columns["source"].lengths.dtype == store.columns["target"].lengths.dtype == np.int32


def test_large_vocabularies_are_stored_wider(tmp_path):
    class WideTokenizer(Tokenizer):
        fingerprint = "wide"
        vocabulary = Vocabulary(source_size=2**16, target_size=2**16 + 1, joint=False, pad_id=0, bos_id=2, eos_id=3)

        def __init__(self):
            pass

        def encode_source(self, texts):
            return [[2**16 - 1, 3] for _ in texts]

        def encode_target(self, texts):
            return [[2**16, 3] for _ in texts]

    store = Store.open_or_build(tmp_path, FakeCorpus(), "train", COLUMNS, WideTokenizer())
    assert store.columns["source"].values.dtype == np.uint16 and store.columns["target"].values.dtype == np.uint32
    assert store.columns["source"][499].tolist() == [2**16 - 1, 3] and store.columns["target"][499].tolist() == [
        2**16,
        3,
    ]


def test_a_second_run_encodes_nothing_and_progress_is_told(tmp_path, tokenizer, small_chunks):
    calls = []
    corpus = FakeCorpus()
    first = Store.open_or_build(
        tmp_path, corpus, "train", COLUMNS, tokenizer, progress=lambda *done: calls.append(done)
    )
    assert calls == [(min(500, 64 * chunk), 500) for chunk in range(1, 9)]
    calls.clear()
    second = Store.open_or_build(
        tmp_path, corpus, "train", COLUMNS, tokenizer, progress=lambda *done: calls.append(done)
    )
    assert not calls and corpus.num_reads == 1
    assert second.directory == first.directory == tmp_path / first.key
    assert [path.name for path in tmp_path.iterdir()] == [first.key]


def test_text_split_and_tokenizer_each_have_a_store_of_their_own(tmp_path, tokenizer):
    other_tokenizer = Tokenizer.train(FakeCorpus().examples("train"), TokenizerConfig(kind="char", byte_fallback=False))
    stores = [
        Store.open_or_build(tmp_path, FakeCorpus(), "train", COLUMNS, tokenizer),
        Store.open_or_build(tmp_path, FakeCorpus(), "validation", COLUMNS, tokenizer),
        Store.open_or_build(tmp_path, FakeCorpus(word="wort"), "train", COLUMNS, tokenizer),
        Store.open_or_build(tmp_path, FakeCorpus(), "train", COLUMNS, other_tokenizer),
    ]
    assert len({store.key for store in stores}) == 4
    assert [len(store) for store in stores] == [500, 3, 500, 500]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


FILES = ("header.json", "source.values", "source.offsets", "target.values", "target.offsets")


@pytest.mark.parametrize("damage", [cut, flip, empty, remove])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", ["always", "once"])
def test_a_damaged_store_is_noticed_and_built_again(tmp_path, tokenizer, name, damage, verify):
    corpus = FakeCorpus()
    store = Store.open_or_build(tmp_path, corpus, "train", COLUMNS, tokenizer, verify=verify)
    expected = [store.columns["source"][index].tolist() for index in range(len(store))]
    damage(store.directory / name)
    with pytest.raises(DamagedStoreError):
        Store(store.directory, verify=verify)
    again = Store.open_or_build(tmp_path, corpus, "train", COLUMNS, tokenizer, verify=verify)
    assert corpus.num_reads == 2
    assert [again.columns["source"][index].tolist() for index in range(len(again))] == expected
    assert [path.name for path in tmp_path.iterdir()] == [store.key]


def test_once_reads_only_what_has_changed(tmp_path, tokenizer, monkeypatch):
    store = Store.open_or_build(tmp_path, FakeCorpus(), "train", COLUMNS, tokenizer, verify="once")
    read = []

    def digest(path):
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(store_files, "file_digest", digest)
    Store(store.directory, verify="once")
    assert read == []
    # As a copy of the file would be, with the same content.
    data = (store.directory / "source.values").read_bytes()
    (store.directory / "source.values").unlink()
    (store.directory / "source.values").write_bytes(data)
    Store(store.directory, verify="once")
    assert read == ["source.values"]
    read.clear()
    Store(store.directory, verify="always")
    assert sorted(read) == sorted(set(FILES) - {"header.json"})
    read.clear()
    pickle.loads(pickle.dumps(store))
    assert read == [], "a worker takes what its parent has verified"


def test_a_store_that_may_only_be_read_is_used_and_never_written(tmp_path, tokenizer):
    foreign, own = tmp_path / "foreign", tmp_path / "own"
    corpus = FakeCorpus()
    made = Store.open_or_build(foreign, corpus, "train", COLUMNS, tokenizer)
    found = Store.open_or_build(own, corpus, "train", COLUMNS, tokenizer, found_in=foreign)
    assert found.directory == made.directory and not own.exists() and corpus.num_reads == 1
    flip(made.directory / "target.values")
    before = {path: path.read_bytes() for path in made.directory.iterdir()}
    again = Store.open_or_build(own, corpus, "train", COLUMNS, tokenizer, found_in=foreign)
    assert again.directory == own / made.key
    assert {path: path.read_bytes() for path in made.directory.iterdir()} == before


def test_a_build_that_fails_leaves_nothing(tmp_path, tokenizer, small_chunks):
    class BrokenCorpus(FakeCorpus):
        def examples(self, split):
            yield from list(super().examples(split))[:100]
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        Store.open_or_build(tmp_path, BrokenCorpus(), "train", COLUMNS, tokenizer)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="'train' has no examples"):
        Store.open_or_build(tmp_path, FakeCorpus(num_pairs=0), "train", COLUMNS, tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_several_may_build_at_the_same_time(tmp_path, tokenizer):
    together = threading.Barrier(4)

    class SlowCorpus(FakeCorpus):
        def examples(self, split):
            together.wait(timeout=120)
            return super().examples(split)

    def build(_):
        return Store.open_or_build(tmp_path, SlowCorpus(), "train", COLUMNS, tokenizer)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(build, range(4)))
    assert [store.columns["source"][499].tolist() for store in stores] == [
        stores[0].columns["source"][499].tolist()
    ] * 4
    assert [path.name for path in tmp_path.iterdir()] == [stores[0].key]


def test_a_store_pickles_as_its_path(tmp_path, tokenizer):
    store = Store.open_or_build(tmp_path, FakeCorpus(), "train", COLUMNS, tokenizer)
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert pickle.loads(pickled).columns["source"][7].tolist() == store.columns["source"][7].tolist()
