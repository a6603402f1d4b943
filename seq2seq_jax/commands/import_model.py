"""`seq2seq import`: a run from a checkpoint of Hugging Face transformers."""

import dataclasses

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.outputs import refuse_unwritable_directory
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.paths import user_path

DESCRIPTION = """\
A run of an encoder–decoder that transformers has saved to DIR (config.json, model.safetensors, its tokenizer): BART,
mBART, Pegasus, Marian, M2M-100, T5, mT5. It is evaluated, generates, and is trained on like any other: RUN/config.py is
a config that starts from it.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Command line of `seq2seq import`."""

    output: str | None = None
    """Directory of the new run; required."""
    config: str = "own_text/transformer"
    """Config that says everything but the model and the tokenizer: data, optimizer, generation."""
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
    refuse_unwritable_directory(output.parent)
    from seq2seq_jax.experiment import load_config_by_name
    from seq2seq_jax.pretrained.checkpoint import Checkpoint
    from seq2seq_jax.pretrained.tokenizers import read_tokenizer
    from seq2seq_jax.run.exchange import check_copy, compare_with_transformers, import_run, padded_to

    with Display() as display:
        checkpoint = Checkpoint.open(source, ignore_fields=chosen.ignore_fields)
        experiment = dataclasses.replace(load_config_by_name(chosen.config), mesh=chosen.mesh)
        languages = {"source_language": chosen.source_language, "target_language": chosen.target_language}
        tokenizer = None
        if checkpoint.family.part == "encoder_decoder":
            tokenizer = read_tokenizer(checkpoint, **languages)
            tokenizer = padded_to(tokenizer, checkpoint.described.vocabulary_size)
        number = import_run(checkpoint, tokenizer, experiment, output, progress=display.progress)
        difference = check_copy(checkpoint, checkpoint.load())
        if difference is not None:
            display.line(f"logits are those that were kept with the model (largest difference {difference:.2g})")
        if chosen.check:
            display.line(compare_with_transformers(checkpoint))
    print(
        f"{checkpoint.family.model_type} with {number:,} parameters in {output}; to train on: seq2seq train "
        f"{output / 'config.py'} --run-dir NEW"
    )
