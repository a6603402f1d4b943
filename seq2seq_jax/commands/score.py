"""`seq2seq score`: what a model thinks of given targets."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first, table
from seq2seq_jax.commands.ensemble import InferenceArguments, ensemble_figures, ensemble_rows, open_run
from seq2seq_jax.commands.outputs import open_outputs
from seq2seq_jax.commands.sources import max_line_bytes
from seq2seq_jax.data.lines import open_input
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    import seq2seq_jax.generation.scorer
    import seq2seq_jax.run.inference

PROGRAM = "seq2seq score RUN"
DESCRIPTION = """\
Log-probability (nats) and perplexity of each line of --target given the line of --source, by the model of RUN, the
directory of a run. With --contrast, files of other targets for the same sources, also which of them the model prefers.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreArguments(InferenceArguments):
    """Command line of `seq2seq score`."""

    source: str | None = None
    """File of sources, one per line, plain or gzipped; - = standard input."""
    target: str | None = None
    """File of as many targets."""
    contrast: tuple[str, ...] = ()
    """Files of as many other targets: the model is right where it finds --target more probable than each of them."""
    output: str | None = None
    """File for a line of tab-separated values a pair: log-probability, tokens, perplexity by token and by word."""
    json: str | None = None
    """File for JSON lines: source, target, log_probability, tokens with their log-probabilities, and the contrasts'."""


def run(arguments: list[str]) -> None:
    """Parse the command line, score, write, show the sums."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="score")
    if directory is None:
        override(ScoreArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    with Display() as display:
        run = open_run(directory, rest, display=display, program=PROGRAM)
        chosen = override(ScoreArguments(mesh=run.experiment.mesh), rest, program=PROGRAM, description=DESCRIPTION)
        if chosen.compilation_cache:
            keep_compiled_programs()
        run = run.with_parts(mesh=chosen.mesh)
        if chosen.source is None or chosen.target is None:
            raise ValueError("--source and --target are required: files with one text per line.")
        sources = _lines(chosen.source, run)
        paths = [chosen.target, *chosen.contrast]
        candidates = {path: _lines(path, run) for path in paths}
        for path, targets in candidates.items():
            if len(targets) != len(sources):
                raise ValueError(
                    f"{path} has {len(targets):,} lines and {chosen.source} has {len(sources):,}: line "
                    f"{min(len(sources), len(targets)) + 1:,} has no counterpart. Give one target for every source."
                )
        if not sources:
            raise ValueError(f"{chosen.source} has no lines. Give one source per line.")
        named = ("--output", chosen.output), ("--json", chosen.json)
        with open_outputs(*named, inputs=[chosen.source, *paths]) as (text_file, json_file):
            params, step = run.parameters(chosen.checkpoint)
            scored = [
                run.system.scorer.score(
                    params,
                    sources,
                    candidates[path],
                    progress=lambda done, total, path=path: display.progress(f"scoring {path}", done, total),
                )
                for path in paths
            ]
            if text_file is not None:
                text_file.write("".join(map(_line, scored[0])))
            if json_file is not None:
                json_file.write("".join(_record(each) for each in zip(*scored, strict=True)))
        table([*ensemble_rows(ensemble_figures(run)), *_rows(scored, step=step)], title=str(run.directory.path))


def _lines(path: str, run: "seq2seq_jax.run.inference.Inference") -> list[str]:
    with open_input(path, max_bytes=max_line_bytes(run)) as given:
        return list(given.lines())


def _line(score: "seq2seq_jax.generation.scorer.PairScore") -> str:
    from seq2seq_jax.generation.scorer import perplexity

    total = score.log_probability
    by_token, by_word = perplexity(total, score.num_tokens), perplexity(total, score.num_words)
    return f"{total:.6f}\t{score.num_tokens}\t{by_token:.4f}\t{by_word:.4f}\n"


def _record(scores: "tuple[seq2seq_jax.generation.scorer.PairScore, ...]") -> str:
    first, *others = scores
    record: dict[str, Any] = {"source": first.source} | _values(first)
    if others:
        record["contrasts"] = [_values(other) for other in others]
        record["preferred"] = all(first.log_probability > other.log_probability for other in others)
    return json.dumps(record, ensure_ascii=False) + "\n"


def _values(score: "seq2seq_jax.generation.scorer.PairScore") -> dict[str, Any]:
    tokens = zip(score.pieces, score.token_log_probabilities.tolist(), strict=True)
    return {
        "target": score.target,
        "log_probability": score.log_probability,
        "num_tokens": score.num_tokens,
        "num_words": score.num_words,
        "tokens": [list(token) for token in tokens],
    }


def _rows(scored: "list[list[seq2seq_jax.generation.scorer.PairScore]]", *, step: int) -> list[tuple[str, str]]:
    from seq2seq_jax.generation.scorer import perplexity

    scores = scored[0]
    total = sum(each.log_probability for each in scores)
    tokens, words = (sum(getattr(each, name) for each in scores) for name in ("num_tokens", "num_words"))
    by_token, by_word = perplexity(total, tokens), perplexity(total, words)
    rows = [
        ("scored", f"{len(scores):,} pairs, checkpoint of step {step:,}"),
        ("log-probability", f"{total:.4f} nats, {total / tokens:.4f} per token"),
        (
            "perplexity",
            f"{by_token:.4f} by token ({tokens:,}), {by_word:.4f} by word ({words:,})",
        ),
    ]
    if len(scored) > 1:
        right = sum(
            all(first.log_probability > other.log_probability for other in others)
            for first, *others in zip(*scored, strict=True)
        )
        rows.append(("preferred", f"{right:,} of {len(scores):,} targets ({right / len(scores):.1%})"))
    return rows
