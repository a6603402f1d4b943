"""Runs from checkpoints of other projects."""

import dataclasses
import hashlib
import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer
from seq2seq_jax.data.store_files import unfinished_directory
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.experiment import Experiment, to_json
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.transformer import TransformerConfig
from seq2seq_jax.pretrained import origin
from seq2seq_jax.pretrained.adapter import Adapter
from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.family import OUTPUT, SOURCE, TARGET
from seq2seq_jax.pretrained.table import flat, nested
from seq2seq_jax.pretrained.tokenizers import join_tokenizers
from seq2seq_jax.run.description import commit_of_code, versions, write_description
from seq2seq_jax.run.system import System, build_mesh
from seq2seq_jax.run.transfer import silent_attention
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import num_parameters

CONFIG_OF_RUN = '''"""Training that continues from {name}, an imported model, with its tokenizer and parameters.

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
    progress: Callable[[str, int, int], None],
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
    progress: Callable[[str, int, int], None],
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
    players = {system.player: nested(params)}
    if params.keys() != flat(system.parameter_layouts[system.player]).keys() or len(system.parameter_layouts) > 1:
        state = system.initial_state(players)
        players = {name: state.players[name].params for name in system.parameter_layouts}
        del state
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
        with Checkpoints(unfinished / "checkpoints", gigabytes_in_flight=1) as written:
            # Parameters alone: nothing has been trained, and an optimizer's state would take several times as much.
            written.save({"players": {name: {"params": own} for name, own in players.items()}}, Progress(step=0))
            written.wait()
        unfinished.rename(output)
    return num_parameters(players[system.player])


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
