"""Scores by source length: groups and their picture."""

import pytest

from studies.lengths import by_length, length_plot

SOURCES = ["a", "a b c", "a b", "a b c d e", "a b c d", ""]


def test_groups_have_all_sources_once_by_their_words():
    groups = by_length([*SOURCES[:5], "a  b"], (2, 4))
    assert [(group.name, group.members) for group in groups] == [
        ("≤ 2", (0, 2, 5)),
        ("3–4", (1, 4)),
        ("> 4", (3,)),
    ]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [((4, 2), "--bounds must ascend"), ((0, 2), "--bounds must ascend"), ((2, 9), "no source has > 9 words")],
)
def test_bounds_that_do_not_fit(bounds, message):
    with pytest.raises(ValueError, match=message):
        by_length(SOURCES, bounds)


def test_the_picture_has_a_line_a_run():
    groups = by_length(SOURCES[:5], (2, 4))
    (axes,) = length_plot(groups, {"one": [30.0, 20.0, 10.0], "other": [31.0, 32.0, 33.0]}).axes
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    assert list(axes.lines[1].get_ydata()) == [31.0, 32.0, 33.0]
    assert axes.get_xticklabels()[0].get_text() == "≤ 2\n(2 sentences)"
