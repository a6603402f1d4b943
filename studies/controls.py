"""python -m studies.controls: what controls of generation do to translations, and what they cost."""

import dataclasses
import random
import statistics
import string
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sacrebleu.metrics import BLEU

from seq2seq_jax.benchmark import report
from seq2seq_jax.data.layout import source_batches
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.generation.constraints import LineArrays
from seq2seq_jax.generation.context import GenerationContext, GenerationResult
from seq2seq_jax.generation.controls import Controls, LineControls, line_controls
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods import BeamSearch
from seq2seq_jax.generation.sources import FittedSources
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.parallel.mesh import global_batch
from seq2seq_jax.run.inference import Inference

PROGRAM = "python -m studies.controls RUN"
DESCRIPTION = """\
Translate sources as they are, with a phrase of the reference that each translation must contain, with the first half of
the reference as a prefix, and without repeated trigrams; and time searches of equally many steps with each control.
"""
SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlsArguments:
    """Command line of the study."""

    sources: str = "sources"
    """File of sources, one per line, plain or gzipped."""
    references: str = "references"
    """File of their references."""
    num_sources: int | None = None
    """Sources, from the first; None = all."""
    beam_sizes: tuple[int, ...] = (4, 10)
    """Beams of the translations."""
    steps: int = 24
    """Steps of a timed search."""
    rows: int = 64
    """Sources of a timed search."""
    repetitions: int = 7
    """Times that each search is timed, in turns."""
    json: str | None = None
    """File for all numbers, as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndlessBeamSearch(BeamSearch):
    """Beam search with a model that never ends a text by itself, so that all searches have equally many steps."""

    def generate(self, context: GenerationContext) -> GenerationResult:
        eos_id = context.vocabulary.eos_id

        def endless(step: Callable[..., Any]) -> Callable[..., Any]:
            def without_end(tokens, state):
                logits, *rest = step(tokens, state)
                return logits.at[:, eos_id].set(-1e9), *rest

            return without_end

        attending = context.attending_step
        return super().generate(
            dataclasses.replace(
                context,
                step=endless(context.step),
                attending_step=None if attending is None else endless(attending),
            )
        )


def phrase_of(reference: str, output: str, line: int) -> str:
    """One or two words of the reference that the output lacks, drawn by the line; one that it has where none lacks."""
    words = reference.split()
    spans = [" ".join(words[start : start + size]) for size in (1, 2) for start in range(len(words) - size + 1)]
    spans = [stripped for span in spans if (stripped := span.strip(string.punctuation))]
    missing = [span for span in spans if not has_phrase(output, span)]
    return random.Random(SEED + line).choice(missing or spans)


def has_phrase(text: str, phrase: str) -> bool:
    """Whether a text contains a phrase, from the beginning of a word."""
    return f" {phrase}" in f" {text}"


def first_half(reference: str) -> str:
    """The first half of the words of a text."""
    words = reference.split()
    return " ".join(words[: len(words) // 2])


def repeats(ids: Sequence[int], n: int) -> bool:
    """Whether the same n tokens come twice."""
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return len(set(grams)) < len(grams)


def run(arguments: ControlsArguments, directory: str) -> dict[str, Any]:
    """All numbers of the study."""
    keep_compiled_programs()
    inference = Inference.open(directory)
    params, step = inference.parameters()
    sources, references = (
        list(read_lines(Path(path)))[: arguments.num_sources] for path in (arguments.sources, arguments.references)
    )
    found: dict[str, Any] = {"run": directory, "step": step, "sources": len(sources), "translations": []}
    generation = inference.experiment.generation
    for beam_size in arguments.beam_sizes:
        method = BeamSearch(
            beam_size=beam_size,
            length_penalty=getattr(generation, "length_penalty", 1.0),
            maximum_length_ratio=generation.maximum_length_ratio,
            maximum_length_extra=generation.maximum_length_extra,
        )
        rows = _translations(inference, params, method, sources, references)
        report.output().print(
            *(f"{each['beam_size']} {each['control']}: BLEU {each['bleu']:.2f}" for each in rows), sep="\n"
        )
        found["translations"] += rows
    return found | {"speed": _speed(inference, params, sources, references, arguments)}


def _translations(
    inference: Inference, params: Any, method: BeamSearch, sources: list[str], references: list[str]
) -> list[dict[str, Any]]:
    """One row for each control: BLEU, and of how many outputs it holds, with it and without."""
    generator = inference.system.generator_by(method)
    bleu, number = BLEU(), len(sources)

    def row(control: str, outputs: list[str], holds: Sequence[bool], holds_without: Sequence[bool]) -> dict[str, Any]:
        score = bleu.corpus_score(outputs, [references])
        return {
            "control": control,
            "beam_size": method.beam_size,
            "bleu": score.score,
            "signature": bleu.get_signature().format(short=True),
            "length_ratio": score.sys_len / score.ref_len,
            "holds": sum(holds),
            "holds_without": sum(holds_without),
        }

    def with_controls(controls: Sequence[LineControls] | None) -> list[str]:
        return [best[0].text for best in generator.generate(params, sources, controls=controls)]

    free_ids = generator.best_tokens(params, sources)
    free = list(map(inference.tokenizer.decode_target, free_ids))
    rows = [row("none", free, [True] * number, [True] * number)]
    pairs = zip(references, free, strict=True)
    phrases = [phrase_of(reference, output, line) for line, (reference, output) in enumerate(pairs)]
    prefixes = list(map(first_half, references))
    for control, controls, holds in (
        (
            "a phrase of the reference",
            line_controls(number, phrases=[[each] for each in phrases]),
            (has_phrase, phrases),
        ),
        ("half of the reference as a prefix", line_controls(number, prefixes=prefixes), (str.startswith, prefixes)),
    ):
        outputs = with_controls(controls)
        rows.append(row(control, outputs, list(map(holds[0], outputs, holds[1])), list(map(holds[0], free, holds[1]))))
    for n in (3, 1):
        once = dataclasses.replace(method, controls=Controls(no_repeat_ngram=n))
        ids = inference.system.generator_by(once).best_tokens(params, sources)
        outputs = list(map(inference.tokenizer.decode_target, ids))
        holds, holds_without = ([not repeats(each[:-1], n) for each in texts] for texts in (ids, free_ids))
        rows.append(row(f"no {n} tokens twice", outputs, holds, holds_without))
    return rows


def _speed(
    inference: Inference, params: Any, sources: list[str], references: list[str], arguments: ControlsArguments
) -> list[dict[str, Any]]:
    """Seconds of a search with each control, in turns: the median, and its ratio to a search without."""
    limits = {"maximum_length_ratio": 0.0, "maximum_length_extra": arguments.steps}
    rows, length = arguments.rows, 24
    tokenizer = inference.tokenizer
    fitting = [index for index, ids in enumerate(tokenizer.encode_source(sources)) if 16 < len(ids) <= length][:rows]
    encoded = tokenizer.encode_source([sources[index] for index in fitting])
    [batch] = source_batches(
        encoded, vocabulary=tokenizer.vocabulary, source_tokens_per_batch=rows * length, max_length=length
    )
    chosen = [references[fitting[index]] for index in batch.indices]
    asked = {
        "a phrase": line_controls(len(chosen), phrases=[[" ".join(text.split()[2:4])] for text in chosen]),
        "a prefix": line_controls(len(chosen), prefixes=[" ".join(text.split()[:4]) for text in chosen]),
    }
    settings = {
        "none": Controls(),
        "repetition_penalty 1.2": Controls(repetition_penalty=1.2),
        "no_repeat_ngram 3": Controls(no_repeat_ngram=3),
        "coverage_penalty 0.2": Controls(coverage_penalty=0.2),
        "minimum_length 10": Controls(minimum_length=10),
        "ten forbidden_ids": Controls(forbidden_ids=tuple(range(300, 310))),
        "first_text": Controls(first_text="Ein"),
        "all of these": Controls(
            repetition_penalty=1.2,
            no_repeat_ngram=3,
            coverage_penalty=0.2,
            minimum_length=10,
            forbidden_ids=tuple(range(300, 310)),
            first_text="Ein",
        ),
        "a phrase": Controls(),
        "a prefix": Controls(),
    }
    searches: dict[str, Callable[[], Any]] = {}
    for name, controls in settings.items():
        method = EndlessBeamSearch(beam_size=4, controls=controls, **limits)
        source = inference.experiment.task.source(inference.experiment.data)
        generator = Generator(inference.system.model, tokenizer, method, source=source, mesh=inference.system.mesh)
        searches[name] = _search(generator, params, batch.source, asked.get(name))
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for repetition in range(arguments.repetitions + 1):
        for name, search in searches.items():
            started = time.perf_counter()
            jax.block_until_ready(search())
            # The first warms up.
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    without = seconds["none"]
    return [
        {
            "control": name,
            "seconds": statistics.median(each),
            "ratio": statistics.median(a / b for a, b in zip(each, without, strict=True)),
            "rows": len(chosen),
            "steps": arguments.steps,
        }
        for name, each in seconds.items()
    ]


def _search(generator: Generator, params: Any, source: Any, asked: Sequence[LineControls] | None) -> Callable[[], Any]:
    """One search, compiled."""
    rows = len(source.tokens)
    arrays = None
    if asked is not None:
        # Of rows after those of texts nothing is asked.
        of_rows = [*asked, *[LineControls()] * (rows - len(asked))]
        ids = FittedSources([[[0]]] * rows, np.arange(1, rows + 1), [])
        arrays = LineArrays.of(generator.encode_controls(of_rows, ids))
    inputs = global_batch((source, np.arange(rows, dtype=np.int32), arrays), generator.mesh, shard=(0, 1))
    compiled = generator.lower(params, inputs[0], inputs[2]).compile()
    return lambda: compiled(params, *inputs)


def _print(found: dict[str, Any]) -> None:
    translations = [
        [
            str(row["beam_size"]),
            row["control"],
            f"{row['holds']:,}",
            f"{row['holds_without']:,}",
            f"{row['bleu']:.2f}",
            f"{row['length_ratio']:.3f}",
        ]
        for row in found["translations"]
    ]
    if translations:
        header = ("beam", "control", "holds for", "without it for", "BLEU", "length ratio")
        title = f"translations of {found['sources']:,} sources"
        report.output().print(report.table(header, translations, title=title))
    speed = [[row["control"], f"{row['seconds']:.3f}", f"{row['ratio']:.2f}"] for row in found["speed"]]
    title = f"a search of {found['speed'][0]['steps']} steps with beam 4 for {found['speed'][0]['rows']} sources"
    report.output().print(report.table(("control", "seconds", "ratio"), speed, title=title))


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print tables.

    Raises:
        ValueError: there is no directory of a run, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(ControlsArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of one RUN. See {PROGRAM} --help.")
    found = run(chosen, directories[0])
    _print(found)
    report.write_json(found, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
