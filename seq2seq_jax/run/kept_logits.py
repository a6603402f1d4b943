"""The logits of a made pair, by which a copy of a model is checked without the original; and those of transformers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import Batch, FrameRows, TokenRows
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.pretrained.checkpoint import Checkpoint, read_json
from seq2seq_jax.pretrained.table import nested

CHECK_FILE = "seq2seq_jax_check.json"
"""Token ids and the logits that the model has for them, float32, so that a copy can be checked without the original."""
CHECK_TOLERANCE = 1e-4


def fingerprint(model: Any, params: Any, tokenizer: Tokenizer, *, ids: Sequence[int] | None = None) -> dict[str, Any]:
    """Ids of two made pairs, and their logits in float32: equal for a copy.

    Args:
        ids: id of the model -> id of the copy, or -1 for one that the copy has not; None = they are the same.
    """
    vocabulary = tokenizer.vocabulary
    rng = np.random.default_rng(0)
    special = {vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id, *vocabulary.never_ids}
    special.add(vocabulary.end_id("source"))
    tokens = [index for index in range(min(vocabulary.source_size, vocabulary.target_size)) if index not in special]
    source, target = (
        [*rng.choice(tokens, length).tolist(), vocabulary.end_id(side)]
        for side, length in (("source", 7), ("target", 5))
    )
    logits = logits_of(model, params, source, target)
    copied = list(range(vocabulary.target_size)) if ids is None else list(ids)
    # Enough to tell models apart, whatever the size of the vocabulary.
    shown = [token for token, there in enumerate(copied) if there >= 0][:64]
    return {
        "source": [copied[token] for token in source] if ids is not None else source,
        "target": [copied[token] for token in target] if ids is not None else target,
        "tokens": [copied[token] for token in shown],
        "logits": [[float(row[token]) for token in shown] for row in logits],
    }


def logits_of(model: Any, params: Any, source: list[int], target: list[int]) -> np.ndarray:
    """Logits of the tokens of one target, [target, vocab], in float32.

    Args:
        source: token ids; where sources are frames, made ones at as many positions.
    """

    def row(ids: list[int]) -> TokenRows:
        tokens = jnp.asarray([ids], jnp.int32)
        return TokenRows(
            tokens=tokens, segment_ids=jnp.ones_like(tokens), positions=jnp.arange(len(ids))[None], max_segments=1
        )

    exact = type(model)(dataclasses.replace(model.config, precision="float32"), model.vocabulary)
    read = row(source) if model.config.front_end is None else made_frames(model.config, len(source))
    return np.asarray(jax.jit(lambda params, batch: exact.apply({"params": params}, batch))(
        params, Batch(source=read, target=row(target))
    ))[0]  # fmt: skip


def made_frames(config: ModelConfig, positions: int) -> FrameRows:
    """A row of one source of frames, always the same, for a model with a front end."""
    num_features, kind = config.front_end.stored
    stride = config.source_stride
    values = np.sin(np.outer(np.arange(positions * stride) + 1.0, np.sqrt(np.arange(num_features) + 1.0)))
    if kind == "int16":
        values = values * 1_000
    return FrameRows(
        values=jnp.asarray(values.reshape(1, positions, stride, num_features).astype(kind)),
        counts=jnp.full((1, positions), stride, jnp.int32),
        segment_ids=jnp.ones((1, positions), jnp.int32),
        positions=jnp.arange(positions)[None],
        max_segments=1,
    )


def check_copy(checkpoint: Checkpoint) -> float | None:
    """The largest difference of a checkpoint's logits from those that were kept beside it; None = none were.

    Raises:
        ValueError: they differ by more than rounding.
    """
    path = checkpoint.directory / CHECK_FILE
    if not path.is_file():
        return None
    facts = read_json(path)
    model = checkpoint.model().build(checkpoint.vocabulary)
    found = logits_of(model, nested(checkpoint.load()), facts["source"], facts["target"])
    expected = np.array(facts["logits"], np.float32)
    tokens = facts.get("tokens", range(expected.shape[1]))
    difference = float(np.abs(found[:, list(tokens)] - expected).max())
    # In the dtype of the files, rounding may be more than that of float32.
    low = any(tensor.dtype not in ("F32", "F64") for tensor in checkpoint.files.tensors.values())
    if not difference <= (0.1 if low else CHECK_TOLERANCE) * max(1.0, float(np.abs(expected).max()) / 10):
        raise ValueError(
            f"{checkpoint.directory} does not give the logits of {CHECK_FILE}: the largest difference is "
            f"{difference:.3g}. It was changed or damaged; copy it again."
        )
    return difference


def compare_with_transformers(checkpoint: Checkpoint) -> str:
    """A sentence on how near the logits of a checkpoint are to those of transformers.

    Raises:
        ValueError: transformers is not installed, or they differ.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("--check needs torch and transformers, and they are not installed. Leave it out.") from error
    theirs = getattr(transformers, checkpoint.family.architecture).from_pretrained(checkpoint.directory).eval()
    model, vocabulary = checkpoint.model().build(checkpoint.vocabulary), checkpoint.vocabulary
    rng = np.random.default_rng(0)
    source, target = (rng.integers(4, checkpoint.described.vocabulary_size, 9).tolist() for _ in range(2))
    inputs: dict[str, Any] = {"input_ids": torch.tensor([source])}
    if model.config.front_end is not None:
        # transformers takes frames of the full length alone.
        source = [0] * model.source_position_limit
        frames = np.asarray(made_frames(model.config, len(source)).values, np.float32)
        inputs = {"input_features": torch.tensor(frames.reshape(1, -1, frames.shape[-1]).transpose(0, 2, 1))}
    found = logits_of(model, nested(checkpoint.load()), source, target)
    with torch.no_grad():
        expected = theirs.float()(
            **inputs, decoder_input_ids=torch.tensor([[vocabulary.bos_id, *target[:-1]]])
        ).logits[0].numpy()  # fmt: skip
    difference = float(np.abs(found - expected).max())
    if not difference < CHECK_TOLERANCE * max(1.0, float(np.abs(expected).max()) / 10):
        raise ValueError(
            f"{checkpoint.directory}: logits differ from those of transformers by up to {difference:.3g}. Report it "
            "with the config."
        )
    return f"logits are those of transformers {transformers.__version__} (largest difference {difference:.2g})"
