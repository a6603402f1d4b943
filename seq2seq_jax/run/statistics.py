"""Statistics of the features of a training split, which a run keeps as it keeps its tokenizer."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from seq2seq_jax.batch import FrameRows, Vocabulary
from seq2seq_jax.data.columns import Frames
from seq2seq_jax.data.layout import source_batches
from seq2seq_jax.data.store import Store
from seq2seq_jax.files import write_whole
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import LEAST_DEVIATION, FeatureStatistics

FILE = "features.json"
EXAMPLES_LOOKED_AT = 500
"""Examples, evenly over the split, from which statistics are computed: enough for three digits, whatever its size."""
POSITIONS_PER_BATCH = 4096


def needs_statistics(model: ModelConfig) -> bool:
    """Whether a model normalises by statistics of the training split."""
    return model.front_end is not None and model.front_end.normalization == "training"


def feature_statistics(model: ModelConfig, store: Store, column: Frames, vocabulary: Vocabulary) -> FeatureStatistics:
    """Mean and deviation of each feature, of frames of some examples.

    Args:
        store: of the training split.
        column: what sources are.
    """
    front_end = dataclasses.replace(model.front_end, normalization="none", spec_augment=None)
    module = front_end.build(
        model_dim=model.encoder.model_dim, parts=model.reduction, precision="float32", statistics=None
    )

    @jax.jit
    def features(source: FrameRows):
        return module.apply({}, source, method="features")

    stored = store.columns["source"]
    chosen = np.unique(np.linspace(0, len(store) - 1, min(EXAMPLES_LOOKED_AT, len(store))).astype(np.int64))
    sources = [found for index in chosen if 0 < len(found := stored[index]) <= column.max_length]
    number, total, squares = 0, 0.0, 0.0
    for batch in source_batches(
        sources,
        column=column,
        vocabulary=vocabulary,
        source_tokens_per_batch=POSITIONS_PER_BATCH,
        max_length=column.max_length // column.stride,
    ):
        values, ids = jax.device_get(features(batch.source))
        frames = values[ids > 0].astype(np.float64)
        number, total, squares = number + len(frames), total + frames.sum(axis=0), squares + (frames**2).sum(axis=0)
    mean = total / max(number, 1)
    deviation = np.maximum(np.sqrt(np.maximum(squares / max(number, 1) - mean**2, 0.0)), LEAST_DEVIATION)
    # Six digits, so that the last bits of a sum, which depend on the machine, decide nothing.
    return FeatureStatistics(*(tuple(float(f"{each:.6g}") for each in values) for values in (mean, deviation)))


def save_statistics(statistics: FeatureStatistics, directory: Path) -> None:
    """Write them to a run's directory."""
    write_whole(directory / FILE, json.dumps(statistics._asdict(), indent=1))


def load_statistics(directory: Path) -> FeatureStatistics:
    """Those of a run.

    Raises:
        ValueError: there are none, or they are damaged.
    """
    path = directory / FILE
    try:
        values = json.loads(path.read_text())
        return FeatureStatistics(*(tuple(map(float, values[name])) for name in FeatureStatistics._fields))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path}, which holds the statistics that the features of this run are normalised by, is missing or "
            "damaged. Copy it from where the run was trained."
        ) from error
