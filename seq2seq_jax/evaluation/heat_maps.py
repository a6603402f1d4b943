"""Heat maps of attention weights between source and target tokens."""

import functools
import io
import math
import os
import pathlib
import textwrap
import unicodedata

import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seq2seq_jax.files import write_whole

_DPI = 120
_MARGIN, _HEADER_GAP = 0.2, 0.1  # inches, as all lengths here
_LARGEST_CELL, _SMALLEST_CELL = 0.55, 0.27
_GRID = 7.0  # cells shrink to stay within it, but not below the smallest size
_LARGEST_GRID = 60.0  # side of the grid for very many tokens; cells then shrink further
_TIME_GRID = 9.0  # width of the grid for a source of sound
_LABEL_HEIGHT = 0.14  # cells smaller than that cannot all have a label
_LABELS_APART = 1.5  # distance of horizontal labels, in widths of a character
_BAR_GAP, _BAR_WIDTH, _SHORTEST_BAR, _LONGEST_BAR = 0.25, 0.16, 1.4, 5.0
_BAR_LABELS = 0.65
_NARROWEST_HEADER = 5.0
_TITLE_SIZE, _TEXT_SIZE = 13.0, 10.0  # points
_LINE = 1.45  # distance of lines, in font sizes
_FONT = "DejaVu Sans"  # comes with matplotlib
_SUBSTITUTE = "Last Resort"  # fonts with a box for every character


def plot_attention(
    weights: Float[np.ndarray, "target source"],
    path: str | os.PathLike,
    *,
    source_tokens: list[str],
    target_tokens: list[str],
    title: str,
    texts: tuple[str, ...] = (),
    is_time: bool = False,
) -> None:
    """Write `attention_heat_map` to a PNG file; creates its directory."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = attention_heat_map(
        weights, source_tokens=source_tokens, target_tokens=target_tokens, title=title, texts=texts, is_time=is_time
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def attention_heat_map(
    weights: Float[np.ndarray, "target source"],
    *,
    source_tokens: list[str],
    target_tokens: list[str],
    title: str,
    texts: tuple[str, ...] = (),
    is_time: bool = False,
) -> Figure:
    """A figure with source tokens along the top, target tokens along the left, and a cell for each pair.

    Its size grows with the number of tokens. Characters without a glyph in any installed font are shown as code points.

    Args:
        weights: in [0, 1].
        texts: further lines above the heat map.
        is_time: the source tokens are times in seconds, of which some are shown; cells may be narrower than high.

    Returns:
        A figure that is not registered with pyplot.
    """
    everything = "".join([*source_tokens, *target_tokens, title, *texts])
    families, missing = _fonts_for(frozenset(everything))
    rows, columns = weights.shape
    longest = rows if is_time else max(rows, columns)
    cell = min(max(_GRID / longest, _SMALLEST_CELL), _LARGEST_CELL, _LARGEST_GRID / longest)
    cell_width = min(cell, _TIME_GRID / columns) if is_time else cell
    height, width = cell * rows, cell_width * columns
    font_size = min(11.0, max(8.0, 24 * cell))

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(weights, vmin=0, vmax=1, cmap="Blues", aspect="auto", interpolation="nearest")
    tokens = [[_shown(token, missing) for token in side] for side in (source_tokens, target_tokens)]
    columns_apart = math.ceil(_LABEL_HEIGHT / cell)
    if is_time:
        longest_label = max(_text_width(token, font_size) for token in source_tokens)
        columns_apart = math.ceil((longest_label + _LABELS_APART * _text_width("n", font_size)) / cell_width)
    apart = (columns_apart, math.ceil(_LABEL_HEIGHT / cell))
    _label(axes, *tokens, apart=apart, cell_width=cell_width, font_size=font_size, families=families)
    if is_time:
        axes.set_xlabel("source (seconds)", fontsize=9, color="0.35", labelpad=6)
    if cell_width >= _SMALLEST_CELL:
        _draw_borders(axes, weights.shape)

    # The size of the figure follows from the sizes of the labels; the axes keep the size that the cells need.
    figure.draw_without_rendering()
    extent = axes.get_tightbbox().transformed(figure.dpi_scale_trans.inverted())
    left, above = _MARGIN - min(extent.x0, 0), max(extent.y1 - height, 0)
    bar_height = min(max(height, _SHORTEST_BAR), _LONGEST_BAR)
    right = max(extent.x1 - width, _BAR_GAP + _BAR_WIDTH + _BAR_LABELS) + _MARGIN
    total_width = max(left + width + right, 2 * _MARGIN + _NARROWEST_HEADER)
    header = [(_shown(title, missing), _TITLE_SIZE, "black")]
    for text in texts:
        lines = _wrapped(_shown(text, missing), total_width - 2 * _MARGIN, _TEXT_SIZE)
        header += [(line, _TEXT_SIZE, "0.35") for line in lines]
    header_height = sum(size * _LINE / 72 for _, size, _ in header) + _HEADER_GAP
    below = _MARGIN + max(bar_height - height, 0)
    total_height = below + height + above + header_height + _MARGIN

    figure.set_size_inches(total_width, total_height)
    axes.set_position((left / total_width, below / total_height, width / total_width, height / total_height))
    bar_axes = figure.add_axes(
        (
            (left + width + _BAR_GAP) / total_width,
            (below + height - bar_height) / total_height,
            _BAR_WIDTH / total_width,
            bar_height / total_height,
        )
    )
    bar = figure.colorbar(image, cax=bar_axes)
    bar.outline.set_edgecolor("0.7")
    bar.ax.tick_params(labelsize=9, color="0.7")
    bar.set_label("attention weight", fontsize=9, color="0.35")
    y = total_height - _MARGIN
    for line, size, color in header:
        figure.text(
            _MARGIN / total_width, y / total_height, line, va="top", fontsize=size, color=color, family=families,
            parse_math=False,
        )  # fmt: skip
        y -= size * _LINE / 72
    return figure


def characters_without_a_font(text: str) -> frozenset[str]:
    """The characters of a text without a glyph in any installed font, which a figure shows as code points."""
    return _fonts_for(frozenset(text))[1]


def _label(
    axes: Axes,
    source_tokens: list[str],
    target_tokens: list[str],
    *,
    apart: tuple[int, int],
    cell_width: float,
    font_size: float,
    families: tuple[str, ...],
) -> None:
    """Tokens along the top and the left.

    Args:
        apart: columns from one label to the next, and rows.
    """
    columns_apart, rows_apart = apart
    room = cell_width * columns_apart - _LABELS_APART * _text_width("n", font_size)
    upright = all(_text_width(token, font_size) <= room for token in source_tokens)
    style = {"fontsize": font_size, "family": list(families), "parse_math": False}
    turned = {} if upright else {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    axes.xaxis.tick_top()
    columns, rows = range(0, len(source_tokens), columns_apart), range(0, len(target_tokens), rows_apart)
    axes.set_xticks(columns, source_tokens[::columns_apart], **style, **turned)
    axes.set_yticks(rows, target_tokens[::rows_apart], **style)
    axes.tick_params(length=0, pad=4)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("source", fontsize=9, color="0.35", labelpad=6)
    axes.set_ylabel("target", fontsize=9, color="0.35", labelpad=6)


def _draw_borders(axes: Axes, shape: tuple[int, int]) -> None:
    """Thin lines between the cells, which guide the eye along rows and columns."""
    for axis, size in zip((axes.yaxis, axes.xaxis), shape, strict=True):
        axis.set_ticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color("0.7")


def _text_width(text: str, font_size: float) -> float:
    """Approximate width of a line, in inches: 0.62 font sizes per character, 1 per wide character."""
    ems = sum(1.0 if unicodedata.east_asian_width(character) in "WF" else 0.62 for character in text)
    return ems * font_size / 72


def _wrapped(text: str, width: float, font_size: float) -> list[str]:
    columns = width / (_text_width(text, font_size) / len(text)) if text else 1
    return textwrap.wrap(text, max(8, int(columns)), subsequent_indent="    ")


def _shown(text: str, missing: frozenset[str]) -> str:
    """The text, with characters that cannot be drawn replaced by code points such as <U+65E5>."""
    return "".join(
        f"<U+{ord(character):04X}>" if character in missing or not _is_drawn(character) else character
        for character in text
    )


def _is_drawn(character: str) -> bool:
    # Not a line break or another control character.
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


@functools.lru_cache(maxsize=1024)
def _fonts_for(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The installed fonts with glyphs for the characters, matplotlib's own first, and the characters that no font
    has.
    """
    families = [_FONT]
    missing = {character for character in characters if _is_drawn(character)}
    missing -= _characters(font_manager.findfont(_FONT))
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.name):
        if not missing:
            break
        if entry.style != "normal" or entry.weight != 400 or entry.name.startswith(_SUBSTITUTE):
            continue
        found = missing & _characters(entry.fname)
        if found:
            families.append(entry.name)
            missing -= found
    return tuple(families), frozenset(missing)


@functools.cache
def _characters(path: str) -> frozenset[str]:
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
