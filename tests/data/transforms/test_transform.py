"""Transforms: keys from seed, epoch and example alone, a plan from bounds on lengths, and bounds that hold."""

import dataclasses

import jax
import numpy as np
import pytest

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.columns import Ragged, Tokens, ragged
from seq2seq_jax.data.pipeline import evaluation_batches, training_batches
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.transforms.transform import example_keys, transformed
from seq2seq_jax.hashing import random_words

VOCABULARY = Vocabulary(source_size=2000, target_size=2000, joint=True, pad_id=0, bos_id=2, eos_id=3)


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Writes the first token of each source again, 0 to `most` times, as its key says."""

    most: int = 3
    bound: int = 3

    def build(self, vocabulary):
        return self

    def __call__(self, examples, keys):
        times = (random_words(keys, 1)[:, 0] % np.uint64(self.most + 1)).astype(int)
        source = examples["source"]
        made = [[source[index][0]] * more + source[index].tolist() for index, more in enumerate(times)]
        return {**examples, "source": ragged(made, np.int32)}

    def length_bound(self, lengths):
        return {**lengths, "source": lengths["source"] + self.bound}


class FakeStore(Store):
    """100 examples: source 10 + n, length 2 to 9, as long as its target."""

    def __init__(self):
        ids = [[10 + index] * (1 + index % 8) + [3] for index in range(100)]
        self.columns = {"source": ragged(ids, np.uint16), "target": ragged(ids, np.uint16)}

    def __len__(self):
        return 100


def batch_format(*transforms, packing=True, max_source_length=30):
    return BatchFormat(
        columns={side: Tokens(side=side, max_length=9) for side in ("source", "target")},
        transforms=transforms, max_source_length=max_source_length, max_target_length=24, packing=packing, window=40,
    )  # fmt: skip


def batches(*transforms, first=0, number=60, seed=4, **settings):
    packing = settings.pop("packing", True)
    return list(
        training_batches(
            FakeStore(), batch_format(*transforms, packing=packing), vocabulary=VOCABULARY,
            target_tokens_per_batch=4 * 24, seed=seed, first_batch=first, num_batches=number, **settings,
        )
    )  # fmt: skip


def examples_of(batch):
    """Source id of each example -> its source and target lengths."""
    found = {}
    for row in range(len(batch.source.tokens)):
        for segment in range(1, batch.source.segment_ids[row].max() + 1):
            tokens = batch.source.tokens[row][batch.source.segment_ids[row] == segment]
            found[int(tokens[0])] = (len(tokens), int((batch.target.segment_ids[row] == segment).sum()))
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_each_epoch_transforms_otherwise_and_no_row_overflows(packing):
    epochs, epoch = [], {}
    for batch in batches(Repeat(), packing=packing):
        epoch |= examples_of(batch)
        if len(epoch) == 100:
            epochs.append(epoch)
            epoch = {}
    assert len(epochs) >= 2
    for found in epochs:
        assert all(target <= source <= target + 3 for source, target in found.values())
        assert {source - target for source, target in found.values()} == {0, 1, 2, 3}
    assert epochs[0] != epochs[1]


def same(batch, other):
    return all(map(np.array_equal, jax.tree.leaves(batch), jax.tree.leaves(other)))


def test_transformed_batches_depend_on_seed_and_step_alone():
    whole = batches(Repeat())
    assert all(map(same, whole[37:], batches(Repeat(), first=37, number=23)))
    shares = [batches(Repeat(), process_index=index, process_count=2) for index in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert same(batch, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
    assert not any(map(same, whole, batches(Repeat(), seed=5)))


def test_an_evaluation_is_always_transformed_alike():
    def once():
        return [
            batch
            for batch, _ in evaluation_batches(
                FakeStore(), batch_format(Repeat()), vocabulary=VOCABULARY, target_tokens_per_batch=4 * 24
            )
        ]

    assert all(map(same, once(), once()))


def test_two_transforms_have_random_numbers_of_their_own():
    examples, keys = FakeStore().columns, example_keys(1, np.zeros(100, int), np.arange(100))
    before, once, twice = (transformed(examples, [Repeat()] * number, keys)["source"].lengths for number in (0, 1, 2))
    first, second = once - before, twice - once
    assert set(first) == set(second) == {0, 1, 2, 3}
    assert 10 < (first == second).sum() < 50


def test_keys_are_those_of_the_example_and_its_epoch():
    examples, epochs = np.array([7, 3, 7, 9]), np.array([0, 0, 1, 2])
    keys = example_keys(11, epochs, examples)
    assert len(set(keys.tolist())) == 4
    for index in range(4):
        assert example_keys(11, epochs[index : index + 1], examples[index : index + 1])[0] == keys[index]
    assert (example_keys(12, epochs, examples) != keys).all()


def test_a_transform_that_lengthens_past_its_bound_is_one_line():
    message = r"^expected Repeat to make at most \d+ values of source, as its length_bound says; it made \d+: corr"
    with pytest.raises(ValueError, match=message) as error:
        batches(Repeat(most=9))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="at most 2 values of source, as its length_bound says; it made 3"):
        transformed({"source": ragged([[5, 3]], np.int32)}, [Twice(bound=0)], np.zeros(1, np.uint64))


@dataclasses.dataclass(frozen=True)
class Twice(Repeat):
    """Writes the first token of each source once more."""

    def __call__(self, examples, keys):
        source = examples["source"]
        return {"source": Ragged(np.append(source.values[:1], source.values), source.offsets + np.array([0, 1]))}


def test_a_bound_beyond_a_row_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match=r"at most max_source_length 10 .*; the transforms may make 12 of the longest"):
        training_batches(
            FakeStore(), batch_format(Repeat(), max_source_length=10), vocabulary=VOCABULARY,
            target_tokens_per_batch=96, seed=0, first_batch=0, num_batches=1,
        )  # fmt: skip
