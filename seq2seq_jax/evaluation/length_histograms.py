"""Histograms of the lengths of examples."""

import io
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from seq2seq_jax.files import write_whole

_BINS = 60
"""At most, all of one width."""
_SHOWN = 0.995
"""Fraction of the examples whose lengths are drawn; the rest is in the last bar."""


def plot_lengths(
    lengths: Mapping[str, Mapping[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    limits: Mapping[str, int | None],
    title: str,
) -> None:
    """Write a PNG file with a histogram per split and column, and the limit of each column.

    Args:
        lengths: split -> column -> tokens of each example.
        limits: column -> tokens that an example may have; None = any.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(limits)
    figure = Figure(figsize=(5.2 * len(columns), 2.2 * len(lengths) + 0.9), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(lengths), len(columns), squeeze=False, sharex="col")
    for column, name in enumerate(columns):
        of_splits = [of_columns[name] for of_columns in lengths.values() if len(of_columns[name])]
        limit = limits[name]
        longest = max([limit or 1, *(int(np.quantile(each, _SHOWN)) for each in of_splits)])
        width = -(-longest // _BINS)
        edges = np.arange(0, longest + width, width)
        for row, (split, of_columns) in enumerate(lengths.items()):
            axes = grid[row][column]
            found = np.minimum(of_columns[name], longest)
            axes.hist(found, bins=edges + 0.5, color=f"C{column}")
            axes.set_title(f"{name}, {split}: {len(found):,} examples", fontsize="medium")
            axes.set_ylabel("examples")
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
            axes.grid(alpha=0.3)
            if limit is not None:
                longer = int((of_columns[name] > limit).sum())
                axes.axvline(limit + 0.5, color="black", linestyle="--", linewidth=1)
                axes.annotate(
                    f"limit {limit}: {longer:,} longer ", (limit + 0.5, 0.9), xycoords=("data", "axes fraction"),
                    ha="right", fontsize="small",
                )  # fmt: skip
        grid[-1][column].set_xlabel("tokens, EOS token included")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_whole(path, picture.getvalue())
