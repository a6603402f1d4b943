"""Draws docs/pictures/architecture.png: the rooms of the package in layers, and the way of a batch through them.

    python docs/draw_architecture.py

The layers are those of the import contract in pyproject.toml, so that the picture cannot show another order.
"""

import sys
import tomllib
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "pictures" / "architecture.png"

PURPOSES = {
    "commands": "train, evaluate, generate, chat, score, rerank, align, average, import, export, ...",
    "benchmark": "timing and profiling of a config",
    "compilation": "a step on chips that are not here",
    "reranking": "n-best lists ordered anew by features",
    "run": "directory, system, data; training and use",
    "overrides": "options",
    "experiment": "everything that a run is, as one frozen dataclass",
    "training": "loop, jitted step, checkpoints, records",
    "tasks": "what the columns of examples mean: one file per task",
    "pretrained": "checkpoints of other projects, by tables",
    "objectives": "maximum likelihood, policy gradient, adversarial; players",
    "generation": "methods over start / step",
    "rewards": "a table of rewards on token ids",
    "optimizers": "rules, schedules",
    "discriminators": "tell references from samples; losses",
    "model": "an encoder and a decoder with their embeddings",
    "encoders": "one file per family",
    "decoders": "one file per family",
    "modules": "attention, recurrences, convolutions, normalization, ...",
    "data": "sources, columns, store, plan, transforms, batches, tokenizer",
    "batch": "the arrays that all of it exchanges",
    "evaluation": "corpus metrics, plots",
    "parallel": "mesh, partition rules, processes",
    "hashing": "random numbers from keys",
    "values": "their checks",
    "effects": "of fields",
    "outside": "others' classes",
    "paths": "as written",
    "old_names": "of earlier versions",
    "version": "of this package",
    "files": "whole or absent",
}
FLOW = (
    ("text", "files, tables, tensorflow-datasets"),
    ("token store", "encoded once, found again by its digest"),
    ("plan", "batch k = f(seed, k), from lengths alone"),
    ("Batch", "rows of segments: tokens, segment ids, positions"),
    ("model", "encoder → Memory → decoder → hidden → logits"),
    ("objective", "loss as a weighted sum over the global batch"),
    ("update", "one jitted, donated step on the mesh"),
    ("checkpoint", "complete or absent, with checksums"),
    ("generation", "start / step: search or samples"),
    ("scores", "sacreBLEU, chrF, exact match"),
)
DATA_STEPS = ("text", "token store", "plan", "Batch")
BOX, WITHIN, DATA = "#dbe7f3", "#eef3f8", "#f6e7c9"


def layers() -> list[list[str]]:
    """The rooms from top to bottom; those in one list do not import each other."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rooms,) = (contract["layers"] for contract in contracts if contract["name"] == "Rooms")
    named = [[room.strip().removeprefix("seq2seq_jax.") for room in layer.split("|")] for layer in rooms]
    return [layer for layer in named if layer != ["studies"]]


def draw() -> plt.Figure:
    """The figure: layers on the left, the way of a batch on the right."""
    rooms = layers()
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 8.4), width_ratios=[3, 2.4])
    for axes, height in ((left, len(rooms)), (right, len(rooms))):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, height)
        axes.axis("off")
    left.set_title("Rooms: each imports only from below", loc="left", fontsize=12, fontweight="bold")
    right.set_title("The way of a batch", loc="left", fontsize=12, fontweight="bold")
    for index, layer in enumerate(rooms):
        bottom, width = len(rooms) - 1 - index, 1 / len(layer)
        for column, room in enumerate(layer):
            purpose = PURPOSES[room]
            _box(left, column * width, bottom, width, name=room, text=purpose, color=WITHIN)
    step = len(rooms) / len(FLOW)
    for index, (name, text) in enumerate(FLOW):
        bottom = len(rooms) - (index + 1) * step
        _box(right, 0.05, bottom, 0.9, name=name, text=text, color=DATA if name in DATA_STEPS else BOX, height=step)
        if index:
            arrow = FancyArrowPatch(
                (0.5, bottom + step + 0.13),
                (0.5, bottom + step - 0.13),
                arrowstyle="-|>",
                mutation_scale=12,
                color="#555",
            )
            right.add_patch(arrow)
    figure.tight_layout()
    return figure


def _box(
    axes: plt.Axes, x: float, y: float, width: float, *, name: str, text: str, color: str, height: float = 1.0
) -> None:
    gap = 0.12
    corner, size = (x + 0.005, y + gap), (width - 0.01, height - 2 * gap)
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.02", fc=color, ec="#7a8794"))
    # A narrow box has its text below its name.
    beside = width > 0.6
    axes.text(x + 0.02, y + height * (0.5 if beside else 0.64), name, va="center", fontsize=10, fontweight="bold")
    place = (x + 0.16 + 0.05 * (width < 1), y + height * 0.5) if beside else (x + 0.02, y + height * 0.33)
    axes.text(*place, text, va="center", fontsize=9 if beside else 7.5)


if __name__ == "__main__":
    draw().savefig(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE, dpi=110)
