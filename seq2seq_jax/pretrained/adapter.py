"""Changes of low rank (LoRA) as the files of a PEFT adapter: adapter_config.json and adapter_model.safetensors.

A linear layer NAME of the base model has NAME.lora_A.weight [rank, inputs] and NAME.lora_B.weight [outputs, rank],
whose product is multiplied by lora_alpha / r.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.linear import LORA_IN, LORA_OUT
from seq2seq_jax.pretrained.checkpoint import Checkpoint, read_json
from seq2seq_jax.pretrained.family import Described, Family
from seq2seq_jax.pretrained.safetensors_files import NewTensor, StoredTensor, describe_names, read_header, write_file
from seq2seq_jax.pretrained.table import LAYERS as LAYERS_DIM
from seq2seq_jax.pretrained.table import Place, places
from seq2seq_jax.pretrained.transforms import Matrix

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LAYERS = ("query", "key", "value", "output", "expand", "gate", "contract")

PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None, []),
    "lora_bias": (False, None),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""Fields of adapter_config.json with the only values that are built; the others are read, or say nothing here."""


def linear_layers(expected: Mapping[str, Place]) -> dict[str, Place]:
    """Name of each linear layer of a base model that can have a change -> where its kernel belongs."""
    return {
        name.removesuffix(".weight"): place
        for name, place in expected.items()
        if name.endswith(".weight") and isinstance(place.entry.transform, Matrix) and _side_and_kind(place)[1] in LAYERS
    }


def _alpha(config: Mapping[str, Any], name: str) -> float:
    """lora_alpha of a linear layer: that of the first pattern that matches the end of its name, or the general one."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return alpha
    return config.get("lora_alpha", 8)


def _side_and_kind(place: Place) -> tuple[str, str]:
    """Whose stack a linear layer is in, and which of its layers it is."""
    side, *_, kind, _ = place.entry.paths[0].split("/")
    return side, kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """An opened adapter of a checkpoint.

    Attributes:
        directory: where it lies.
        tensors: (name of a linear layer, "A" or "B") -> its factor.
        layers: name of each linear layer with a change -> where its kernel belongs.
        ranks, scales: of each side that has changes.
    """

    directory: Path
    tensors: Mapping[tuple[str, str], StoredTensor]
    layers: Mapping[str, Place]
    ranks: Mapping[str, int]
    scales: Mapping[str, float]

    @classmethod
    def open(cls, directory: Path, checkpoint: Checkpoint) -> "Adapter":
        """Read config and header, and check that they fit the base model.

        Raises:
            ValueError: a kind of adapter that is not built, or one of another model.
        """
        config = read_json(directory / CONFIG_FILE)
        for name, values in PLAIN.items():
            if config.get(name, values[0]) not in values:
                raise ValueError(
                    f"{directory / CONFIG_FILE} has {name} = {config[name]!r}; built is {values[0]!r} alone."
                )
        path = directory / WEIGHTS_FILE
        if not path.is_file():
            raise ValueError(f"{directory} has no {WEIGHTS_FILE}. Give the directory of a PEFT adapter in safetensors.")
        known = {
            f"{prefix}{name}": (name, place)
            for prefix in dict.fromkeys((*checkpoint.family.prefixes, ""))
            for name, place in linear_layers(checkpoint.places).items()
        }
        tensors, layers, unknown = {}, {}, []
        for stored, tensor in read_header(path)[0].items():
            module, _, factor = stored.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
            if module not in known or factor not in ("A", "B"):
                unknown.append(stored)
                continue
            name, layers[known[module][0]] = known[module]
            tensors[name, factor] = tensor
        if unknown or not layers:
            raise ValueError(
                f"{path} has {describe_names(unknown) or 'nothing'}, which belongs to no linear layer here."
            )
        return cls._checked(directory, config, tensors, layers, checkpoint)

    @classmethod
    def _checked(cls, directory, config, tensors, layers, checkpoint) -> "Adapter":
        ranks: dict[str, int] = {}
        scales: dict[str, float] = {}
        for name, place in layers.items():
            if (name, "A") not in tensors or (name, "B") not in tensors:
                raise ValueError(f"{directory} has one factor of {name} alone. Copy it again.")
            side = _side_and_kind(place)[0]
            rank = tensors[name, "A"].shape[0]
            outputs, inputs = place.stored_shape(checkpoint.shapes)
            if tensors[name, "A"].shape != (rank, inputs) or tensors[name, "B"].shape != (outputs, rank):
                raise ValueError(
                    f"{directory}: {name} has factors {list(tensors[name, 'A'].shape)} and "
                    f"{list(tensors[name, 'B'].shape)} for a kernel of {outputs} x {inputs}. Give one of this model."
                )
            alpha = _alpha(config, name)
            if (ranks.setdefault(side, rank), scales.setdefault(side, alpha / rank)) != (rank, alpha / rank):
                raise ValueError(f"{directory}: {name} has another rank or alpha than others of its {side}: not built.")
        kinds = {_side_and_kind(place) for place in layers.values()}
        there = linear_layers(checkpoint.places)
        lacking = [name for name, place in there.items() if _side_and_kind(place) in kinds and name not in layers]
        if lacking:
            raise ValueError(
                f"{directory} changes some layers of a kind alone, and has nothing for {describe_names(lacking)}: "
                "that is not built."
            )
        return cls(directory=directory, tensors=tensors, layers=layers, ranks=ranks, scales=scales)

    def model(self, model: ModelConfig) -> ModelConfig:
        """The base model with these changes."""
        stacks = {}
        for side, rank in self.ranks.items():
            kinds = [kind for of, kind in map(_side_and_kind, self.layers.values()) if of == side]
            stacks[side] = dataclasses.replace(
                getattr(model, side),
                lora_rank=rank,
                lora_alpha=self.scales[side] * rank,
                lora_layers=tuple(kind for kind in LAYERS if kind in kinds),
            )
        return dataclasses.replace(model, **stacks)

    def load(self, layouts: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Both factors of all changes, by path.

        Args:
            layouts: shapes, dtypes and shardings by path.
        """
        found: dict[str, np.ndarray] = {}
        for name, place in self.layers.items():
            [kernel] = place.entry.paths
            for factor, part in (("A", LORA_IN), ("B", LORA_OUT)):
                path = kernel.removesuffix("kernel") + part
                values = found.setdefault(path, np.zeros(layouts[path].shape, layouts[path].dtype))
                own = values if place.layer is None else values[place.layer]
                own[...] = self.tensors[name, factor].open().T.reshape(own.shape)
        return {path: jax.device_put(values, layouts[path].sharding) for path, values in found.items()}


def write_adapter(
    directory: Path,
    params: Mapping[str, Any],
    model: ModelConfig,
    family: Family,
    described: Described,
    *,
    base: str,
) -> int:
    """Write the files of an adapter.

    Args:
        params: of the model, by path.
        model: with LoRA.
        family, described: of the base model.
        base: its name, for whoever loads the adapter.

    Returns:
        The number of tensors.
    """
    shapes = {path: values for path, values in params.items() if path.endswith("/kernel")}
    entries = [entry for entry in family.table(described) if all(path in shapes for path in entry.paths)]
    prefix, tensors = next(iter(family.prefixes)), []
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, place in linear_layers(places(entries, shapes)).items():
        [kernel] = place.entry.paths
        first, second = (kernel.removesuffix("kernel") + part for part in (LORA_IN, LORA_OUT))
        if first not in params:
            continue
        side, kind = _side_and_kind(place)
        lora = getattr(model, side).lora[kind]
        ranks[prefix + name], alphas[prefix + name] = lora.rank, lora.scale * lora.rank
        for factor, path in (("A", first), ("B", second)):
            values = np.asarray(params[path] if place.layer is None else params[path][place.layer], np.float32)
            matrix = values.reshape(-1, lora.rank) if factor == "A" else values.reshape(lora.rank, -1)
            stored = f"{PREFIX}{prefix}{name}.lora_{factor}.weight"
            transposed = np.ascontiguousarray(matrix.T)
            tensors.append(
                NewTensor(name=stored, dtype="F32", shape=transposed.shape, values=lambda array=transposed: array)
            )
    count = sum(
        len(values) if LAYERS_DIM in path else 1
        for path, values in params.items()
        if path.endswith((LORA_IN, LORA_OUT))
    )
    if len(tensors) != count:
        raise ValueError(
            f"{family.model_type} keeps some of the linear layers with LoRA in one tensor: their changes cannot be "
            "written as an adapter. Export the merged model."
        )
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": list(ranks),
        "rank_pattern": {name: each for name, each in ranks.items() if each != rank},
        "alpha_pattern": {name: each for name, each in alphas.items() if each != alpha},
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_file(directory / WEIGHTS_FILE, tensors, metadata={"format": "pt"})
    written = read_header(directory / WEIGHTS_FILE)[0]
    for tensor in tensors:
        if written[tensor.name].open().tobytes() != tensor.values().tobytes():
            raise ValueError(f"{tensor.name} was read back otherwise than it was written: the disk may be damaged.")
    return len(tensors)
