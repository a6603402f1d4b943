"""python -m studies.transformers_export RUN: a run in Hugging Face transformers: names, logits, ids of beam search."""

import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import torch
import transformers

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.generation.context import longest_output
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.run.exports import export_run
from seq2seq_jax.run.inference import Inference

PROGRAM = "python -m studies.transformers_export"
DESCRIPTION = """\
Export RUN, read it with from_pretrained, and search with the same beam from the same sources here and there, without a
length penalty, in float32: how many outputs have the same ids.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformersArguments:
    """Command line of the comparison."""

    sources: str = "sources"
    """File of sources, one per line, plain or gzipped."""
    num_sources: int | None = None
    """Sources, from the first; None = all."""
    checkpoint: str = "best"
    """best, latest or a step."""
    beam_size: int = 5
    """Hypotheses per source."""
    threads: int = 2
    """Of PyTorch."""
    json: str | None = None
    """File for what is printed, as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print.

    Raises:
        ValueError: a directory is not that of a run, or transformers has not its model.
    """
    directories, rest = split_names(arguments)
    chosen = override(TransformersArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of a RUN. See {PROGRAM} --help.")
    torch.set_num_threads(chosen.threads)
    run = Inference.open(directories[0])
    settings = dataclasses.replace(run.experiment.generation, beam_size=chosen.beam_size, n_best=1, length_penalty=0.0)
    model = dataclasses.replace(run.experiment.model, precision="float32")
    run = run.with_parts(model=model, generation=settings)
    texts = list(read_lines(Path(chosen.sources)))[: chosen.num_sources]
    sources = run.tokenizer.encode_source(texts)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "model"
        export_run(run, directory, checkpoint=chosen.checkpoint, progress=lambda *_: None)
        architecture = json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        theirs, loading = getattr(transformers, architecture).from_pretrained(directory, output_loading_info=True)
    found = {
        "architecture": architecture,
        "missing or unexpected names": len(loading["missing_keys"]) + len(loading["unexpected_keys"]),
    }
    params, _ = run.parameters(chosen.checkpoint)
    generator = Generator(
        run.system.model,
        run.tokenizer,
        settings,
        source=run.experiment.task.source(run.experiment.data),
        mesh=run.system.mesh,
    )
    ours = generator.best_tokens_of(jax.device_put(params), sources)
    expected = searched(theirs.eval(), sources, settings, run.tokenizer.vocabulary)
    same = sum(list(a) == b for a, b in zip(ours, expected, strict=True))
    found |= {"outputs": len(sources), "with the same ids": same, "fraction": same / len(sources)}
    for name, value in found.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if chosen.json is not None:
        Path(chosen.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def searched(model: Any, sources: Sequence[list[int]], settings: BeamSearch, vocabulary: Vocabulary) -> list[list[int]]:
    """The best ids of each source by transformers' beam search, in order.

    Sources of one length make a batch, since the most tokens of a text depend on it, and there is one limit per batch.
    """
    by_length = defaultdict(list)
    for index, source in enumerate(sources):
        by_length[len(source)].append(index)
    found: dict[int, list[int]] = {}
    for length, indices in sorted(by_length.items()):
        limit = longest_output(
            length, ratio=settings.maximum_length_ratio, extra=settings.maximum_length_extra, position_limit=None
        )
        ids = torch.tensor([sources[index] for index in indices])
        with torch.inference_mode():
            outputs = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=settings.beam_size,
                do_sample=False,
                length_penalty=0.0,
                early_stopping=False,
                max_new_tokens=limit,
            ).tolist()
        for index, output in zip(indices, outputs, strict=True):
            own = output[1:]
            end = vocabulary.eos_id
            found[index] = own[: own.index(end) + 1] if end in own else own
    return [found[index] for index in range(len(sources))]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
