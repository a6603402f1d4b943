"""Lengths, limits, ids, padding and its hint: by hand."""

import numpy as np
import pytest

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.columns import Tokens, ragged
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.summary import PaddingSummary, padding_hint, padding_of, segments_of, summary_of
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig


class Columns(Store):
    """A store with columns that are given."""

    def __init__(self, **columns):
        self.columns = {name: ragged(values, np.uint16) for name, values in columns.items()}

    def __len__(self):
        return len(self.columns["source"])


@pytest.fixture(scope="module")
def tokenizer():
    """ids: 4 to 259 bytes, then the four letters."""
    return Tokenizer.train([("abcd", "dcba")], TokenizerConfig(kind="char"))


def batch_format(**limits):
    columns = {
        side: Tokens(side=side, max_length=limits.get(side), truncate="right" if side == "source" else None)
        for side in ("source", "target")
    }
    return BatchFormat(columns=columns, max_source_length=8, max_target_length=8)


def test_lengths_limits_and_ids(tokenizer):
    source = [[260, 3], [261, 4, 5, 3], [1, 261, 262, 263, 260, 3]]
    store = Columns(source=source, target=[[3], [260, 3], [260, 260, 260, 3]])
    found = summary_of(store, batch_format(source=4, target=3), tokenizer)
    of_source = found.columns["source"]
    assert (of_source.examples, of_source.tokens, of_source.mean, of_source.limit) == (3, 12, 4.0, 4)
    assert of_source.quantiles == {0.5: 4, 0.9: 6, 0.99: 6, 1.0: 6}
    # 1, 3, 4, 5 and four letters, of 264.
    assert (of_source.ids_used, of_source.vocabulary_size) == (8, 264)
    assert of_source.byte_fraction == pytest.approx(2 / 12) and of_source.unknown_fraction == pytest.approx(1 / 12)
    assert found.columns["target"].ids_used == 2
    assert found.limits.too_long == {"source": 1, "target": 1}
    assert (found.limits.dropped, found.limits.truncated) == (1, 0), "the third is too long on both sides"


def rows(segments, tokens):
    segments = np.array(segments, np.int32)
    return TokenRows(tokens=np.array(tokens, np.int32), segment_ids=segments, positions=np.zeros_like(segments))


def test_padding_and_segments():
    source = rows([[1, 1, 2, 2], [1, 0, 0, 0]], [[7, 3, 8, 3], [3, 0, 0, 0]])
    target = rows([[1, 2, 0, 0, 0], [1, 0, 0, 0, 0]], [[3, 3, 0, 0, 0], [3, 0, 0, 0, 0]])
    found = padding_of([Batch(source=source, target=target)] * 2)
    assert found.source == pytest.approx(3 / 8) and found.target == pytest.approx(7 / 10)
    assert found.batches == 2 and found.examples_per_row == 1.5
    assert segments_of(source, 0) == [[7, 3], [8, 3]] and segments_of(source, 1) == [[3]]


def test_a_side_that_is_mostly_padding_has_a_hint(tokenizer):
    """Sources of 4 and targets of 1 in rows of 8 and 8: a quarter of the target row fills as the source does."""
    store = Columns(source=[[260, 260, 260, 3]] * 3, target=[[3]] * 3)
    columns = summary_of(store, batch_format(source=8, target=8), tokenizer).columns
    padding = PaddingSummary(batches=1, source=0.0, target=0.75, examples_per_row=2.0)
    assert padding_hint(padding, columns) == (
        "75% of the target positions are padding: --data.max_target_length 2 instead of 8 fills both sides alike"
    )
    even = PaddingSummary(batches=1, source=0.2, target=0.4, examples_per_row=2.0)
    assert padding_hint(even, columns) == ""
    # One target of the length of the row: nothing shorter keeps 99% of them.
    long = Columns(source=[[260, 260, 260, 3]] * 3, target=[[3], [3], [260] * 7 + [3]])
    assert padding_hint(padding, summary_of(long, batch_format(source=8, target=8), tokenizer).columns) == ""
