"""Runs from checkpoints of other projects, and checkpoints of other projects from runs."""

import dataclasses
import datetime
import hashlib
import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import Batch, FrameRows, TokenRows
from seq2seq_jax.data.imported_tokenizer import FILES as TOKENIZER_FILES
from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer
from seq2seq_jax.data.store_files import unfinished_directory
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.experiment import Experiment, to_json
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.transformer import TransformerConfig
from seq2seq_jax.pretrained import origin
from seq2seq_jax.pretrained.adapter import Adapter, write_adapter
from seq2seq_jax.pretrained.checkpoint import CONFIG_FILE, GENERATION_FILE, Checkpoint, read_json, with_chosen_rows
from seq2seq_jax.pretrained.ctranslate2_files import Quantization, check_model, scores, tokens_of, write_model
from seq2seq_jax.pretrained.family import OUTPUT, SOURCE, TARGET, Described, Family
from seq2seq_jax.pretrained.registry import FAMILIES
from seq2seq_jax.pretrained.safetensors_files import DTYPES, NewTensor, write_files
from seq2seq_jax.pretrained.table import Entry, flat, nested, places, stored_arrays
from seq2seq_jax.pretrained.tokenizers import join_tokenizers
from seq2seq_jax.pretrained.transforms import Table
from seq2seq_jax.run.description import commit_of_code, versions, write_description
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.system import System, build_mesh
from seq2seq_jax.run.transfer import silent_attention
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import num_parameters

CHECK_FILE = "seq2seq_jax_check.json"
"""Token ids and the logits that the model has for them, float32, so that a copy can be checked without the original."""
LONGEST = 1_024
"""Positions of an exported model that has no limit of its own."""
CHECK_TOLERANCE = 1e-4
PROGRESS = Callable[[str, int, int], None]

CONFIG_OF_RUN = '''"""Training that goes on from {name}, an imported model, with its tokenizer and parameters.

    seq2seq train {path} --run-dir NEW --data.directory DIR --data.source en --data.target de
"""

import dataclasses
from pathlib import Path

from seq2seq_jax.experiment import Experiment
from seq2seq_jax.run.description import load_experiment


def experiment() -> Experiment:
    """The experiment."""
    directory = Path(__file__).resolve().parent
    return dataclasses.replace(load_experiment(directory), init_from=str(directory))
'''


def import_run(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    experiment: Experiment,
    output: Path,
    *,
    adapter: Adapter | None = None,
    progress: PROGRESS,
) -> int:
    """A run of an encoder–decoder of another project: whole, or not there.

    Args:
        experiment: whose model and tokenizer are replaced.
        output: a directory that is not there.
        adapter: changes of low rank that the run has, too.
        progress: hears of work that takes a while.

    Returns:
        Its number of parameters.

    Raises:
        ValueError: the experiment does not suit it.
    """
    model = checkpoint.model(experiment.model.precision)
    if adapter is not None:
        model = adapter.model(model)
    experiment = with_model(experiment, model, tokenizer)
    system = System(experiment, tokenizer, build_mesh(experiment))
    layouts = flat(system.parameter_layouts[system.player])
    size, rows = tokenizer.vocabulary.target_size, checkpoint.vocabulary_size
    assert size == rows, "the tokenizer's vocabulary has been padded to the model's"
    params = checkpoint.load(layouts, progress=lambda done, total: progress("reading", done, total))
    if adapter is not None:
        params |= adapter.load(layouts)
    return _write_run(system, params, output, [checkpoint], keep=lambda unfinished: origin.keep(checkpoint, unfinished))


def import_parts(
    encoder: Checkpoint,
    decoder: Checkpoint | None,
    experiment: Experiment,
    output: Path,
    *,
    multiple: int = 1,
    progress: PROGRESS,
) -> int:
    """A run of an encoder of another project with a decoder of another, or a new one: whole, or not there.

    A decoder that was trained as a language model gets attention to the encoder whose output projection is zero, so
    that it is that language model until it is trained.

    Args:
        decoder: None = the experiment's, with new parameters, and the tokenizer of the encoder.
        experiment: of which the other settings are taken.
        output: a directory that is not there.
        multiple: of which the sizes of the vocabulary shall be one.
        progress: hears of work that takes a while.

    Returns:
        Its number of parameters.

    Raises:
        ValueError: they do not fit together, or the experiment does not suit them.

    Source: Rothe, Narayan and Severyn 2020.
    """
    model = join_models(encoder, decoder, experiment.model)
    tokenizer = join_tokenizers(encoder, encoder if decoder is None else decoder, multiple=multiple)
    experiment = with_model(experiment, model, tokenizer)
    system = System(experiment, tokenizer, build_mesh(experiment))
    layouts = flat(system.parameter_layouts[system.player])
    own_table = TARGET if model.shares_inputs else SOURCE
    encoder_layouts = {SOURCE if path == own_table else path: layout for path, layout in layouts.items()}
    wanted = [path for path in encoder.paths if path == SOURCE or path.startswith("encoder/")]
    found = padded_rows(encoder, tokenizer.vocabulary.source_size).load(encoder_layouts, paths=wanted)
    params = {own_table if path == SOURCE else path: array for path, array in found.items()}
    progress("reading", 1, 2)
    if decoder is not None:
        params |= padded_rows(decoder, tokenizer.vocabulary.target_size).load(layouts)
        params |= silent_attention(layouts, model.decoder)
    progress("reading", 2, 2)
    return _write_run(system, params, output, [encoder] if decoder is None else [encoder, decoder], keep=None)


def padded_rows(checkpoint: Checkpoint, size: int) -> Checkpoint:
    """A checkpoint with ids that stand for nothing behind its own."""
    there = checkpoint.described.vocabulary_size
    return checkpoint if size == there else checkpoint.with_rows([*range(there), *[-1] * (size - there)])


def join_models(encoder: Checkpoint, decoder: Checkpoint | None, model: ModelConfig) -> ModelConfig:
    """The model of an encoder with a decoder.

    Args:
        decoder: None = that of `model`.
        model: of whose settings those of the decoder are taken where it is new.

    Raises:
        ValueError: one of them is another part of a model.
    """
    for part, checkpoint in (("encoder", encoder), ("decoder", decoder)):
        if checkpoint is not None and checkpoint.family.part != part:
            what = checkpoint.family.part.replace("_", "–")
            raise ValueError(
                f"{checkpoint.directory} is an {what} ({checkpoint.family.model_type}), and as the {part} of a run one "
                f"is expected that is an {part} alone: DIR is an encoder–decoder, or an encoder with --decoder."
            )
    source = encoder.described.is_scaled
    if decoder is not None:
        target, stack = decoder.described.is_scaled, decoder.described.decoder
        tied, settings = "none" if OUTPUT in decoder.tables else "decoder", dict(decoder.described.model)
    else:
        stack, settings = model.decoder, {}
        shares = model.shares_inputs and stack.model_dim == encoder.described.encoder.model_dim
        tied = model.tied_embeddings if shares else "decoder" if model.tied_embeddings == "all" else "none"
        target = source if shares else model.scaled_embeddings in ("both", "target")
    scaled = {(True, True): "both", (True, False): "source", (False, True): "target", (False, False): "none"}
    return dataclasses.replace(
        model,
        encoder=encoder.described.encoder,
        decoder=stack,
        tied_embeddings=tied,
        scaled_embeddings=scaled[source, target],
        **settings,
    )


def _write_run(
    system: System,
    params: Mapping[str, Any],
    output: Path,
    origins: Sequence[Checkpoint],
    *,
    keep: Callable[[Path], None] | None,
) -> int:
    """Write a run that nothing has trained here.

    Args:
        params: by path; those that are left out are new.
        origins: what it comes from.
        keep: writes to the run's directory what export needs.

    Returns:
        Its number of parameters.
    """
    experiment, tokenizer = system.experiment, system.tokenizer
    state = system.initial_state({system.player: nested(params)})
    kinds = " and ".join(checkpoint.family.model_type for checkpoint in origins)
    names = " and ".join(checkpoint.directory.name for checkpoint in origins)
    configs = [checkpoint.config for checkpoint in origins]
    text = json.dumps(configs if len(configs) > 1 else configs[0], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with unfinished_directory(output.parent, output.name) as unfinished:
        tokenizer.save(unfinished)
        if keep is not None:
            keep(unfinished)
        config = CONFIG_OF_RUN.format(name=names, path=shlex.quote(str(output / "config.py")))
        (unfinished / "config.py").write_text(config, encoding="utf-8")
        write_description(
            unfinished,
            {
                "config": f"imported {kinds}",
                "experiment": to_json(experiment),
                "fingerprints": {"data": f"imported {digest}", "tokenizer": tokenizer.fingerprint},
                "versions": versions(),
                "commit": commit_of_code(),
                "devices": sorted({device.device_kind for device in jax.devices()}),
                "imported": {"from": " and ".join(str(each.directory) for each in origins), "model_type": kinds},
            },
        )
        with Checkpoints(unfinished / "checkpoints") as written:
            written.save(state, Progress(step=0))
            written.wait()
        unfinished.rename(output)
    return num_parameters(state.players[system.player].params)


def used_ids(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    """The ids that texts are encoded with, as sources or targets."""
    lines = list(texts)
    encoded = itertools.chain(tokenizer.encode_source(lines), tokenizer.encode_target(lines))
    return {token for ids in encoded for token in ids}


def chosen_rows(tokenizer: ImportedTokenizer, *, texts: Iterable[str] | None, multiple: int) -> list[int]:
    """New id -> id of a tokenizer, or -1 for padding.

    Args:
        texts: keep what these need alone, beside special tokens and bytes; None = keep all.
        multiple: of which the number of ids shall be one.
    """
    size = tokenizer.vocabulary.target_size
    rows = list(range(size))
    if texts is not None:
        rows = sorted(used_ids(tokenizer, texts) | tokenizer.always_needed())
    return [*rows, *[-1] * (-len(rows) % multiple)]


def with_model(experiment: Experiment, model: ModelConfig, tokenizer: Tokenizer) -> Experiment:
    """An experiment with another model and tokenizer, its rows no longer than the model has positions for.

    How a stack is compiled, and what its backward pass recomputes, stays as the experiment says where both are
    Transformers.
    """
    compiled = ("scan_layers", "remat", "attention_kernel")
    for side in ("encoder", "decoder"):
        before, stack = getattr(experiment.model, side), getattr(model, side)
        if isinstance(before, TransformerConfig) and isinstance(stack, TransformerConfig):
            stack = dataclasses.replace(stack, **{name: getattr(before, name) for name in compiled})
            model = dataclasses.replace(model, **{side: stack})
    limits = {
        "max_source_length": model.encoder.position_limit,
        "max_target_length": model.decoder.position_limit,
    }
    data = {
        name: min(getattr(experiment.data, name), limit)
        for name, limit in limits.items()
        if limit is not None and hasattr(experiment.data, name)
    }
    rows = experiment.rows_per_batch
    data = dataclasses.replace(experiment.data, **data)
    row = experiment.task.row_lengths(data)[1]
    config = TokenizerConfig(kind="imported") if isinstance(tokenizer, ImportedTokenizer) else experiment.tokenizer
    return dataclasses.replace(
        experiment,
        data=data,
        model=model,
        tokenizer=config,
        training=dataclasses.replace(experiment.training, target_tokens_per_batch=rows * row),
    )


def padded_to(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The tokenizer with a vocabulary as large as the model's tables; ids without a piece are never generated."""
    found = tokenizer.vocabulary
    is_padded = found.source_size == found.target_size == size or not found.joint
    if is_padded or not isinstance(tokenizer, ImportedTokenizer):
        return tokenizer
    return tokenizer.with_vocabulary(dataclasses.replace(found, source_size=size, target_size=size))


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


def export_run(run: Inference, output: Path, *, checkpoint: str = "best", progress: PROGRESS) -> Exported:
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


def export_ctranslate2(
    run: Inference, output: Path, *, checkpoint: str = "best", quantization: Quantization = "float32"
) -> Exported:
    """A run as a directory that CTranslate2 reads: whole, and its log-probabilities compared, or not there.

    Args:
        output: a directory that is not there.
        checkpoint: best, latest or a step.
        quantization: of weights.

    Raises:
        ValueError: CTranslate2 has no such model, or is not installed; or it computes otherwise.
    """
    check_model(run.experiment.model, name=str(run.directory.path))
    params, step = run.parameters(checkpoint)
    model = run.experiment.model
    params, model = model.merge_lora(params), model.without_lora()
    longest = max(LONGEST, run.experiment.max_source_length, run.experiment.max_target_length)
    check = fingerprint(model.build(run.tokenizer.vocabulary), params, run.tokenizer)
    expected = log_probabilities(model.build(run.tokenizer.vocabulary), params, check["source"], check["target"])
    tokens = tokens_of(run.tokenizer)
    source = [tokens["source"][token] for token in check["source"]]
    target = [tokens["target"][token] for token in check["target"]]
    with unfinished_directory(output.parent, output.name) as unfinished:
        leaves = flat(params)
        write_model(unfinished, model, leaves, run.tokenizer, longest=longest, quantization=quantization)
        found = scores(unfinished, source, target[:-1], quantization=quantization)
        difference = float(np.abs(np.array(found) - expected).max())
        if quantization == "float32" and not difference <= CHECK_TOLERANCE:
            raise ValueError(
                f"CTranslate2 gives other log-probabilities than {run.directory.path}: they differ by up to "
                f"{difference:.3g} nats per token. Report it with the config."
            )
        for path in (*run.directory.path.glob("tokenizer*.model"), *(run.directory.path / TOKENIZER_FILES).glob("*")):
            (unfinished / path.name).write_bytes(path.read_bytes())
        card = _card_of_ctranslate2(run, step=step, quantization=quantization, difference=difference)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        unfinished.rename(output)
    note = f"log-probabilities of a made pair differ by up to {difference:.2g} nats per token"
    return Exported(model_type=f"CTranslate2, {quantization}", num_tensors=len(leaves), notes=(note,))


def log_probabilities(model: Any, params: Any, source: list[int], target: list[int]) -> np.ndarray:
    """Log-probability of each token of a target, in float32."""
    logits = logits_of(model, params, source, target)
    return np.asarray(jax.nn.log_softmax(logits))[np.arange(len(target)), target]


def _card_of_ctranslate2(run: Inference, *, step: int, quantization: str, difference: float) -> str:
    """README.md of a model for CTranslate2."""
    first = [run.tokenizer.target_pieces([token])[0] for token in run.tokenizer.vocabulary.first_ids]
    commit = commit_of_code()
    lines = [
        f"# {run.directory.path.name}",
        "",
        f"A model for CTranslate2 ({quantization}), step {step}, written by seq2seq_jax"
        + (f" (commit {commit})" if commit else "")
        + f" on {datetime.date.today().isoformat()}. Log-probabilities of a made pair differ from its own by up to "
        f"{difference:.2g} nats per token.",
        "",
        "Sources are lists of pieces that end in the EOS token, as the tokenizer beside the weights makes them.",
        *([f"Every target begins with {' '.join(first)}: give it as target_prefix."] if first else []),
        "",
        "```json",
        json.dumps(to_json(run.experiment), indent=1, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)


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


def check_copy(checkpoint: Checkpoint, params: Mapping[str, Any]) -> float | None:
    """The largest difference of a checkpoint's logits from those that were kept beside it; None = none were.

    Raises:
        ValueError: they differ by more than rounding.
    """
    path = checkpoint.directory / CHECK_FILE
    if not path.is_file():
        return None
    facts = read_json(path)
    model = checkpoint.model().build(checkpoint.vocabulary)
    found = logits_of(model, nested(params), facts["source"], facts["target"])
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
    check_copy(written, written.load())


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
