"""`seq2seq rerank`: n-best lists ordered anew by features, and the weights of these tuned."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq_jax.commands.console import Display, split_first, table
from seq2seq_jax.commands.generate import as_line, max_line_bytes
from seq2seq_jax.commands.outputs import OutputFile, open_outputs
from seq2seq_jax.data.lines import open_input
from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.overrides import is_given, override, values_of_option
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.paths import user_path
from seq2seq_jax.reranking.feature import Feature
from seq2seq_jax.reranking.features import feature_from_json, feature_to_json
from seq2seq_jax.reranking.lists import CandidateList, lists_of_lines, read_records

if TYPE_CHECKING:
    import seq2seq_jax.reranking.reranker
    import seq2seq_jax.run.inference

PROGRAM = "seq2seq rerank RUN"
DESCRIPTION = """\
Order the n-best lists of --input, which RUN made, by a weighted sum of --features, and write the first text of each;
or find the weights with which the first texts have the best --metric, with --tune REFERENCES on a validation split.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RerankArguments:
    """Command line of `seq2seq rerank`."""

    input: str | None = None
    """File of n-best lists: JSON lines as seq2seq generate --json writes them, or plain lines with --n and --source;
    plain or gzipped, - = standard input."""
    n: int | None = None
    """The input is plain lines, this many for each source; None = JSON lines."""
    source: str | None = None
    """File of the sources, one per line; only with --n, as JSON lines have theirs."""
    features: tuple[Feature, ...] = ()
    """What is summed: score and log_probability, as the list says them; length,unit=words; forward,run=RUN2 for log
    p(target | source) of another run, reverse,run=RUN2 for log p(source | target) of a run of the reverse direction,
    language_model,run=RUN2 for log p(target). Each takes weight=W (1 unless given)."""
    tuned: str | None = None
    """File of features and their weights that --tune has written, instead of --features."""
    tune: tuple[str, ...] = ()
    """Files of references, with a line for each list: find the weights of the features."""
    metric: Metric = Bleu()
    """What --tune makes as good as possible: bleu, chrf or another, as for evaluate --metrics."""
    restarts: int = 8
    """Random weights that --tune starts from, beside those given."""
    seed: int = 0
    """Of the random weights."""
    output: str | None = None
    """File for the first text of each list, one per line; None = standard output, or with --tune none."""
    json: str | None = None
    """File for the lists as JSON lines, ordered anew, each text with its features and rerank_score; with --tune for the
    features with their weights."""
    compilation_cache: bool = True
    """Keep compiled programs below the user's cache directory for the next time, unless JAX has a directory of its
    own."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where RUN or a feature's run names classes
    in them; True = all."""


def run(arguments: list[str]) -> None:
    """Parse the command line; rerank and write, or tune and show."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="rerank")
    if directory is None:
        override(RerankArguments(), rest, program=PROGRAM, description=DESCRIPTION)
    from seq2seq_jax.reranking.reranker import Reranker
    from seq2seq_jax.run.inference import Inference

    with Display() as display:
        run = Inference.open(directory, progress=display.progress, trust_code=values_of_option("trust_code", rest))
        defaults = RerankArguments(mesh=run.experiment.mesh)
        chosen = override(defaults, rest, program=PROGRAM, description=DESCRIPTION)
        _check(chosen, rest)
        if chosen.compilation_cache:
            keep_compiled_programs()
        run = run.with_parts(mesh=chosen.mesh)
        features = chosen.features if chosen.tuned is None else read_tuned(chosen.tuned)
        reranker = Reranker(run, features, trust_code=chosen.trust_code, progress=display.progress)
        lists, records = _lists(chosen, run)
        references = [_lines(path, run, expected=len(lists), given=chosen.input) for path in chosen.tune]
        is_tuning = bool(chosen.tune)
        outputs = [("--output", chosen.output if is_tuning else chosen.output or "-"), ("--json", chosen.json)]
        read = [chosen.input, chosen.source, chosen.tuned, *chosen.tune]
        with open_outputs(*outputs, inputs=read) as (text_file, json_file):
            features_of_lists = reranker.table(lists)
            usable = features_of_lists.usable()
            num_usable, num_texts = sum(int(each.sum()) for each in usable), sum(map(len, usable))
            if num_usable < num_texts:
                display.line(
                    f"{num_texts - num_usable:,} of {num_texts:,} texts come last: they or their sources are longer "
                    "than the run of a feature takes"
                )
            if is_tuning:
                tuned = reranker.tune_on(
                    lists,
                    features_of_lists,
                    list(zip(*references, strict=True)),
                    metric=chosen.metric,
                    restarts=chosen.restarts,
                    seed=chosen.seed,
                )
                reranker = tuned.reranker
                if json_file is not None:
                    json_file.write(json.dumps(_tuned_figures(tuned, chosen), indent=2, ensure_ascii=False) + "\n")
            _write(lists, records, features_of_lists, reranker, text_file, None if is_tuning else json_file)
        if is_tuning:
            table(_tuned_rows(tuned, len(lists)), title=f"weights tuned on {chosen.input or 'standard input'}")


def _check(chosen: RerankArguments, rest: list[str]) -> None:
    """Refuse options that do not go together.

    Raises:
        ValueError: with what to change.
    """
    if bool(chosen.features) == (chosen.tuned is not None):
        raise ValueError(
            "give --features, such as score length,weight=0.1, or --tuned FILE, which has them with their weights: one "
            "of the two."
        )
    if chosen.n is not None and chosen.n < 1:
        raise ValueError(f"--n must be at least 1 text for each source, not {chosen.n}.")
    if (chosen.n is None) != (chosen.source is None):
        raise ValueError("--n and --source go together: plain lines, n for each line of the file of sources.")
    for name in ("metric", "restarts", "seed"):
        if is_given(name, rest) and not chosen.tune:
            raise ValueError(f"--{name} has no effect without --tune REFERENCES. Leave it out.")
    if chosen.restarts < 0 or chosen.seed < 0:
        raise ValueError(f"--restarts and --seed must not be negative, and are {chosen.restarts} and {chosen.seed}.")
    if chosen.tune:
        chosen.metric.check_installed()


def _lists(
    chosen: RerankArguments, run: "seq2seq_jax.run.inference.Inference"
) -> tuple[list[CandidateList], list[dict[str, Any]]]:
    """The lists of the input, and their records as JSON lines have them."""
    with open_input(chosen.input, max_bytes=2**24) as given:
        if chosen.n is None:
            lists, records = read_records(given.lines(), given.name)
        else:
            lines = list(given.lines())
            lists = lists_of_lines(lines, _lines(chosen.source, run), given.name, n=chosen.n)
            records = [
                {"source": each.source, "hypotheses": [{"text": one.text} for one in each.candidates]} for each in lists
            ]
    if not lists:
        raise ValueError(f"{given.name} has no n-best lists. Give those of at least one source.")
    return lists, records


def _lines(
    path: str | None,
    run: "seq2seq_jax.run.inference.Inference",
    *,
    expected: int | None = None,
    given: str | None = None,
) -> list[str]:
    """The lines of a file.

    Args:
        expected: their number; None = any.
        given: the file whose number that is, for the message.
    """
    with open_input(path, max_bytes=max_line_bytes(run)) as opened:
        lines = list(opened.lines())
    if expected is not None and len(lines) != expected:
        raise ValueError(
            f"{path} has {len(lines):,} lines and {given or 'standard input'} has the lists of {expected:,} sources: "
            f"line {min(len(lines), expected) + 1:,} has no counterpart. Give the references of the same sources."
        )
    return lines


def _write(
    lists: list[CandidateList],
    records: list[dict[str, Any]],
    features: "seq2seq_jax.reranking.reranker.Table",
    reranker: "seq2seq_jax.reranking.reranker.Reranker",
    text_file: OutputFile | None,
    json_file: OutputFile | None,
) -> None:
    """The first text of each list, and the lists in their new order."""
    order = features.order(reranker.weights)
    if text_file is not None:
        text_file.write(
            "".join(f"{as_line(each.candidates[places[0]].text)}\n" for each, places in zip(lists, order, strict=True))
        )
    if json_file is None:
        return
    scores, names = features.scores(reranker.weights), [str(feature) for feature in reranker.features]

    def number(value: float) -> float | None:
        return float(value) if abs(value) < float("inf") else None

    for record, places, sums, values in zip(records, order, scores, features.values, strict=True):
        hypotheses = [
            record["hypotheses"][place]
            | {
                "rerank_score": number(sums[place]),
                "features": dict(zip(names, map(number, values[place]), strict=True)),
            }
            for place in places
        ]
        json_file.write(json.dumps(record | {"hypotheses": hypotheses}, ensure_ascii=False) + "\n")


def read_tuned(path: str) -> tuple[Feature, ...]:
    """The features and weights that --tune has written.

    Raises:
        ValueError: it is no such file.
    """
    try:
        values = json.loads(Path(user_path(path)).read_text(encoding="utf-8"))["features"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as tuned weights ({type(error).__name__}: {error}). Give what seq2seq rerank RUN "
            "--tune REFERENCES --json FILE has written."
        ) from error
    if not isinstance(values, list):
        raise ValueError(f"{path} cannot be read as tuned weights: its features must be a list. Tune again.")
    return tuple(map(feature_from_json, values))


def _tuned_figures(tuned: "seq2seq_jax.reranking.reranker.Tuned", chosen: RerankArguments) -> dict[str, Any]:
    return {
        "features": [feature_to_json(feature) for feature in tuned.reranker.features],
        "metric": str(chosen.metric),
        "before": tuned.before.value,
        "after": tuned.after.value,
        "signature": tuned.after.signature,
    }


def _tuned_rows(tuned: "seq2seq_jax.reranking.reranker.Tuned", number: int) -> list[tuple[str, str]]:
    before, after = tuned.before, tuned.after
    return [
        *((str(feature), f"{feature.weight:.6g}") for feature in tuned.reranker.features),
        (after.label, f"{before.value:.2f} of the lists as they were, {after.value:.2f} with these weights"),
        ("", f"{number:,} lists; {after.signature}"),
    ]
