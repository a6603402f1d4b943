"""The picture has a cell for each two tokens, their names along its sides, and room for all of them."""

import itertools
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest

from seq2seq_jax.evaluation.heat_maps import attention_heat_map, characters_without_a_font, plot_attention

SOURCE = ["▁two", "▁$5", "▁red", "▁cows", "</s>"]
TARGET = ["▁es", "▁Kühe", "<0xC3>", "</s>"]
WEIGHTS = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)


def heat_map(weights=WEIGHTS, source=SOURCE, target=TARGET, title="Layer 1", texts=()):
    return attention_heat_map(weights, source_tokens=source, target_tokens=target, title=title, texts=texts)


def of_size(rows, columns, word="▁Kühe"):
    return heat_map(np.full((rows, columns), 0.5, np.float32), [word] * columns, [word] * rows)


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def inches(figure, extent):
    return extent.transformed(figure.dpi_scale_trans.inverted())


def test_cells_hold_the_weights_between_0_and_1():
    axes, bar = heat_map().axes
    [image] = axes.images
    np.testing.assert_array_equal(image.get_array(), WEIGHTS)
    assert image.get_clim() == (0, 1)
    assert bar.get_ylim() == (0, 1)
    # The first target token is at the top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_source_tokens_stand_along_the_top_and_target_tokens_down_the_side():
    axes = heat_map().axes[0]
    assert labels(axes.xaxis) == SOURCE
    assert labels(axes.yaxis) == TARGET
    assert axes.xaxis.get_ticks_position() == "top"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("source", "target")
    assert axes.get_xticks().tolist() == [0, 1, 2, 3, 4]


def test_title_and_texts_stand_above_and_dollars_are_no_formulas():
    figure = heat_map(title="Layer $1$ of 2", texts=("source: it costs $5 or $6", "target: " + "viele Wörter " * 40))
    texts = [text.get_text() for text in figure.texts]
    assert texts[:2] == ["Layer $1$ of 2", "source: it costs $5 or $6"]
    assert " ".join(" ".join(texts[2:]).split()) == "target: " + " ".join(["viele Wörter"] * 40)
    assert len(texts) > 5, "wrapped"
    everything = [*figure.texts, *figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
    assert not any(text.get_parse_math() for text in everything)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (3, 60), (60, 3), (60, 60), (20, 20)])
def test_there_is_room_for_everything_and_nothing_overlaps(rows, columns):
    figure = of_size(rows, columns, word="▁Strömungsmechanik")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    parts = [figure.axes[0].get_tightbbox(), figure.axes[1].get_tightbbox()]
    parts += [text.get_window_extent() for text in figure.texts]
    parts = [inches(figure, part) for part in parts]
    for part in parts:
        assert part.x0 >= 0 and part.y0 >= 0 and part.x1 <= width and part.y1 <= height
    cells, bar, *header = parts
    assert all(line.y0 > cells.y1 and line.y0 > bar.y1 for line in header)
    grid = inches(figure, figure.axes[0].get_window_extent())
    assert bar.x0 > grid.x1
    # Cells are squares that a label fits beside.
    assert grid.width / columns == pytest.approx(grid.height / rows)
    assert grid.height / rows > 0.25
    for axis, dim in ((figure.axes[0].yaxis, 1), (figure.axes[0].xaxis, 0)):
        extents = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert len(extents) == (rows if dim else columns)
        if dim:
            assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(extents))


def test_short_source_tokens_stand_upright_and_long_ones_slant():
    assert {label.get_rotation() for label in of_size(3, 5, word="a").axes[0].get_xticklabels()} == {0}
    assert {label.get_rotation() for label in of_size(3, 5, word="animals").axes[0].get_xticklabels()} == {45}


def test_times_are_narrow_columns_of_which_some_are_named():
    times = [f"{0.04 * position:.2f}" for position in range(127)]
    figure = attention_heat_map(
        np.full((8, 127), 0.5), source_tokens=times, target_tokens=["▁two"] * 8, title="a", is_time=True
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_xlabel() == "source (seconds)"
    assert len(labels(axes.yaxis)) == 8 and figure.get_size_inches()[0] < 12
    places, shown = axes.get_xticks().tolist(), labels(axes.xaxis)
    assert shown == [times[place] for place in places] and 10 <= len(shown) < 40
    extents = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(extents))


@pytest.mark.long
def test_very_many_tokens_do_not_make_an_endless_picture():
    figure = of_size(600, 900)
    assert max(figure.get_size_inches()) < 65
    shown = labels(figure.axes[0].xaxis)
    assert 300 <= len(shown) < 900


def test_what_no_font_has_is_shown_as_code_points_without_a_warning(tmp_path):
    # A noncharacter, which no font has, a control character, and a letter of a font that is only second choice.
    source = ["▁\U0010fffe", "\x07", "ⓐ", "Ω", "й", "</s>"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = heat_map(np.ones((4, 6), np.float32) / 6, source, title="a\u2028\U0010fffe", texts=("one\ttwo",))
        figure.savefig(tmp_path / "picture.png")
    assert labels(figure.axes[0].xaxis) == ["▁<U+10FFFE>", "<U+0007>", "ⓐ", "Ω", "й", "</s>"]
    assert characters_without_a_font("".join(source) + "Kühe größer") == {"\U0010fffe"}


def test_the_file_is_a_png_that_is_as_large_as_the_figure(tmp_path):
    path = tmp_path / "new" / "picture.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_attention(WEIGHTS, path, source_tokens=SOURCE, target_tokens=TARGET, title="Kühe für große Übungen")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    figure = heat_map(title="Kühe für große Übungen")
    size = struct.unpack(">II", content[16:24])
    np.testing.assert_allclose(size, figure.get_size_inches() * figure.dpi, atol=1)


def test_no_global_state_of_matplotlib_is_touched():
    program = (
        "import sys, numpy; from seq2seq_jax.evaluation.heat_maps import attention_heat_map\n"
        "attention_heat_map(numpy.ones((1, 1)), source_tokens=['a'], target_tokens=['b'], title='c')\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
