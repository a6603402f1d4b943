import hashlib
import logging
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.batch_format import BatchFormat, row_shapes
from seq2seq_jax.data.batch_maker import assemble, select
from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.layout import pair_batches, source_batches
from seq2seq_jax.data.packing import BatchRows, RowShape
from seq2seq_jax.data.pipeline import evaluation_batches, training_batches
from seq2seq_jax.data.source import Corpus, PairSource
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.tasks.translation import Translation

REPOSITORY = pathlib.Path(__file__).parents[2]
PADDING, START, END = 0, 2, 3
VOCABULARY = Vocabulary(source_size=100, target_size=100, joint=True, pad_id=PADDING, bos_id=START, eos_id=END)


class FakeCorpus(Corpus):
    """Texts are the ids themselves, so that every example is known by its first source id and its lengths."""

    columns = ("source", "target")

    def __init__(self, lengths):
        self._pairs = [
            (" ".join([str(10 + index % 90)] * (source - 1)), " ".join([str(10 + index % 90)] * (target - 1)))
            for index, (source, target) in enumerate(lengths)
        ]
        self.fingerprint_text = repr(lengths)

    @property
    def fingerprint(self):
        return hashlib.sha256(self.fingerprint_text.encode()).hexdigest()

    @property
    def splits(self):
        return {"train": len(self._pairs)}

    def examples(self, split):
        return iter(self._pairs)


class FakeTokenizer(Tokenizer):
    vocabulary = VOCABULARY
    fingerprint = "ids"

    def __init__(self):
        pass

    def encode_source(self, texts):
        return [[*map(int, text.split()), END] for text in texts]

    encode_target = encode_source


class Source(PairSource):
    def open(self):
        raise NotImplementedError


CUT = BatchFormat(
    columns={
        side: Tokens(side=side, max_length=length, truncate="right") for side, length in (("source", 4), ("target", 3))
    },
    max_source_length=4,
    max_target_length=3,
)


def make_store(directory, lengths):
    return Store.open_or_build(
        directory, FakeCorpus(lengths), "train", Translation().columns(Source()), FakeTokenizer()
    )


def many_lengths(num_examples=700):
    return [(1 + index * 7 % 16, 1 + (index * 7 + index // 16) % 12) for index in range(num_examples)]


def source_config(**settings):
    data = Source(**{"max_source_length": 16, "max_target_length": 12, "window": 200} | settings)
    return Translation().batch_format(data)


def leaves(batch):
    return jax.tree.leaves(batch)


def same(batch, other):
    return all(np.array_equal(one, two) for one, two in zip(leaves(batch), leaves(other), strict=True))


def some_batches(store, config, first_batch=0, num_batches=6, **settings):
    batches = training_batches(
        store, config, vocabulary=VOCABULARY, target_tokens_per_batch=96, seed=3, first_batch=first_batch,
        num_batches=num_batches, **settings,
    )  # fmt: skip
    return list(batches)


def test_arrays_of_a_packed_batch_worked_out_by_hand(tmp_path):
    store = make_store(tmp_path, [(3, 2), (1, 2), (2, 1), (9, 9)])
    rows = BatchRows(
        examples=np.array([2, 0, 1]),
        epochs=np.zeros(3, int),
        counts=np.array([2, 0, 1]),
        source_length=6,
        target_length=3,
        max_examples=None,
    )
    batch = assemble(store, rows, CUT, vocabulary=VOCABULARY)
    assert batch.source.tokens.tolist() == [[12, END, 10, 10, END, 0], [0] * 6, [END, 0, 0, 0, 0, 0]]
    assert batch.source.segment_ids.tolist() == [[1, 1, 2, 2, 2, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]
    assert batch.source.positions.tolist() == [[0, 1, 0, 1, 2, 0], [0] * 6, [0] * 6]
    assert batch.target.tokens.tolist() == [[END, 10, END], [0] * 3, [11, END, 0]]
    assert batch.target.segment_ids.tolist() == [[1, 2, 2], [0] * 3, [1, 1, 0]]
    assert batch.target.positions.tolist() == [[0, 0, 1], [0] * 3, [0, 1, 0]]
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.int32 for leaf in leaves(batch))


def test_a_truncated_example_ends_in_the_end_id(tmp_path):
    store = make_store(tmp_path, [(9, 2), (2, 9)])
    rows = BatchRows(
        examples=np.array([0, 1]),
        epochs=np.zeros(2, int),
        counts=np.array([1, 1]),
        source_length=4,
        target_length=3,
        max_examples=1,
    )
    batch = assemble(store, rows, CUT, vocabulary=VOCABULARY)
    assert batch.source.tokens.tolist() == [[10, 10, 10, END], [11, END, 0, 0]]
    assert batch.target.tokens.tolist() == [[10, END, 0], [11, 11, END]]


def test_selection_drops_or_truncates_counts_and_logs(tmp_path, caplog):
    store = make_store(tmp_path, [(16, 12), (17, 12), (1, 1), (17, 13), (16, 13)])
    with caplog.at_level(logging.INFO):
        examples, counts = select(store, source_config().columns)
    assert examples.tolist() == [0, 2]
    assert counts == (5, {"source": 2, "target": 2}, 3, 0)
    [record] = [record for record in caplog.records if "dropped 3 of 5 examples" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "--data.max_source_length 17 and --data.max_target_length 13" in record.getMessage()
    assert "--data.too_long truncate" in record.getMessage()
    examples, counts = select(store, source_config(too_long="truncate").columns)
    assert examples.tolist() == [0, 1, 2, 3, 4]
    assert counts == (5, {"source": 2, "target": 2}, 0, 3)
    with pytest.raises(ValueError, match="all 5 examples are longer"):
        select(make_store(tmp_path, [(17, 1)] * 5), source_config().columns)


@pytest.mark.parametrize(("num_long", "warned"), [(0, False), (2, False), (3, True)])
@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_more_than_a_hundredth_dropped_or_cut_is_a_warning(tmp_path, caplog, num_long, warned, too_long):
    store = make_store(tmp_path, [(40, 3)] * num_long + [(3, 3)] * (200 - num_long))
    with caplog.at_level(logging.INFO, logger="seq2seq_jax.data.batch_maker"):
        _, counts = select(store, source_config(too_long=too_long).columns)
    assert counts.is_noticeable == warned and counts.affected == num_long
    assert [record.levelno == logging.WARNING for record in caplog.records] == [warned] * (num_long > 0)
    if warned:
        assert "3 of 200" in caplog.text and "--data.max_source_length 40 would keep 99%" in caplog.text


def test_row_shapes():
    assert row_shapes(source_config(), 100) == (RowShape(rows=8, source_length=16, target_length=12),)
    buckets = row_shapes(source_config(packing=False, bucket_lengths=(4, 10, 16)), 100)
    # 33 and 12 rows of 3 and 8 target tokens have room: multiples of the 8 rows of the longest bucket.
    assert buckets == (
        RowShape(rows=32, source_length=4, target_length=3),
        RowShape(rows=8, source_length=10, target_length=8),
        RowShape(rows=8, source_length=16, target_length=12),
    )
    eighths = row_shapes(source_config(packing=False), 96)
    assert [shape.source_length for shape in eighths] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert [shape.target_length for shape in eighths] == [2, 3, 5, 6, 8, 9, 11, 12]


@pytest.mark.parametrize(
    ("settings", "target_tokens_per_batch", "message"),
    [
        ({}, 11, "less than one row of max_target_length 12"),
        ({"bucket_lengths": (8, 16)}, 96, "no effect with packing"),
        ({"bucket_lengths": (8, 12), "packing": False}, 96, "the longer max length, 16"),
        ({"bucket_lengths": (16, 8), "packing": False}, 96, "ascending"),
    ],
)
def test_shapes_that_cannot_be_are_refused(settings, target_tokens_per_batch, message):
    with pytest.raises(ValueError, match=message):
        row_shapes(source_config(**settings), target_tokens_per_batch)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_an_epoch_of_training_holds_every_example(tmp_path, packing, too_long):
    lengths = [*many_lengths(), (20, 4), (3, 13), (20, 20)]
    store = make_store(tmp_path, lengths)
    config = source_config(packing=packing, too_long=too_long)
    expected = sorted(
        (min(source, 16), min(target, 12), END if source == target == 1 else 10 + index % 90)
        for index, (source, target) in enumerate(lengths)
        if too_long == "truncate" or (source <= 16 and target <= 12)
    )
    seen = []
    batches = iter(some_batches(store, config, num_batches=300))
    while len(seen) < len(expected):
        batch = next(batches)
        for row, ids in enumerate(batch.source.segment_ids):
            for segment in range(1, ids.max() + 1):
                source = batch.source.tokens[row][ids == segment].tolist()
                target = batch.target.tokens[row][batch.target.segment_ids[row] == segment].tolist()
                assert source[-1] == target[-1] == END
                # All tokens of a pair but the EOS token are alike.
                (token,) = set(source[:-1] + target[:-1]) or {END}
                seen.append((len(source), len(target), token))
    assert sorted(seen) == expected


@pytest.mark.parametrize("packing", [True, False])
def test_batches_do_not_depend_on_where_the_run_began(tmp_path, packing):
    store = make_store(tmp_path, many_lengths())
    config = source_config(packing=packing)
    run = training_batches(
        store, config, vocabulary=VOCABULARY, target_tokens_per_batch=96, seed=3, first_batch=0, num_batches=200
    )
    from_the_start, plan_positions = [], []
    for batch in run:
        from_the_start.append(batch)
        plan_positions.append(run.plan_position)
    assert len(from_the_start) == 200 and plan_positions[150].epoch >= 1
    for plan_position in (None, plan_positions[149]):
        resumed = some_batches(store, config, first_batch=150, num_batches=50, plan_position=plan_position)
        assert len(resumed) == 50
        assert all(same(one, two) for one, two in zip(resumed, from_the_start[150:], strict=True))


@pytest.mark.parametrize("packing", [True, False])
def test_the_shares_of_any_number_of_processes_make_the_same_batches(tmp_path, packing):
    store = make_store(tmp_path, many_lengths())
    config = source_config(packing=packing)
    whole = some_batches(store, config)
    for count in (2, 4):
        shares = [some_batches(store, config, process_index=index, process_count=count) for index in range(count)]
        for batch, *parts in zip(whole, *shares, strict=True):
            assert same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))
    with pytest.raises(ValueError, match="8 rows of a batch cannot be shared by 3 processes"):
        some_batches(store, config, process_count=3)


@pytest.mark.long
def test_workers_and_new_processes_change_no_batch(tmp_path):
    store = make_store(tmp_path, many_lengths())
    script = tmp_path / "digests.py"
    script.write_text(
        textwrap.dedent("""
        import hashlib, sys
        import jax
        from seq2seq_jax.batch import Vocabulary
        from seq2seq_jax.data.pipeline import training_batches
        from seq2seq_jax.data.source import PairSource
        from seq2seq_jax.data.store import Store
        from seq2seq_jax.tasks.translation import Translation

        class Source(PairSource):
            def open(self):
                raise NotImplementedError

        if __name__ == "__main__":
            directory, workers, first_batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
            batches = training_batches(
                Store(directory),
                Translation().batch_format(Source(max_source_length=16, max_target_length=12, window=200)),
                workers=workers,
                vocabulary=Vocabulary(
                    source_size=100, target_size=100, joint=True, pad_id=0, bos_id=2, eos_id=3
                ),
                target_tokens_per_batch=96, seed=3, first_batch=first_batch, num_batches=90 - first_batch,
            )
            for batch in batches:
                content = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(batch))
                print(hashlib.sha256(content).hexdigest())
            batches.close()
        """)
    )
    here = [
        hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves(batch))).hexdigest()
        for batch in some_batches(store, source_config(), num_batches=90)
    ]
    assert len(set(here)) == 90
    runs = {
        (workers, first_batch): subprocess.Popen(
            [sys.executable, script, store.directory, str(workers), str(first_batch)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        for workers, first_batch in ((0, 70), (2, 0), (2, 71))
    }  # fmt: skip
    for (_, first_batch), run in runs.items():
        printed, _ = run.communicate(timeout=120)
        assert run.returncode == 0
        assert printed.split() == here[first_batch:]


@pytest.mark.parametrize("packing", [True, False])
def test_evaluation_has_every_example_once_in_order(tmp_path, packing):
    lengths = [*many_lengths(), (20, 4), (3, 13)]
    store = make_store(tmp_path, lengths)
    batches = evaluation_batches(
        store, source_config(packing=packing), vocabulary=VOCABULARY, target_tokens_per_batch=96
    )
    assert (batches.too_long.tolist(), batches.cut.tolist()) == ([700, 701], [])
    seen = []
    for batch, examples in batches:
        found = [
            (row, segment)
            for row in range(batch.source.tokens.shape[0])
            for segment in range(1, batch.source.segment_ids[row].max() + 1)
        ]
        assert len(found) == len(examples)
        for (row, segment), example in zip(found, examples, strict=True):
            source = batch.source.tokens[row][batch.source.segment_ids[row] == segment]
            target = batch.target.tokens[row][batch.target.segment_ids[row] == segment]
            assert source.tolist() == store.columns["source"][example].tolist()
            assert target.tolist() == store.columns["target"][example].tolist()
        seen.extend(examples.tolist())
    assert sorted(seen) == list(range(700))
    assert all(same(one, two) for (one, _), (two, _) in zip(batches, batches, strict=True))


@pytest.mark.parametrize("packing", [True, False])
def test_evaluation_cuts_what_training_cuts(tmp_path, packing):
    store = make_store(tmp_path, [(5, 5), (20, 4), (3, 13)])
    config = source_config(packing=packing, too_long="truncate")
    batches = evaluation_batches(store, config, vocabulary=VOCABULARY, target_tokens_per_batch=96)
    assert (batches.too_long.tolist(), batches.cut.tolist()) == ([], [1, 2])
    assert sorted(example for _, examples in batches for example in examples) == [0, 1, 2]
    lengths = [int((side.segment_ids > 0).sum()) for batch, _ in batches for side in (batch.source, batch.target)]
    assert sum(lengths) == (5 + 5) + (16 + 4) + (3 + 12)
    ends = sum(int((side.tokens == END).sum()) for batch, _ in batches for side in (batch.source, batch.target))
    assert ends == 6, "each side of each example ends in the EOS token"


def test_evaluation_is_shared_like_training(tmp_path):
    store = make_store(tmp_path, many_lengths(90))
    whole = list(evaluation_batches(store, source_config(), vocabulary=VOCABULARY, target_tokens_per_batch=96))
    shares = [
        list(
            evaluation_batches(
                store,
                source_config(),
                vocabulary=VOCABULARY,
                target_tokens_per_batch=96,
                process_index=index,
                process_count=2,
            )
        )
        for index in range(2)
    ]
    for (batch, examples), (first, first_examples), (second, second_examples) in zip(whole, *shares, strict=True):
        assert same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), first, second))
        assert examples.tolist() == [*first_examples, *second_examples]


def test_evaluation_of_a_split_where_nothing_fits_is_empty(tmp_path):
    store = make_store(tmp_path, [(17, 1)] * 3)
    batches = evaluation_batches(store, source_config(), vocabulary=VOCABULARY, target_tokens_per_batch=96)
    assert list(batches) == [] and batches.too_long.tolist() == [0, 1, 2]


def test_sources_come_back_in_few_shapes_with_their_indices():
    rng = np.random.default_rng(0)
    sequences = [[*rng.integers(10, 99, rng.integers(0, 100)).tolist(), END] for _ in range(500)]
    shapes, seen = set(), {}
    for source, indices in source_batches(
        sequences, vocabulary=VOCABULARY, source_tokens_per_batch=960, max_length=100
    ):
        shapes.add(source.tokens.shape)
        assert source.tokens.dtype == np.int32
        assert not source.segment_ids[len(indices) :].any()
        for row, index in enumerate(indices):
            length = source.segment_ids[row].sum()
            assert source.segment_ids[row].max() == 1 and source.segment_ids[row, :length].all()
            assert source.positions[row, :length].tolist() == list(range(length))
            assert index not in seen
            seen[index] = source.tokens[row, :length].tolist()
            assert (source.tokens[row, length:] == PADDING).all()
    assert [seen[index] for index in range(500)] == sequences
    assert shapes == {(60, 16), (40, 24), (30, 32), (20, 48), (15, 64), (10, 96), (9, 100)}


def test_a_few_sources_make_a_small_batch():
    ((source, indices),) = source_batches(
        [[10, END], [11, 11, END], [12, END]], vocabulary=VOCABULARY, source_tokens_per_batch=960, max_length=100
    )
    assert source.tokens.shape == (4, 16)
    assert indices.tolist() == [0, 2, 1]
    assert source.tokens[2, :4].tolist() == [11, 11, END, PADDING]
    assert list(source_batches([], vocabulary=VOCABULARY, source_tokens_per_batch=960, max_length=100)) == []
    settings = {"vocabulary": VOCABULARY, "source_tokens_per_batch": 960, "max_length": 100}
    shapes = [
        batch.source.tokens.shape
        for number, shapes_of in ((1, 0), (1, 20), (20, 0))
        for batch in source_batches([[9, END]] * number, **settings, shapes_of=shapes_of)
    ]
    assert shapes == [(1, 16), (32, 16), (32, 16)], "fewer sequences in the shapes of more"


def test_a_source_longer_than_the_model_takes_is_refused():
    with pytest.raises(ValueError, match="sequence 1 has 3 tokens, more than the 2"):
        source_batches([[END], [9, 9, END]], vocabulary=VOCABULARY, source_tokens_per_batch=960, max_length=2)


def test_pairs_come_back_in_few_shapes_with_their_indices():
    rng = np.random.default_rng(0)
    sources, targets = (
        [[*rng.integers(10, 99, rng.integers(0, longest)).tolist(), END] for _ in range(300)] for longest in (30, 60)
    )
    shapes, seen = set(), {}
    for batch, indices in pair_batches(sources, targets, vocabulary=VOCABULARY, max_weights_per_batch=10_000):
        assert batch.source.tokens.shape == batch.target.tokens.shape
        shapes.add(batch.source.tokens.shape)
        for row, index in enumerate(map(int, indices)):
            assert index not in seen
            seen[index] = [
                side.tokens[row][side.segment_ids[row] == 1].tolist() for side in (batch.source, batch.target)
            ]
    assert [seen[index] for index in range(300)] == [list(pair) for pair in zip(sources, targets, strict=True)]
    assert shapes == {(39, 16), (17, 24), (9, 32), (4, 48), (2, 64)}
    assert list(pair_batches([], [], vocabulary=VOCABULARY, max_weights_per_batch=10_000)) == []
