"""python -m studies.ctranslate2_export RUN: a run in CTranslate2: log-probabilities, BLEU in float32 and int8, time."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import sacrebleu

from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.pretrained.ctranslate2_files import Quantization, tokens_of
from seq2seq_jax.run.ctranslate2_exports import export_ctranslate2
from seq2seq_jax.run.inference import Inference

PROGRAM = "python -m studies.ctranslate2_export"
DESCRIPTION = """\
Export RUN to CTranslate2 in float32 and in int8, generate from the same sources here and there, and compare.
"""
FORMS: tuple[Quantization, ...] = ("float32", "int8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedArguments:
    """Command line of the comparison."""

    sources: str = "sources"
    """File of sources, one per line, plain or gzipped."""
    references: str = "references"
    """File of their references."""
    num_sources: int | None = None
    """Sources, from the first; None = all."""
    num_scored: int = 200
    """Pairs of source and reference whose log-probabilities are compared, from the first."""
    beam_size: int = 4
    """Hypotheses per source."""
    threads: int = 2
    """Of CTranslate2."""
    json: str | None = None
    """File for all figures, as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print.

    Raises:
        ValueError: a directory is not that of a run, or CTranslate2 has not its model.
    """
    directories, rest = split_names(arguments)
    chosen = override(ExportedArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of a RUN. See {PROGRAM} --help.")
    run = Inference.open(directories[0])
    sources, references = (
        list(read_lines(Path(name)))[: chosen.num_sources] for name in (chosen.sources, chosen.references)
    )
    start = time.perf_counter()
    outputs = run.generate(sources, beam_size=chosen.beam_size)
    found: dict[str, dict[str, Any]] = {
        "here": {"BLEU": bleu(outputs, references), "seconds, compilation included": time.perf_counter() - start}
    }
    pairs = list(zip(sources, references, strict=True))[: chosen.num_scored]
    expected = run.score([source for source, _ in pairs], [reference for _, reference in pairs])
    for form in FORMS:
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place) / "model"
            export_ctranslate2(run, directory, quantization=form)
            translator = ctranslate2.Translator(
                str(directory), compute_type="float32" if form == "float32" else "int8", intra_threads=chosen.threads
            )
        found[form] = compared(translator, run.tokenizer, sources, chosen, longest=run.experiment.max_target_length)
        found[form]["BLEU"] = bleu(found[form].pop("outputs"), references)
        scored = [np.array(each) for each in scores(translator, run.tokenizer, pairs)]
        found[form]["largest difference, nats per token"] = max(
            float(np.abs(own - score.token_log_probabilities).max())
            for own, score in zip(scored, expected, strict=True)
        )
    for name, figures in found.items():
        for what, figure in figures.items():
            print(f"{name}: {what}: {figure:.4g}")
    if chosen.json is not None:
        Path(chosen.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def bleu(outputs: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of sacreBLEU's defaults."""
    return sacrebleu.corpus_bleu(list(outputs), [list(references)]).score


def compared(
    translator: Any, tokenizer: Tokenizer, sources: Sequence[str], chosen: ExportedArguments, *, longest: int
) -> dict[str, Any]:
    """The texts of all sources, and the time that they took."""
    names = tokens_of(tokenizer)
    ids = {name: token for token, name in enumerate(names["target"])}
    encoded = [[names["source"][token] for token in ids_of] for ids_of in tokenizer.encode_source(list(sources))]
    prefix = [names["target"][token] for token in tokenizer.vocabulary.first_ids]
    start = time.perf_counter()
    results = translator.translate_batch(
        encoded,
        target_prefix=[prefix] * len(encoded) if prefix else None,
        max_batch_size=1024,
        batch_type="tokens",
        beam_size=chosen.beam_size,
        max_decoding_length=longest,
        suppress_sequences=[[names["target"][token]] for token in tokenizer.vocabulary.suppressed_ids],
    )
    seconds = time.perf_counter() - start
    texts = [tokenizer.decode_target([ids[name] for name in result.hypotheses[0]]) for result in results]
    return {"outputs": texts, "seconds": seconds}


def scores(translator: Any, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    """Log-probability of each token of each target, the EOS token's last."""
    names = tokens_of(tokenizer)
    sources = tokenizer.encode_source([source for source, _ in pairs])
    targets = tokenizer.encode_target([target for _, target in pairs])
    results = translator.score_batch(
        [[names["source"][token] for token in ids] for ids in sources],
        [[names["target"][token] for token in ids[:-1]] for ids in targets],
    )
    return [list(result.log_probs) for result in results]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
