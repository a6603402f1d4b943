"""Runs as models of transformers, and their changes of low rank as adapters of PEFT."""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seq2seq_jax.data.store_files import unfinished_directory
from seq2seq_jax.experiment import to_json
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.pretrained import origin
from seq2seq_jax.pretrained.adapter import write_adapter
from seq2seq_jax.pretrained.checkpoint import CONFIG_FILE, GENERATION_FILE, Checkpoint, read_json, with_chosen_rows
from seq2seq_jax.pretrained.family import Described, Family
from seq2seq_jax.pretrained.registry import FAMILIES
from seq2seq_jax.pretrained.safetensors_files import DTYPES, NewTensor, write_files
from seq2seq_jax.pretrained.table import Entry, flat, places, stored_arrays
from seq2seq_jax.pretrained.transforms import Table
from seq2seq_jax.run.description import commit_of_code
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.kept_logits import CHECK_FILE, check_copy, fingerprint

LONGEST = 1_024
"""Positions of an exported model that has no limit of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export_run` did.

    Attributes:
        model_type: architecture that it wrote.
        num_tensors: of the files.
        notes: what is otherwise there, in sentences.
    """

    model_type: str
    num_tensors: int
    notes: tuple[str, ...]


def export_run(
    run: Inference, output: Path, *, checkpoint: str = "best", progress: Callable[[str, int, int], None]
) -> Exported:
    """A run as a directory that transformers reads: whole, and read back, or not there.

    Args:
        output: a directory that is not there.
        checkpoint: best, latest or a step.
        progress: hears of work that takes a while.

    Raises:
        ValueError: no architecture of transformers is that of the run; or what was written is not what was meant.
    """
    params, step = run.parameters(checkpoint)
    model = run.experiment.model
    if model.has_lora:
        params, run = model.merge_lora(params), run.with_parts(model=model.without_lora())
    leaves = flat(params)
    kept = origin.Origin.read(run.directory.path)
    plan = _as_it_came(run, kept) if kept is not None else _by_architecture(run)
    rows = [*plan.rows, *plan.family.table(plan.described)]
    if plan.origin is not None and plan.origin.rows is not None:
        of_files = {facts["as"]: name for name, facts in plan.origin.tensors.items()}
        kept_tensors = plan.origin.kept()
        tensors_kept = {name: kept_tensors[file].open for name, file in of_files.items() if file in kept_tensors}
        size = plan.described.vocabulary_size
        rows = with_chosen_rows(rows, plan.origin.rows, size, kept=tensors_kept)
    expected = places(rows, leaves)
    left = sorted(leaves.keys() - {path for place in expected.values() for path in place.entry.paths})
    if left:
        raise ValueError(f"{plan.family.model_type} has no tensors for {', '.join(left[:5])} of {run.directory.path}.")
    tensors, files = plan.tensors(expected, leaves)
    # What belongs to no parameter.
    total = len(tensors)
    with unfinished_directory(output.parent, output.name) as unfinished:
        progress("writing", 0, total)
        write_files(unfinished, tensors, metadata=plan.metadata, files=files)
        for name, content in plan.files.items():
            (unfinished / name).write_bytes(content)
        check = fingerprint(run.system.model, params, run.tokenizer, ids=None if kept is None else kept.rows)
        (unfinished / CHECK_FILE).write_text(json.dumps(check) + "\n", encoding="utf-8")
        (unfinished / "README.md").write_text(model_card(run, plan, step=step), encoding="utf-8")
        progress("reading back", 0, total)
        _read_back(unfinished, tensors, check)
        unfinished.rename(output)
    return Exported(model_type=plan.family.model_type, num_tensors=total, notes=plan.notes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is written.

    Attributes:
        family, described: the architecture, and what its config says.
        rows: of the tables of embeddings and output.
        origin: of an imported run, whose names, dtypes and files it has; None = all is float32.
        own_tensors: beside the parameters.
        files: beside the weights, by name.
        metadata: of the files of weights.
        notes: for the model card.
    """

    family: Family
    described: Described
    rows: list[Entry]
    origin: origin.Origin | None
    own_tensors: Mapping[str, np.ndarray]
    files: Mapping[str, bytes]
    metadata: Mapping[str, str]
    notes: tuple[str, ...]

    def tensors(self, expected: Any, leaves: Mapping[str, Any]) -> tuple[list[NewTensor], dict[str, str] | None]:
        """The tensors in order, and the file of each."""
        of_table = {name: (shape, values) for name, shape, values in stored_arrays(expected, leaves)}
        if self.origin is None:
            found = [
                NewTensor(name=name, dtype="F32", shape=shape, values=values)
                for name, (shape, values) in of_table.items()
            ]
            found += [
                NewTensor(name=name, dtype="F32", shape=array.shape, values=lambda array=array: array)
                for name, array in self.own_tensors.items()
            ]
            return found, None
        kept, found = self.origin.kept(), []
        for name, facts in self.origin.tensors.items():
            if facts["as"] is None:
                tensor = kept[name]
                shape, values = tensor.shape, tensor.open
            else:
                shape, values = of_table[facts["as"]]
            found.append(NewTensor(name=name, dtype=facts["dtype"], shape=tuple(shape), values=values))
        return found, {name: facts["file"] for name, facts in self.origin.tensors.items()}


def export_adapter(run: Inference, output: Path, *, checkpoint: str = "best") -> Exported:
    """The changes of low rank of a run as the files of a PEFT adapter: whole, or not there.

    Args:
        output: a directory that is not there.
        checkpoint: best, latest or a step.

    Raises:
        ValueError: the run has none, or its model is none of transformers.
    """
    model = run.experiment.model
    if not model.has_lora:
        raise ValueError(f"{run.directory.path} has no LoRA (model.encoder.lora_rank, model.decoder.lora_rank).")
    params, _ = run.parameters(checkpoint)
    merged = run.with_parts(model=model.without_lora())
    kept = origin.Origin.read(run.directory.path)
    plan = _as_it_came(merged, kept) if kept is not None else _by_architecture(merged)
    base = run.directory.path.name if kept is None else read_json(kept.config).get("_name_or_path", "")
    with unfinished_directory(output.parent, output.name) as unfinished:
        number = write_adapter(unfinished, flat(params), model, plan.family, plan.described, base=base)
        unfinished.rename(output)
    return Exported(model_type=f"LoRA of {plan.family.model_type}", num_tensors=number, notes=())


def _as_it_came(run: Inference, kept: origin.Origin) -> _Plan:
    """A run that was imported, or has started from one that was."""
    config = read_json(kept.config)
    family = FAMILIES[config["model_type"]]
    names = {facts["as"] for facts in kept.tensors.values() if facts["as"] is not None}
    values = family.values(config, allowed=config.keys(), origin=str(kept.config))
    described = family.describe(values, names, origin=str(kept.config))
    for side in ("encoder", "decoder"):
        there, here = getattr(described, side), getattr(run.experiment.model, side)
        differing = [
            field.name
            for field in dataclasses.fields(there)
            if getattr(there, field.name) != getattr(here, field.name) and "seq2seq_jax.effect" not in field.metadata
        ]
        if differing:
            raise ValueError(
                f"{run.directory.path} has another architecture than the model that it was imported from: "
                f"model.{side}.{differing[0]}. Export one that starts from it as it is."
            )
    in_table = {name for entry in family.table(described) for name in [entry.name]}
    of_tables: dict[str, str] = {}
    for path, known in family.tied.items():
        for name in known:
            if name in names and name not in in_table:
                of_tables.setdefault(path, name)
    paths = _table_paths(run.experiment.model)
    rows = []
    for path in paths:
        name = of_tables.get(path) or next(name for known in family.tied.values() for name in known if name in names)
        rows.append(Entry(name, (path,), Table()))
    content = {name: (kept.directory / origin.DIRECTORY / origin.FILES / name).read_bytes() for name in kept.files}
    return _Plan(
        family=family,
        described=described,
        rows=rows,
        origin=kept,
        own_tensors={},
        files={name: values for name, values in content.items() if name not in ("README.md", CHECK_FILE)},
        metadata=kept.metadata,
        notes=(),
    )


def _table_paths(model: ModelConfig) -> list[str]:
    """Paths of the tables that are one of their own."""
    paths = ["target_embedding/table"]
    if not model.shares_inputs and model.front_end is None:
        paths.append("source_embedding/table")
    if model.tied_embeddings in ("inputs", "none"):
        paths.append("output/table")
    return paths


def _by_architecture(run: Inference) -> _Plan:
    """A run that was trained here."""
    model, vocabulary = run.experiment.model, run.tokenizer.vocabulary
    if model.copying:
        raise ValueError(
            f"{run.directory.path} has a model that copies from its source (model.copying), which no architecture of "
            "transformers does. Train one without it to export it."
        )
    longest = max(LONGEST, run.experiment.max_source_length, run.experiment.max_target_length)
    reasons = []
    for name in ("pegasus", "marian", "t5", "umt5"):
        family = FAMILIES[name]
        try:
            config = family.config_of(model, vocabulary, longest=longest)
            break
        except ValueError as error:
            reasons.append(f"{name}: {error}")
    else:
        raise ValueError(
            f"{run.directory.path} has a model that no architecture of transformers has ({'; '.join(reasons)})."
        )
    own = family.own_tensors(model, config)
    names = {*own, *family.optional_names(model)}
    described = family.describe(family.values(config, origin=CONFIG_FILE), names, origin=CONFIG_FILE)
    tied = {path: names[0] for path, names in family.tied.items()}
    generation = {
        "bos_token_id": vocabulary.bos_id,
        "decoder_start_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
        "suppress_tokens": list(vocabulary.suppressed_ids),
        "num_beams": getattr(run.experiment.generation, "beam_size", 1),
        "max_new_tokens": run.experiment.max_target_length,
    }
    files = {
        CONFIG_FILE: json.dumps(config, indent=2).encode() + b"\n",
        GENERATION_FILE: json.dumps(generation, indent=2).encode() + b"\n",
    }
    files |= {path.name: path.read_bytes() for path in sorted(run.directory.path.glob("tokenizer*.model"))}
    notes = [
        "Text is encoded with `sentencepiece` and the model beside the weights; ids need no change. The EOS token ends "
        "every source."
    ]
    if any(
        getattr(model.encoder, name) != getattr(model.decoder, name)
        for name in ("dropout", "attention_dropout", "hidden_dropout")
    ):
        notes.append("Its sides were trained with different dropout, of which config.json has the encoder's.")
    epsilon = model.encoder.norm_epsilon
    if "norm_epsilon" in config and epsilon != 1e-5:
        notes.append(
            f"It was trained with {epsilon:g} added to the variance in each LayerNorm; transformers adds 1e-05 in this "
            "architecture, which changes logits in the fifth digit. This project reads the value from config.json."
        )
    return _Plan(
        family=family,
        described=described,
        rows=[Entry(tied[path], (path,), Table()) for path in _table_paths(model)],
        origin=None,
        own_tensors=own,
        files=files,
        metadata={"format": "pt"},
        notes=tuple(notes),
    )


def _read_back(directory: Path, tensors: list[NewTensor], check: Mapping[str, Any]) -> None:
    """Compare what lies in a directory with what was to be written.

    Raises:
        ValueError: it differs.
    """
    written = Checkpoint.open(directory, ignore_fields=read_json(directory / CONFIG_FILE).keys())
    for tensor in tensors:
        there = written.files.tensors[tensor.name].open()
        meant = np.ascontiguousarray(tensor.values(), DTYPES[tensor.dtype])
        if there.tobytes() != meant.tobytes():
            raise ValueError(f"{tensor.name} was read back otherwise than it was written: the disk may be damaged.")
    check_copy(written)


def model_card(run: Inference, plan: _Plan, *, step: int) -> str:
    """README.md of an exported model: what it is, what it was trained on, its scores."""
    experiment = run.experiment
    records = []
    path = run.directory.path / "metrics.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("kind") == "validation" and record.get("step") == step:
                records.append(record)
    scores = [
        f"| {facts.get('label', name)} | {record[name]:.2f} | {facts.get('signature', '')} |"
        for record in records
        for name, facts in record.get("metrics", {}).items()
        if name in record
    ]
    commit = commit_of_code()
    lines = [
        "---",
        "library_name: transformers",
        f"tags: [seq2seq_jax, {plan.family.model_type}]",
        "---",
        "",
        f"# {run.directory.path.name}",
        "",
        f"An encoder–decoder of the architecture {plan.family.architecture}, step {step}, written by seq2seq_jax"
        + (f" (commit {commit})" if commit else "")
        + f" on {datetime.date.today().isoformat()}.",
        "",
        *plan.notes,
        "",
        f"Data: `{type(experiment.data).__name__}`, task `{type(experiment.task).__name__}`, objective "
        f"`{type(experiment.objective).__name__}`, {experiment.training.steps:,} steps.",
        "",
    ]
    if scores:
        lines += ["| validation | score | signature |", "| --- | --- | --- |", *scores, ""]
    lines += ["## Config", "", "```json", json.dumps(to_json(experiment), indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)
