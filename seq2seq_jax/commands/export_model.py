"""`seq2seq export`: a run as a checkpoint of Hugging Face transformers."""

import dataclasses
from typing import Literal

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.outputs import refuse_unwritable_directory
from seq2seq_jax.overrides import override
from seq2seq_jax.paths import user_path

DESCRIPTION = """\
The model of RUN, the directory of a run, as a directory that transformers or CTranslate2 reads: config.json, weights
(several of at most 5 GB), the tokenizer, settings of generation, and a model card. A run that was imported, or started
from one that was, is written as it came. What was written is read back and compared before the directory is there.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Command line of `seq2seq export`."""

    output: str | None = None
    """Directory of the model; required."""
    format: Literal["huggingface", "ctranslate2", "peft"] = "huggingface"
    """Whose format it has: that of transformers, LoRA merged; that of CTranslate2 (which must be installed); or the
    adapter alone of a run with LoRA, for PEFT."""
    quantization: Literal["float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16"] | None = (
        None
    )
    """Type of weights for CTranslate2; None = float32. For no other format."""
    checkpoint: str = "best"
    """best, latest, or a step."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where RUN names classes in them; True =
    all."""


def run(arguments: list[str]) -> None:
    """Parse the command line, export, say what came of it."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="export")
    chosen = override(ExportArguments(), rest, program="seq2seq export RUN", description=DESCRIPTION)
    if chosen.output is None:
        raise ValueError("--output is required: the directory of the exported model.")
    output = user_path(chosen.output).absolute()
    if output.exists():
        raise ValueError(f"{output} exists. Give a new directory.")
    if chosen.quantization is not None and chosen.format != "ctranslate2":
        raise ValueError(f"--quantization has no effect with --format {chosen.format}: it is for ctranslate2.")
    refuse_unwritable_directory(output.parent)
    from seq2seq_jax.run.ctranslate2_exports import export_ctranslate2
    from seq2seq_jax.run.exports import export_adapter, export_run
    from seq2seq_jax.run.inference import Inference

    with Display() as display:
        run = Inference.open(directory, trust_code=chosen.trust_code)
        if chosen.format == "ctranslate2":
            exported = export_ctranslate2(
                run, output, checkpoint=chosen.checkpoint, quantization=chosen.quantization or "float32"
            )
        elif chosen.format == "peft":
            exported = export_adapter(run, output, checkpoint=chosen.checkpoint)
        else:
            exported = export_run(run, output, checkpoint=chosen.checkpoint, progress=display.progress)
    for note in exported.notes:
        print(note)
    print(f"{exported.model_type} with {exported.num_tensors:,} tensors in {output}, read back and compared")
