"""Rows of examples, and the decoder's inputs made of them."""

import jax
import numpy as np
from batches import batch, sequence

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary, shift_right

START = 9


def test_every_token_moves_one_to_the_right_within_its_own_segment():
    target = TokenRows(
        tokens=np.array([[4, 5, 3, 6, 3, 0, 0], [7, 8, 4, 5, 6, 7, 3]]),
        segment_ids=np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]]),
        positions=np.array([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]]),
    )
    shifted = shift_right(target, START)
    np.testing.assert_array_equal(shifted.tokens[0, :5], [START, 4, 5, START, 6])
    np.testing.assert_array_equal(shifted.tokens[1], [START, 7, 8, 4, 5, 6, 7])
    np.testing.assert_array_equal(shifted.segment_ids, target.segment_ids)
    np.testing.assert_array_equal(shifted.positions, target.positions)


def test_the_mask_is_true_where_there_is_a_token():
    rows = sequence([[[4, 3], [3]], [[]]], 4, pad_id=0)
    np.testing.assert_array_equal(rows.mask, [[True, True, True, False], [False] * 4])


def test_a_batch_is_a_tree_of_its_six_arrays():
    vocabulary = Vocabulary(source_size=9, target_size=9, joint=True, pad_id=0, bos_id=2, eos_id=3)
    pairs = batch([[([4, 3], [5, 6, 3])]], 3, 4, vocabulary)
    assert [leaf.shape for leaf in jax.tree.leaves(pairs)] == [(1, 3)] * 3 + [(1, 4)] * 3
    doubled = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), pairs)
    assert isinstance(doubled, Batch)
    assert doubled.target.tokens.tolist() == [[5, 6, 3, 0]] * 2
