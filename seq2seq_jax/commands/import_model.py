"""`seq2seq import`: a run from a checkpoint of Hugging Face transformers."""

import dataclasses
import shlex
from typing import TYPE_CHECKING

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.outputs import refuse_unwritable_directory
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.paths import user_path

if TYPE_CHECKING:
    from seq2seq_jax.data.tokenizer import Tokenizer
    from seq2seq_jax.pretrained.checkpoint import Checkpoint

DESCRIPTION = """\
A run of an encoder–decoder that transformers has saved to DIR (config.json, model.safetensors, its tokenizer): BART,
mBART, Pegasus, Marian, M2M-100, T5, mT5, T5Gemma, Whisper; or of an encoder (BERT, RoBERTa, ELECTRA) with a decoder of
another directory (GPT-2, Llama and its relatives), or with a new one. It is evaluated, generates, and is trained on
like any other: RUN/config.py is a config that starts from it.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Command line of `seq2seq import`."""

    output: str | None = None
    """Directory of the new run; required."""
    config: str = "own_text/transformer"
    """Config that says everything but the model and the tokenizer: data, optimizer, generation."""
    decoder: str | None = None
    """Directory of a decoder, where DIR is an encoder alone: attention to the encoder is added, which changes nothing
    at first. None = a new decoder, that of the config."""
    adapter: str | None = None
    """Directory of a PEFT adapter (LoRA) of DIR, which the run has beside the model; seq2seq export merges it."""
    trim_to: tuple[str, ...] = ()
    """Files of text, such as that of training: only pieces that they use are kept, special tokens and single bytes
    beside them. Export has all of them again."""
    pad_vocabulary: int = 1
    """Number of which the vocabulary's size shall be a multiple, so that a mesh divides it; export is without padding.
    """
    source_language: str | None = None
    """Token that begins sources, such as eng_Latn; None = what the tokenizer's files say."""
    target_language: str | None = None
    """Token that every target begins with, such as deu_Latn; None = what the config says."""
    ignore_fields: tuple[str, ...] = ()
    """Fields of config.json that are not known here and change nothing of the model."""
    check: bool = False
    """Compare logits with transformers, where it is installed."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the parameters."""


def run(arguments: list[str]) -> None:
    """Parse the command line, import, say what came of it."""
    directory, rest = split_first(arguments, name="DIR, the directory of a model", command="import")
    chosen = override(ImportArguments(), rest, program="seq2seq import DIR", description=DESCRIPTION)
    if chosen.output is None:
        raise ValueError("--output is required: the directory of the new run.")
    output = user_path(chosen.output).absolute()
    if output.exists():
        raise ValueError(f"{output} exists. Give a new directory.")
    source = user_path(directory)
    if not source.is_dir():
        raise ValueError(f"there is no directory {source}. Give that of a model: config.json and model.safetensors.")
    if chosen.pad_vocabulary < 1:
        raise ValueError(f"--pad_vocabulary must be at least 1, not {chosen.pad_vocabulary}.")
    refuse_unwritable_directory(output.parent)
    from seq2seq_jax.experiment import load_config_by_name
    from seq2seq_jax.pretrained.adapter import Adapter
    from seq2seq_jax.pretrained.checkpoint import Checkpoint
    from seq2seq_jax.run.imports import import_parts, import_run
    from seq2seq_jax.run.kept_logits import check_copy, compare_with_transformers

    with Display() as display:
        checkpoint = Checkpoint.open(source, ignore_fields=chosen.ignore_fields)
        experiment = dataclasses.replace(load_config_by_name(chosen.config), mesh=chosen.mesh)
        kind = checkpoint.family.model_type
        if checkpoint.family.part == "encoder_decoder":
            if chosen.decoder is not None:
                raise ValueError(f"--decoder is given, and {source} has one of its own ({kind}). Leave it out.")
            adapter = None if chosen.adapter is None else Adapter.open(user_path(chosen.adapter), checkpoint)
            rows, tokenizer = _vocabulary(checkpoint, chosen)
            number = import_run(rows, tokenizer, experiment, output, adapter=adapter, progress=display.progress)
            difference = check_copy(checkpoint)
            if difference is not None:
                display.line(f"logits are those that were kept with the model (largest difference {difference:.2g})")
            if chosen.check:
                display.line(compare_with_transformers(checkpoint))
        else:
            for name in ("adapter", "trim_to", "source_language", "target_language"):
                if getattr(chosen, name):
                    raise ValueError(
                        f"--{name} is for an encoder–decoder, and {source} is none ({kind}). Leave it out."
                    )
            decoder = (
                None
                if chosen.decoder is None
                else Checkpoint.open(user_path(chosen.decoder), ignore_fields=chosen.ignore_fields)
            )
            number = import_parts(
                checkpoint, decoder, experiment, output, multiple=chosen.pad_vocabulary, progress=display.progress
            )
            kind += " with a new decoder" if decoder is None else f" and {decoder.family.model_type}"
    config = shlex.quote(str(output / "config.py"))
    print(f"{kind}: {number:,} parameters in {output}; to train on: seq2seq train {config} --run-dir NEW")


def _vocabulary(checkpoint: "Checkpoint", chosen: ImportArguments) -> "tuple[Checkpoint, Tokenizer]":
    """The checkpoint and its tokenizer, with the ids that the command line says."""
    from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer
    from seq2seq_jax.data.lines import decode_lines, open_text
    from seq2seq_jax.pretrained.tokenizers import read_tokenizer
    from seq2seq_jax.run.imports import chosen_rows, padded_to

    languages = {"source_language": chosen.source_language, "target_language": chosen.target_language}
    tokenizer = padded_to(read_tokenizer(checkpoint, **languages), checkpoint.described.vocabulary_size)
    if not chosen.trim_to and chosen.pad_vocabulary == 1:
        return checkpoint, tokenizer
    if not isinstance(tokenizer, ImportedTokenizer):
        raise ValueError(
            f"{checkpoint.directory} has a tokenizer of this project, whose ids cannot be chosen: leave --trim_to and "
            "--pad_vocabulary out."
        )
    if not tokenizer.vocabulary.joint:
        raise ValueError(
            f"{checkpoint.directory} has a vocabulary per side, whose ids cannot be chosen: leave --trim_to and "
            "--pad_vocabulary out."
        )
    texts = None
    if chosen.trim_to:
        texts = []
        for name in chosen.trim_to:
            with open_text(user_path(name)) as file:
                texts += decode_lines(file, name)
    rows = chosen_rows(tokenizer, texts=texts, multiple=chosen.pad_vocabulary)
    return checkpoint.with_rows(rows), tokenizer.with_rows(rows)
