"""python -m studies.peers generation RUN: beam search beside Hugging Face's and CTranslate2's."""

import dataclasses
import functools
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.objectives.objective import Params
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.run.inference import Inference

PROGRAM = "python -m studies.peers generation"
DESCRIPTION = """\
Search the targets of a split of a run's data with this project, with Hugging Face's generate and with CTranslate2: the
same weights, the same beam, no length penalty (its formulas differ), the same limits; float32 on a CPU, bfloat16 and
float16 on a GPU. First the log-probabilities of tokens are compared, then the outputs; then all take turns in one
process, each with the batch size that was fastest. Needs pip install 'seq2seq_jax[peers]'.
"""
OURS = "seq2seq_jax"
PACKAGES = {"hugging_face": ("torch", "transformers"), "ctranslate2": ("torch", "transformers", "ctranslate2")}
TOLERANCE = 1e-4
"""How far log-probabilities of tokens may lie apart (nats) in float32."""
TIE = 1e-3
"""Nats by which the log-probabilities of two texts may differ and still be a tie to float32."""
CHECKED = 16

Search = Callable[[list[list[int]]], list[list[int]]]
"""Source ids to the best target ids of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationArguments:
    """Command line of the comparison of beam searches."""

    checkpoint: str = "best"
    """best, latest or a step."""
    split: Literal["validation", "test"] = "test"
    """Which sources."""
    sentences: int | None = None
    """The first n of the split; None = all."""
    peers: tuple[Literal["hugging_face", "ctranslate2"], ...] = ("hugging_face", "ctranslate2")
    """Systems to compare with."""
    beam_size: int = 4
    """Hypotheses of each source."""
    early_stopping: bool = True
    """Whether Hugging Face ends as soon as beam_size hypotheses have ended, its faster setting."""
    our_batches: tuple[int, ...] = (1024, 2048, 4096)
    """Source tokens of this project's batches; the fastest is used, as with the others."""
    max_compactions: int = 2
    """Times that this project halves a batch as its sources are done (generation.max_compactions)."""
    hugging_face_batches: tuple[int, ...] = (32, 64, 128)
    """Sentences of Hugging Face's."""
    ctranslate2_batches: tuple[int, ...] = (512, 1024, 2048)
    """Source tokens of CTranslate2's."""
    threads: int | None = None
    """Threads of the peers; None = one a core."""
    rounds: int = 5
    """Turns that each has (5 at least)."""
    json: str | None = None
    """File for all measurements, as JSON."""


class Disagreement(Exception):
    """The systems do not compute the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputAgreement:
    """How the outputs of a peer compare with this project's, judged by this project's model."""

    sentences: int
    """Sources that were searched."""
    identical: int
    """Outputs that are the same, token by token."""
    ties: int
    """Others that are as likely, to TIE."""
    ours_likelier: int
    """Others where this project's is the more probable."""
    theirs_likelier: int
    """Others where the peer's is the more probable."""
    largest_difference: float
    """Nats, in favour of either."""
    token_difference: float
    """Largest difference of the log-probability of a token (nats), peer to this project, on the checked pairs."""


def token_log_probabilities(
    model: EncoderDecoder, params: Params, sources: list[list[int]], targets: list[list[int]]
) -> list[Float[np.ndarray, " target"]]:
    """This project's log-probability (nats) of each target token, given those before it."""
    vocabulary = model.vocabulary

    def side(rows):
        shape = len(rows), max(map(len, rows))
        tokens = np.full(shape, vocabulary.pad_id, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids
        lengths = np.array([[len(ids)] for ids in rows])
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        return TokenRows(tokens=tokens, segment_ids=(positions < lengths).astype(np.int32), positions=positions)

    @jax.jit
    def chosen(params: Params, batch: Batch) -> Float[Array, "batch target"]:
        scores = jax.nn.log_softmax(model.apply({"params": params}, batch))
        return jnp.take_along_axis(scores, batch.target.tokens[..., None], axis=-1)[..., 0]

    rows = np.asarray(chosen(params, Batch(source=side(sources), target=side(targets))))
    return [row[: len(ids)] for row, ids in zip(rows, targets, strict=True)]


def compare_outputs(
    model: EncoderDecoder,
    params: Params,
    sources: list[list[int]],
    ours: list[list[int]],
    theirs: list[list[int]],
    *,
    token_difference: float,
) -> OutputAgreement:
    """Count identical outputs, and say of the others which is the more probable."""
    differing = [index for index, (our, their) in enumerate(zip(ours, theirs, strict=True)) if our != their]
    gaps = np.zeros(0)
    if differing:
        of_ours, of_theirs = (
            np.array(
                [
                    scores.sum()
                    for scores in token_log_probabilities(
                        model, params, [sources[index] for index in differing], [found[index] for index in differing]
                    )
                ]
            )
            for found in (ours, theirs)
        )
        gaps = of_ours - of_theirs
    return OutputAgreement(
        sentences=len(sources),
        identical=len(sources) - len(differing),
        ties=int((np.abs(gaps) <= TIE).sum()),
        ours_likelier=int((gaps > TIE).sum()),
        theirs_likelier=int((gaps < -TIE).sum()),
        largest_difference=float(np.abs(gaps).max(initial=0.0)),
        token_difference=token_difference,
    )


class EndToEnd:
    """Text to text with a search; keeps the seconds that the search alone took.

    Attributes:
        searches: seconds of each call, without tokenization.
    """

    def __init__(self, search: Search, tokenizer: Tokenizer, texts: list[str]):
        self._search, self._tokenizer, self._texts = search, tokenizer, texts
        self.searches: list[float] = []

    def __call__(self) -> list[str]:
        """All texts once."""
        sources = self._tokenizer.encode_source(self._texts)
        start = time.perf_counter()
        outputs = self._search(sources)
        self.searches.append(time.perf_counter() - start)
        return [self._tokenizer.decode_target(ids) for ids in outputs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """What searching all sentences costs."""

    batch_size: int
    """The fastest of those that were tried."""
    search: Spread
    """Seconds, without tokenization."""
    end_to_end: Spread
    """Seconds from text to text."""
    search_ratio: Spread
    """Seconds of this system over those of this project, the search alone, paired by rounds."""
    end_to_end_ratio: Spread
    """The same from text to text."""


def fastest(
    search: Callable[..., Any], batch_sizes: tuple[int, ...], sources: list[list[int]]
) -> tuple[int, dict[int, float]]:
    """The batch size with which all sources take the least time, and the seconds of each, measured once when warm."""
    if len(batch_sizes) == 1:
        return batch_sizes[0], {}
    seconds = {}
    for batch_size in batch_sizes:
        search(sources, batch_size=batch_size)
        start = time.perf_counter()
        search(sources, batch_size=batch_size)
        seconds[batch_size] = time.perf_counter() - start
    return min(seconds, key=seconds.get), seconds


def compare(
    searches: Mapping[str, Search],
    batch_sizes: Mapping[str, int],
    tokenizer: Tokenizer,
    texts: list[str],
    *,
    rounds: int,
) -> dict[str, Speed]:
    """Time searches in turns.

    Args:
        searches: by system, this project's among them.
        batch_sizes: those that they use.
        rounds: see `harness.take_turns`.
    """
    contenders = {name: EndToEnd(search, tokenizer, texts) for name, search in searches.items()}
    timings = harness.take_turns(contenders, rounds=rounds, warm_up=0)
    alone = {name: contender.searches[-rounds:] for name, contender in contenders.items()}
    return {
        name: Speed(
            batch_size=batch_sizes[name],
            search=Spread.of(alone[name]),
            end_to_end=timing.spread,
            search_ratio=harness.paired_ratio(alone[name], alone[OURS]),
            end_to_end_ratio=harness.paired_ratio(timing.seconds, timings[OURS].seconds),
        )
        for name, timing in timings.items()
    }


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print tables.

    Raises:
        ValueError: a peer is not installed, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(GenerationArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"give the directory of one run, not of {len(directories)}: {PROGRAM} RUN [--option value]")
    [run_directory] = directories
    for peer in chosen.peers:
        for package in PACKAGES[peer]:
            if importlib.util.find_spec(package) is None:
                raise ValueError(
                    f"{package} is not installed, and this compares with it: pip install 'seq2seq_jax[peers]'."
                )
    from studies.peers import search as peers

    console = report.output()
    run = Inference.open(run_directory)
    experiment = run.experiment
    peers.check_form(experiment.model)
    if not run.experiment.task.generates:
        raise ValueError(f"{run_directory} was trained on documents, which have no sources to translate. Give another.")
    on_gpu = jax.default_backend() == "gpu"
    precision = "bfloat16" if on_gpu else "float32"
    settings = dataclasses.replace(
        experiment.generation,
        beam_size=chosen.beam_size,
        n_best=1,
        length_penalty=0.0,
        max_compactions=chosen.max_compactions,
    )
    run = run.with_parts(model=dataclasses.replace(experiment.model, precision=precision), generation=settings)
    params, step = run.parameters(chosen.checkpoint)
    params = jax.device_put(params)
    host_params = jax.tree.map(np.asarray, params)
    tokenizer = run.tokenizer
    texts = [source for (source,) in run.data.corpus.read(chosen.split, ("source",))][: chosen.sentences]
    sources = tokenizer.encode_source(texts)
    longest = max(map(len, sources))

    def our_search(sources, *, batch_size):
        return generators[batch_size].best_tokens_of(params, sources)

    generators = {
        batch_size: Generator(
            run.system.model,
            tokenizer,
            dataclasses.replace(settings, source_tokens_per_batch=batch_size),
            source=experiment.task.source(experiment.data),
            mesh=run.system.mesh,
        )
        for batch_size in chosen.our_batches
    }
    with tempfile.TemporaryDirectory() as directory:
        systems = {OURS: (our_search, chosen.our_batches)}
        built = {}
        common = {"longest_source": longest, "threads": chosen.threads}
        if "hugging_face" in chosen.peers:
            built["Hugging Face"] = peers.HuggingFaceSearch(
                host_params, experiment.model, tokenizer, settings, early_stopping=chosen.early_stopping, **common
            )
            systems["Hugging Face"] = built["Hugging Face"].search, chosen.hugging_face_batches
        if "ctranslate2" in chosen.peers:
            built["CTranslate2"] = peers.CTranslate2Search(
                host_params, experiment.model, tokenizer, settings, Path(directory), **common
            )
            systems["CTranslate2"] = built["CTranslate2"].search, chosen.ctranslate2_batches
        found = {name: fastest(search, sizes, sources) for name, (search, sizes) in systems.items()}
        sizes = {name: size for name, (size, _) in found.items()}
        searches = {name: functools.partial(search, batch_size=sizes[name]) for name, (search, _) in systems.items()}
        ours = searches[OURS](sources)
        agreements = {}
        for name, peer in built.items():
            expected = token_log_probabilities(run.system.model, params, sources[:CHECKED], ours[:CHECKED])
            difference = max(
                float(np.abs(peer.token_log_probabilities(source, target) - scores).max())
                for source, target, scores in zip(sources, ours, expected, strict=False)
            )
            if not on_gpu and not difference <= TOLERANCE:
                raise Disagreement(f"{name} gives tokens log-probabilities {difference} nats apart, over {TOLERANCE}")
            agreement = agreements[name] = compare_outputs(
                run.system.model, params, sources, ours, searches[name](sources), token_difference=difference
            )
            console.print(
                f"{name}: log-probabilities of tokens within {difference:.1e} nats; {agreement.identical} of "
                f"{agreement.sentences} outputs identical, {agreement.ties} ties, {agreement.ours_likelier} where "
                f"this project's is more probable, {agreement.theirs_likelier} where the peer's is (by up to "
                f"{agreement.largest_difference:.2g} nats)"
            )
        speeds = compare(searches, sizes, tokenizer, texts, rounds=chosen.rounds)
    header = ("", "batch", "search: median (quartiles)", "sentences/s", "this / seq2seq_jax", "from text to text")
    rows = [
        (
            name,
            f"{speed.batch_size:,} {built[name].unit if name in built else 'tokens'}",
            report.milliseconds(speed.search),
            f"{len(texts) / speed.search.median:,.1f}",
            "" if name == OURS else report.factor(speed.search_ratio),
            "" if name == OURS else report.factor(speed.end_to_end_ratio),
        )
        for name, speed in speeds.items()
    ]
    title = (
        f"{run_directory}, step {step}, {precision}: {len(texts)} sentences of {chosen.split}, beam {chosen.beam_size}"
    )
    console.print(report.table(header, rows, title=title))
    environment = harness.environment()
    console.print(report.environment_line(environment))
    report.write_json(
        {
            "environment": environment,
            "run": run_directory,
            "arguments": dataclasses.asdict(chosen),
            "agreement": {name: dataclasses.asdict(value) for name, value in agreements.items()},
            "batch_sizes": {name: seconds for name, (_, seconds) in found.items()},
            "speed": {name: dataclasses.asdict(value) for name, value in speeds.items()},
        },
        chosen.json,
    )
