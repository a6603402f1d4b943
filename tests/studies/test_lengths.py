"""Scores by source length: their picture."""

from seq2seq_jax.evaluation.lengths import by_length
from studies.lengths import length_plot


def test_the_picture_has_a_line_a_run():
    groups = by_length(["a", "a b c", "a b", "a b c d e", "a b c d"], (2, 4))
    (axes,) = length_plot(groups, {"one": [30.0, 20.0, 10.0], "other": [31.0, 32.0, 33.0]}).axes
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    assert list(axes.lines[1].get_ydata()) == [31.0, 32.0, 33.0]
    assert axes.get_xticklabels()[0].get_text() == "≤ 2\n(2 sentences)"
