"""Parts of models that training starts with: stacks and tables, from runs and from other projects' checkpoints."""

import abc
import dataclasses
import functools
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.paths import user_path
from seq2seq_jax.pretrained.checkpoint import CONFIG_FILE, Checkpoint
from seq2seq_jax.pretrained.safetensors_files import describe_names
from seq2seq_jax.pretrained.table import flat
from seq2seq_jax.pretrained.tokenizers import read_pieces
from seq2seq_jax.pretrained.vocabulary import new_rows, rows_of_tokenizer
from seq2seq_jax.run.description import DESCRIPTION_FILE
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.training.origins import ALL, Source

TABLES = {"source_embedding/table": "source", "target_embedding/table": "target", "output/table": "target",
          "logit_bias": "target"}  # fmt: skip
"""Path of each table of tokens -> the side whose ids it has."""
NEW_OUTPUT = "decoder/layer/cross_attention/output/"
NEW_NORM = "decoder/layer/cross_residual/norm_after/scale"
"""Parameters by which attention to the encoder adds nothing where a decoder was trained without one."""


class Part(abc.ABC):
    """An origin of parts of a model.

    Attributes:
        name: for messages.
        model: what it is of; a side that it lacks is of no account.
        sides: those that it has.
    """

    name: str
    model: ModelConfig
    sides: frozenset[str]

    @property
    @abc.abstractmethod
    def shapes(self) -> Mapping[str, Any]:
        """Shape of each parameter that it has, by path."""

    @property
    @abc.abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @abc.abstractmethod
    def load(self, layouts: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Parameters by path.

        Args:
            layouts: shapes, dtypes and shardings of those that are wanted.
        """


class PartOfRun(Part):
    """A run; with LoRA, its merged parameters."""

    def __init__(self, place: str, *, mesh: MeshConfig, trust_code: Any):
        path, which = place_and_checkpoint(place)
        self.name = path
        self._run = Inference.open(path, trust_code=trust_code).with_parts(mesh=mesh)
        self._which = which
        self.model = self._run.experiment.model.without_lora()
        self.sides = frozenset(("encoder", "decoder"))

    @functools.cached_property
    def _parameters(self) -> dict[str, Any]:
        params, _ = self._run.parameters(self._which)
        return flat(self._run.experiment.model.merge_lora(params))

    @property
    def shapes(self) -> Mapping[str, Any]:
        return self._parameters

    @property
    def tokenizer(self) -> Tokenizer:
        return self._run.tokenizer

    def load(self, layouts: Mapping[str, Any]) -> dict[str, jax.Array]:
        return {path: self._parameters[path] for path in layouts}


class PartOfCheckpoint(Part):
    """A model that transformers has saved."""

    def __init__(self, directory: Path):
        self._checkpoint = Checkpoint.open(directory)
        self.name = str(directory)
        self.model = self._checkpoint.model()
        part = self._checkpoint.family.part
        self.sides = frozenset(("encoder", "decoder") if part == "encoder_decoder" else (part,))

    @property
    def shapes(self) -> Mapping[str, Any]:
        return {path: self._checkpoint.shapes[path] for path in self._checkpoint.paths}

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return read_pieces(self._checkpoint)

    def load(self, layouts: Mapping[str, Any]) -> dict[str, jax.Array]:
        return self._checkpoint.load(layouts, paths=layouts.keys())


def place_and_checkpoint(name: str) -> tuple[str, str]:
    """The directory of RUN or RUN:CHECKPOINT, and which checkpoint."""
    path, _, which = name.rpartition(":")
    return (name, "best") if not path or os.path.isdir(user_path(name)) else (path, which)


def open_part(place: str, *, mesh: MeshConfig, trust_code: Any) -> Part:
    """The origin at a place: a run, or the directory of a model.

    Raises:
        ValueError: it is neither.
    """
    path = user_path(place_and_checkpoint(place)[0])
    if not os.path.isfile(path / DESCRIPTION_FILE) and os.path.isfile(path / CONFIG_FILE):
        return PartOfCheckpoint(path)
    return PartOfRun(place, mesh=mesh, trust_code=trust_code)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembled:
    """Parameters that are given.

    Attributes:
        params: by path.
        new: paths of those that are not.
        described: what comes from where, in words.
    """

    params: dict[str, jax.Array]
    new: tuple[str, ...]
    described: tuple[str, ...]


def assemble(
    parts: Mapping[Source, Part],
    layouts: Mapping[str, Any],
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    seed: int,
) -> Assembled:
    """The parameters that come from parts of other models.

    Args:
        parts: opened origins.
        layouts: shapes, dtypes and shardings of all parameters by path.
        model, tokenizer: of the run that starts.
        seed: of rows of tokens that nothing in the origin spells.

    Raises:
        ValueError: a part is not there, or another architecture.
    """
    params: dict[str, jax.Array] = {}
    described = []
    for source, origin in parts.items():
        for name in source.parts:
            if name == ALL:
                raise ValueError(
                    f"--init-from {ALL}={source.place} is the directory of a model and no run: seq2seq import makes a "
                    "run of it. Parts of it can be taken as it is."
                )
            if name == "embeddings":
                found, remark = _tables(origin, layouts, model=model, tokenizer=tokenizer, seed=seed)
            else:
                found, remark = _stack(name, origin, layouts, model=model), ""
            params |= found
            number = sum(array.size for array in found.values())
            described.append(f"{name} from {origin.name}: {number:,} parameters{remark}")
    new = tuple(path for path in layouts if path not in params)
    return Assembled(params=params, new=new, described=tuple(described))


def _stack(side: str, origin: Part, layouts: Mapping[str, Any], *, model: ModelConfig) -> dict[str, jax.Array]:
    """The parameters of an encoder or a decoder; of a decoder, attention to an encoder of another width is new."""
    if side not in origin.sides:
        raise ValueError(f"--init-from {side}: {origin.name} has no {side}. Give another origin, or leave it out.")
    check_stack(getattr(origin.model, side), getattr(model.without_lora(), side), side=side, name=origin.name)
    wanted = {path: layout for path, layout in layouts.items() if path.startswith(f"{side}/")}
    there = {path: origin.shapes[path] for path in wanted if path in origin.shapes}
    fitting = {path: wanted[path] for path, leaf in there.items() if leaf.shape == wanted[path].shape}
    others = [path for path in there if path not in fitting and "/cross_attention/" not in path]
    if others:
        raise ValueError(f"--init-from {side}: {origin.name} has other shapes of {describe_names(others)}.")
    found = origin.load(fitting)
    if side == "decoder" and "encoder" not in origin.sides:
        found |= silent_attention(wanted, model.decoder)
    return found


def check_stack(there: Any, here: Any, *, side: str, name: str) -> None:
    """Refuse a stack of another architecture.

    Raises:
        ValueError: with the first field that differs.
    """
    if type(there) is not type(here):
        raise ValueError(
            f"--init-from {side}: {name} has a {type(there).__name__}, and this run a {type(here).__name__}."
        )
    for field in dataclasses.fields(there):
        before, after = getattr(there, field.name), getattr(here, field.name)
        if before != after and "seq2seq_jax.effect" not in field.metadata:
            raise ValueError(
                f"--init-from {side}: {name} has another {side}: model.{side}.{field.name} is {before!r} there and "
                f"{after!r} here. Use the same value, or another origin."
            )


def filled(layout: Any, value: float) -> jax.Array:
    """An array of one value, of a shape, dtype and sharding."""
    return jax.jit(lambda: jnp.full(layout.shape, value, layout.dtype), out_shardings=layout.sharding)()


def silent_attention(layouts: Mapping[str, Any], decoder: Any) -> dict[str, jax.Array]:
    """Parameters with which attention to the encoder adds nothing, so that a decoder that was trained without one
    computes what it did: a zero output or, where a norm stands behind it, whose gradient at zero is huge, a zero scale.

    Args:
        layouts: shapes, dtypes and shardings by path.
        decoder: settings of the decoder.
    """
    if getattr(decoder, "norm_position", None) == "both":
        zero = -1.0 if decoder.normalization == "rms_plus_one" else 0.0
        return {NEW_NORM: filled(layouts[NEW_NORM], zero)}
    return {path: filled(layout, 0.0) for path, layout in layouts.items() if path.startswith(NEW_OUTPUT)}


def _tables(
    origin: Part, layouts: Mapping[str, Any], *, model: ModelConfig, tokenizer: Tokenizer, seed: int
) -> tuple[dict[str, jax.Array], str]:
    """The tables of tokens, their rows by the text of the pieces; and how many were found, in words."""
    found: dict[str, jax.Array] = {}
    copied = spelled = unknown = 0
    for path, side in TABLES.items():
        if path not in layouts:
            continue
        theirs = _table_of(origin, path)
        if theirs is None:
            continue
        their_path, their_side = theirs
        there, here = origin.shapes[their_path], layouts[path]
        if there.shape[1:] != here.shape[1:]:
            raise ValueError(
                f"--init-from embeddings: {origin.name} has {path} of width {there.shape[1]}, and this run of "
                f"{here.shape[1]}. Use the same model_dim, or leave them out."
            )
        if path.endswith("embedding/table"):
            _check_scale(origin, model, their_side, side)
        rows = rows_of_tokenizer(origin.tokenizer, tokenizer, their_side, side)
        [table] = origin.load({their_path: jax.ShapeDtypeStruct(there.shape, jnp.float32)}).values()
        found[path] = new_rows(table, rows, seed=seed, sharding=here.sharding)
        if path.endswith("/table"):
            copied += sum(len(ids) == 1 for ids in rows)
            spelled += sum(len(ids) > 1 for ids in rows)
            unknown += sum(not ids for ids in rows)
    if not found:
        raise ValueError(f"--init-from embeddings: {origin.name} has no table of tokens for this run.")
    return found, f" ({copied:,} rows copied, {spelled:,} the mean of the pieces that spell them, {unknown:,} new)"


def _table_of(origin: Part, path: str) -> tuple[str, str] | None:
    """The path of an origin's table for one of this run, and the side whose ids it has; None = there is none."""
    candidates = {
        "source_embedding/table": ("source_embedding/table", "target_embedding/table"),
        # An encoder alone gives a table that both sides share.
        "target_embedding/table": ("target_embedding/table", "source_embedding/table"),
        "output/table": ("output/table", "target_embedding/table"),
        "logit_bias": ("logit_bias",),
    }[path]
    for candidate in candidates:
        if candidate in origin.shapes:
            return candidate, TABLES[candidate]
    return None


def _check_scale(origin: Part, model: ModelConfig, their_side: str, side: str) -> None:
    def is_scaled(config: ModelConfig, side: str) -> bool:
        return config.scaled_embeddings in ("both", side)

    there, here = is_scaled(origin.model, their_side), is_scaled(model, side)
    if there != here:
        raise ValueError(
            f"--init-from embeddings: {origin.name} {'multiplies' if there else 'does not multiply'} embeddings of the "
            f"{side} by the square root of their width, and this run {'does' if here else 'does not'}. Change "
            "model.scaled_embeddings."
        )


def unfamiliar(paths: Collection[str]) -> str:
    """Paths of new parameters, those of one module together, in words."""
    modules = dict.fromkeys(path.rpartition("/")[0] if "/" in path else path for path in paths)
    return describe_names(list(modules)) or "none"
