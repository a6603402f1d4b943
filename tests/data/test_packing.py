import itertools

import numpy as np
import pytest

from seq2seq_jax.data import packing as packing_module
from seq2seq_jax.data.packing import BatchPlan, PlanPosition, RowShape, bucket_rows, pack_rows

SHAPE = RowShape(rows=8, source_length=64, target_length=48)
BUCKETS = tuple(RowShape(rows=rows, source_length=4 * size, target_length=3 * size) for rows, size in
                ((64, 2), (32, 4), (16, 8), (8, 16)))  # fmt: skip


def random_lengths(num_examples, seed=0, source_length=64, target_length=48):
    rng = np.random.default_rng(seed)
    target = rng.gamma(4, target_length / 16, num_examples)
    source = target * source_length / target_length * rng.normal(1, 0.2, num_examples)
    return (
        np.clip(source, 1, source_length).astype(np.int32),
        np.clip(target, 1, target_length).astype(np.int32),
    )


def make_plan(num_examples=3000, *, packing=True, window=1000, seed=5, plan_position=None):
    source_lengths, target_lengths = random_lengths(num_examples)
    return BatchPlan(
        source_lengths,
        target_lengths,
        examples=np.arange(num_examples) + 10_000,
        shapes=(SHAPE,) if packing else BUCKETS,
        packing=packing,
        window=window,
        seed=seed,
        plan_position=plan_position,
    )


def as_lists(rows):
    return [row.tolist() for row in rows.rows]


def test_rows_worked_out_by_hand():
    # Row 1 begins with the longest, (6, 6), and is filled by (4, 2), whose product with the room left (4, 4) is 24,
    # more than that of (1, 3), 16; then there is no room on the source side. (5, 5) then takes (1, 3).
    source_lengths, target_lengths = np.array([1, 5, 6, 4]), np.array([3, 5, 6, 2])
    assert pack_rows(source_lengths, target_lengths, source_length=10, target_length=10) == [[2, 3], [1, 0]]


def test_the_side_with_more_room_is_filled_first():
    # After (6, 2) the room is (4, 8): (1, 6) has the product 52 and (4, 1) has 24.
    source_lengths, target_lengths = np.array([6, 4, 1]), np.array([2, 1, 6])
    rows = pack_rows(source_lengths, target_lengths, source_length=10, target_length=10)
    assert rows == [[0, 2], [1]]


@pytest.mark.parametrize(("source_length", "target_length"), [(64, 48), (64, 64), (300, 20)])
def test_every_example_is_packed_once_and_no_row_overflows(source_length, target_length):
    source_lengths, target_lengths = random_lengths(2000, 1, source_length, target_length)
    rows = pack_rows(source_lengths, target_lengths, source_length=source_length, target_length=target_length)
    assert sorted(itertools.chain.from_iterable(rows)) == list(range(2000))
    assert max(source_lengths[row].sum() for row in rows) <= source_length
    assert max(target_lengths[row].sum() for row in rows) <= target_length


def test_no_row_has_more_examples_than_it_may():
    source_lengths, target_lengths = random_lengths(500, source_length=64, target_length=64)
    rows = pack_rows(source_lengths, target_lengths, source_length=64, target_length=64, max_examples=2)
    assert sorted(itertools.chain.from_iterable(rows)) == list(range(500))
    assert max(map(len, rows)) == 2
    shape = RowShape(rows=4, source_length=64, target_length=64, max_examples=2)
    plan = BatchPlan(
        source_lengths, target_lengths, examples=np.arange(500), shapes=(shape,), packing=True, window=500, seed=0
    )
    batches = list(plan.epoch())
    assert max(batch.counts.max() for batch in batches) == 2
    assert {batch.max_examples for batch in batches} == {2}


def test_packing_is_near_the_best_that_is_possible():
    source_lengths, target_lengths = random_lengths(4000, source_length=64, target_length=64)
    rows = pack_rows(source_lengths, target_lengths, source_length=64, target_length=64)
    fewest = max(source_lengths.sum(), target_lengths.sum()) / 64
    assert len(rows) < 1.05 * fewest


def test_buckets_worked_out_by_hand():
    shapes = tuple(RowShape(rows=2, source_length=size, target_length=size) for size in (2, 4, 8))
    source_lengths, target_lengths = np.array([1, 1, 2, 3, 1, 1]), np.array([1, 2, 1, 1, 4, 1])
    # Bucket 2 has 0, 1, 2 and 5, and bucket 4 has 3 and 4: whole batches.
    groups = bucket_rows(source_lengths, target_lengths, shapes=shapes)
    assert [group.tolist() for group in groups] == [[0, 1, 2, 5], [3, 4], []]
    # Without the last one, bucket 2 has three; of its two longest the later one moves up. Bucket 4 is the last in use,
    # so that its third stays there.
    groups = bucket_rows(source_lengths[:5], target_lengths[:5], shapes=shapes)
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3, 4], []]


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_has_every_example_once_in_rows_that_hold_it(packing):
    plan = make_plan(packing=packing)
    source_lengths, target_lengths = random_lengths(3000)
    for epoch in (0, 1):
        batches = list(plan.epoch(epoch))
        seen = np.concatenate([rows.examples for rows in batches])
        assert sorted(seen.tolist()) == list(range(10_000, 13_000))
        for rows in batches:
            shape = RowShape(rows=len(rows.counts), source_length=rows.source_length, target_length=rows.target_length)
            assert shape in ((SHAPE,) if packing else BUCKETS)
            assert packing or rows.counts.max() == 1
            for row in rows.rows:
                assert source_lengths[row - 10_000].sum() <= rows.source_length
                assert target_lengths[row - 10_000].sum() <= rows.target_length


def test_the_rows_of_a_window_are_spread_evenly_over_the_fewest_batches():
    def rows_of_batches(num_examples):
        twos = np.full(num_examples, 2)
        shape = RowShape(rows=8, source_length=4, target_length=4)
        plan = BatchPlan(
            twos, twos, examples=np.arange(num_examples), shapes=(shape,), packing=True, window=1000, seed=0
        )
        return [int((rows.counts > 0).sum()) for rows in plan.epoch()]

    # Two examples fill a row.
    assert rows_of_batches(96) == [8, 8, 8, 8, 8, 8]
    assert rows_of_batches(50) == [6, 6, 6, 7]
    assert rows_of_batches(2) == [1]


@pytest.mark.parametrize("packing", [True, False])
def test_a_batch_is_the_same_whoever_asks_for_it_and_when(packing):
    in_order = make_plan(packing=packing)
    batches = [as_lists(in_order.batch(step)) for step in range(400)]
    per_epoch = len(list(in_order.epoch()))
    assert 2 * per_epoch < 400
    for step in (399, 0, per_epoch, per_epoch - 1):
        assert as_lists(make_plan(packing=packing).batch(step)) == batches[step]
    # In order, epochs follow each other.
    assert batches[:per_epoch] == [as_lists(rows) for rows in in_order.epoch(0)]
    assert batches[per_epoch : 2 * per_epoch][:5] == [as_lists(rows) for rows in in_order.epoch(1)][:5]


def test_an_anchor_leads_to_the_same_batches_without_planning_what_came_before(monkeypatch):
    in_order = make_plan(window=300)
    assert in_order.num_windows() > 1
    plan_position = in_order.plan_position(400)
    assert plan_position.epoch > 0 and plan_position.first_batch <= 400
    resumed = make_plan(window=300, plan_position=plan_position)
    expected = as_lists(in_order.batch(400))
    windows, pack = [], pack_rows

    def pack_and_count(source_lengths, *arguments, **settings):
        windows.append(len(source_lengths))
        return pack(source_lengths, *arguments, **settings)

    monkeypatch.setattr(packing_module, "pack_rows", pack_and_count)
    assert as_lists(resumed.batch(400)) == expected
    assert len(windows) == 1
    assert [as_lists(resumed.batch(step)) for step in range(380, 460)] == [
        as_lists(in_order.batch(step)) for step in range(380, 460)
    ]
    assert resumed.plan_position(0) == PlanPosition(0, 0, 0)


def test_the_shuffle_is_a_function_of_seed_and_epoch():
    first, other_seed = make_plan(seed=1), make_plan(seed=2)
    epoch_of_first = [as_lists(rows) for rows in first.epoch(0)]
    assert epoch_of_first == [as_lists(rows) for rows in make_plan(seed=1).epoch(0)]
    assert epoch_of_first != [as_lists(rows) for rows in first.epoch(1)]
    assert epoch_of_first != [as_lists(rows) for rows in other_seed.epoch(0)]


def test_the_batches_of_a_seed_do_not_change_from_one_machine_to_the_next():
    lengths = np.arange(2000) * 7 % 30 + 1
    plan = BatchPlan(
        lengths, lengths[::-1], examples=np.arange(2000), shapes=(SHAPE,), packing=True, window=700, seed=5
    )
    # Written down from a run.
    assert plan.plan_position(140) == (1, 1, 128)
    assert as_lists(plan.batch(140))[:2] == [[1526, 1136, 605, 1925], [975, 1174, 36]]


def test_without_a_seed_the_order_is_the_examples_own():
    plan = make_plan(seed=None, window=1000, packing=False)
    assert [as_lists(rows) for rows in plan.epoch(0)] == [as_lists(rows) for rows in plan.epoch(3)]
    small = BatchPlan(
        np.array([2, 2, 2]), np.array([2, 2, 2]), examples=np.array([4, 7, 9]), packing=False, window=8, seed=None,
        shapes=(RowShape(rows=2, source_length=2, target_length=2),),
    )  # fmt: skip
    assert [as_lists(rows) for rows in small.epoch()] == [[[4], []], [[7], [9]]]


def test_windows_are_equal_and_no_small_one_is_left_over():
    def windows(num_examples, window):
        ones = np.ones(num_examples, np.int32)
        shape = RowShape(rows=2, source_length=4, target_length=5)
        return BatchPlan(
            ones, ones, examples=np.arange(num_examples), shapes=(shape,), packing=True, window=window, seed=0
        ).num_windows()

    assert windows(1999, 1000) == 1
    assert windows(2000, 1000) == 2
    # A batch holds 2 x 4 examples, and a window at least 32 batches.
    assert windows(2560, 1) == 10


def test_fill_counts_tokens_against_all_places():
    plan = make_plan(window=3000)
    source_lengths, target_lengths = random_lengths(3000)
    places = len(list(plan.epoch())) * 8 * (64 + 48)
    assert plan.fill() == pytest.approx((source_lengths.sum() + target_lengths.sum()) / places)
    assert plan.fill() > 0.9


def test_the_shares_of_the_processes_are_the_rows_in_order():
    rows = make_plan().batch(0)
    for count in (1, 2, 4, 8):
        shares = [rows.share(index, count) for index in range(count)]
        assert [row for share in shares for row in as_lists(share)] == as_lists(rows)
    with pytest.raises(ValueError, match="8 rows cannot be shared by 3"):
        rows.share(0, 3)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        make_plan(0)
