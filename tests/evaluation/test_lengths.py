"""Groups of sources by length."""

import pytest

from seq2seq_jax.evaluation.lengths import by_length

SOURCES = ["a", "a b c", "a b", "a b c d e", "a b c d", "a  b", ""]


def test_groups_have_all_sources_once_by_their_words():
    assert [(group.name, group.members) for group in by_length(SOURCES, (2, 4))] == [
        ("≤ 2", (0, 2, 5, 6)),
        ("3–4", (1, 4)),
        ("> 4", (3,)),
    ]


def test_without_bounds_groups_are_about_equal():
    sources = ["a " * length for length in range(1, 41)]
    assert [(group.name, len(group.members)) for group in by_length(sources)] == [
        ("≤ 11", 11), ("12–21", 10), ("22–31", 10), ("> 31", 9),
    ]  # fmt: skip
    # Of sources of one length there is one group, and none is empty where lengths repeat.
    assert [(group.name, group.members) for group in by_length(["a b", "c d"])] == [("all", (0, 1))]
    assert [(group.name, len(group.members)) for group in by_length(["a"] * 8 + ["a b"])] == [("≤ 1", 8), ("> 1", 1)]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [((4, 2), "--bounds must ascend"), ((0, 2), "--bounds must ascend"), ((2, 9), "no source has > 9 words")],
)
def test_bounds_that_do_not_fit(bounds, message):
    with pytest.raises(ValueError, match=message):
        by_length(SOURCES, bounds)
