"""Columns: what is stored of each kind, and what is left of an example that is too long."""

import numpy as np
import pytest

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.columns import Chunks, Frames, Label, Ragged, Text, Tokens, ragged
from seq2seq_jax.data.source import Corpus
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer

EOS_ID = 3
VOCABULARY = Vocabulary(source_size=2**16, target_size=70_000, joint=False, pad_id=0, bos_id=2, eos_id=EOS_ID)


class Numbers(Tokenizer):
    fingerprint = "numbers"
    vocabulary = VOCABULARY

    def __init__(self):
        pass

    def encode_source(self, texts):
        return [[*map(int, text.split()), EOS_ID] for text in texts]

    def encode_target(self, texts):
        return [[*(60_000 + int(text) for text in text.split()), EOS_ID] for text in texts]


SPEECH = [np.arange(6, dtype=np.int16).reshape(3, 2), np.zeros((0, 2), np.int16), np.full((5, 2), -9, np.int16)]


class Everything(Corpus):
    """Three examples of each kind of column."""

    columns = ("words", "speech", "answers", "kind")
    fingerprint = "everything"
    splits = {"test": 3}  # noqa: RUF012

    def examples(self, split):
        words = ["5 6 7", "", "8"]
        return iter(zip(words, SPEECH, ["äh", ["one", "two"], []], [2, 0, 1], strict=True))


def test_a_store_holds_columns_of_all_kinds(tmp_path):
    columns = {
        "source": Tokens(read_from="words"),
        "target": Tokens(read_from="words", side="target"),
        "speech": Frames(num_features=2, kind="int16", stride=4),
        "answers": Text(),
        "kind": Label(num_classes=3),
    }
    store = Store.open_or_build(tmp_path, Everything(), "test", columns, Numbers())
    store = Store(store.directory)
    assert len(store) == 3
    assert [store.columns["source"][index].tolist() for index in range(3)] == [[5, 6, 7, EOS_ID], [EOS_ID], [8, EOS_ID]]
    assert store.columns["target"][2].tolist() == [60_008, EOS_ID]
    assert store.columns["source"].values.dtype == np.uint16 and store.columns["target"].values.dtype == np.uint32
    for index, frames in enumerate(SPEECH):
        found = store.columns["speech"][index]
        assert found.dtype == np.int16 and np.array_equal(found, frames)
    assert columns["speech"].row_lengths(store.columns["speech"].lengths).tolist() == [1, 0, 2]
    assert [columns["answers"].decode(store.columns["answers"][index]) for index in range(3)] == [
        "äh",
        ["one", "two"],
        [],
    ]
    assert [columns["kind"].decode(store.columns["kind"][index]) for index in range(3)] == [2, 0, 1]


def test_limits_change_nothing_that_is_stored_and_kinds_do(tmp_path):
    def key(column):
        return Store.open_or_build(tmp_path, Everything(), "test", {"words": column}, Numbers()).key

    assert key(Tokens()) == key(Tokens(max_length=2, truncate="left"))
    assert len({key(Tokens()), key(Tokens(side="target")), key(Text()), key(Text(read_from="answers"))}) == 4


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (Frames(read_from="speech", num_features=3), ["3 float32 features", "int16 [3, 2]"]),
        (Label(read_from="kind", num_classes=2), ["label of 0 to 1", "got 2"]),
        (Tokens(read_from="text"), ["column 'text'", "words, speech, answers, kind"]),
    ],
)
def test_values_that_are_none_of_the_column_are_one_line(tmp_path, column, named):
    with pytest.raises(ValueError) as error:
        Store.open_or_build(tmp_path, Everything(), "test", {"column": column}, Numbers())
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in named)
    assert not list(tmp_path.iterdir())


IDS = [[10, 11, 12, 13, EOS_ID], [20, EOS_ID], [EOS_ID], [30, 31, EOS_ID]]


@pytest.mark.parametrize(
    ("truncate", "expected"),
    [
        ("right", [[30, 31, EOS_ID], [10, 11, EOS_ID], [EOS_ID]]),
        ("left", [[30, 31, EOS_ID], [12, 13, EOS_ID], [EOS_ID]]),
    ],
)
def test_an_example_is_cut_at_the_end_that_the_column_says(truncate, expected):
    column = Tokens(max_length=3, truncate=truncate)
    found = column.fetch(ragged(IDS, np.uint16), np.array([3, 0, 2]), vocabulary=VOCABULARY)
    assert [found[index].tolist() for index in range(3)] == expected
    assert [column.cut_ids(IDS[index], Numbers()) for index in (3, 0, 2)] == expected, (
        "what is generated from is cut alike"
    )


def test_texts_without_an_eos_token_are_cut_without_one():
    assert [
        Tokens(max_length=2, truncate=end, ends_in_eos=False).cut_ids([5, 6, 7], Numbers()) for end in ("right", "left")
    ] == [
        [5, 6],
        [6, 7],
    ]


def test_frames_are_cut_whole():
    speech = Ragged(np.arange(20).reshape(10, 2), np.array([0, 6, 10], np.uint32))
    found = Frames(num_features=2, max_length=2, truncate="left").fetch(
        speech, np.array([1, 0, 1]), vocabulary=VOCABULARY
    )
    assert found.values.tolist() == [[16, 17], [18, 19], [8, 9], [10, 11], [16, 17], [18, 19]]
    assert found.offsets.tolist() == [0, 2, 4, 6]


def test_texts_that_are_run_together_are_cut_into_equal_examples():
    column = Tokens(max_length=4, concatenate=True, ends_in_eos=False)
    chunks = column.examples(ragged([[1], [2, 3, 4, 5, 6], [7, 8, 9]], np.uint16))
    assert isinstance(chunks, Chunks) and len(chunks) == 3
    found = column.fetch(chunks, np.array([2, 0, 1]), vocabulary=VOCABULARY)
    assert [found[index].tolist() for index in range(3)] == [[9], [1, 2, 3, 4], [5, 6, 7, 8]]
