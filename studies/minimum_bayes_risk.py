"""python -m studies.minimum_bayes_risk: minimum Bayes risk on the device beside a loop of sacrebleu over all pairs."""

import concurrent.futures
import dataclasses
import functools
import itertools
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.evaluation.diversity import ORDER, Text
from seq2seq_jax.generation.methods import Sampling
from seq2seq_jax.generation.minimum_bayes_risk import Utility, expected_utilities
from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.rewards.text import PieceTable
from studies.generated import opened, texts_of

PROGRAM = "python -m studies.minimum_bayes_risk"
DESCRIPTION = """\
Draw samples for the sources of a split with the best checkpoint of RUN, and choose among them by minimum Bayes risk:
with the compiled program, and with sacrebleu's sentence scores of all pairs in Python. Counts the sources for which
both choose the same text, ties going to the lower index, and times both on the same cores, in turns; then the same for
chrF with the mean of all samples, and for pruning, compared with the program without it.
"""
PAIRWISE: tuple[Utility, ...] = ("chrf", "bleu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimumBayesRiskArguments:
    """Command line of the study."""

    samples: int = 64
    """Texts per source."""
    epsilon: float = 0.02
    """Probability that a token must have to be sampled."""
    texts: str = "samples.json"
    """File of the samples, which are drawn where it does not exist."""
    sentences: int | None = None
    """The first n sources of the split; None = all."""
    timed: int = 16
    """Sources of them that are timed in a turn."""
    rounds: int = 5
    """Turns of the timing (5 at least)."""
    pruning: float = 0.99
    """Confidence of pruning."""
    batch: int = 16
    """Sources of a call of the compiled program."""
    split: str = "test"
    """Split of the sources."""
    precision: Precision | None = None
    """Of the model; None = the run's."""
    directory: str | None = None
    """Directory of the data; None = the run's."""
    json: str | None = None
    """File for all figures, as JSON."""


class Device:
    """The compiled program, over texts.

    Attributes:
        texts: as the tokenizer writes them: a few samples have spaces in places where encoded text has none.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[Sequence[str]], *, batch: int):
        """Args:
        texts: as many for each source.
        batch: sources of a call; the last one is filled up.
        """
        self._table = PieceTable.of(tokenizer)
        self._batch = batch
        encoded = [tokenizer.encode_target(list(of_source)) for of_source in texts]
        self.texts = [[tokenizer.decode_target(ids) for ids in of_source] for of_source in encoded]
        self.tokens = _tokens(encoded, tokenizer.vocabulary.pad_id)
        self._programs: dict[tuple[Utility, float | None, float], Any] = {}

    def utilities(
        self, utility: Utility, *, pruning: float | None = None, chrf_beta: float = 2.0, sources: int | None = None
    ) -> Float[np.ndarray, "sources texts"]:
        """Expected utilities of the texts of the first sources, all if None."""
        tokens = self.tokens[:sources]
        missing = -len(tokens) % self._batch
        padded = np.concatenate([tokens, tokens[:1].repeat(missing, axis=0)])
        program = self._compiled(utility, pruning, chrf_beta)
        found = [program(padded[start : start + self._batch]) for start in range(0, len(padded), self._batch)]
        return np.concatenate(jax.device_get(found))[: len(tokens)]

    def temporary_bytes(self, utility: Utility, *, pruning: float | None = None) -> int:
        """Memory of a call beside its arguments and its result."""
        return self._compiled(utility, pruning).memory_analysis().temp_size_in_bytes

    def _compiled(self, utility: Utility, pruning: float | None, chrf_beta: float = 2.0) -> Any:
        def run(tokens):
            shape = tokens.shape[:2]
            samples = Samples(
                tokens=tokens,
                log_probabilities=jnp.zeros(tokens.shape),
                lengths=jnp.zeros(shape, jnp.int32),
                ended=jnp.ones(shape, bool),
            )
            return expected_utilities(samples, self._table, utility=utility, pruning=pruning, chrf_beta=chrf_beta)[0]

        key = utility, pruning, chrf_beta
        if key not in self._programs:
            shape = jax.ShapeDtypeStruct((self._batch, *self.tokens.shape[1:]), np.int32)
            self._programs[key] = jax.jit(run).lower(shape).compile()
        return self._programs[key]


def _tokens(encoded: Sequence[Sequence[Sequence[int]]], pad_id: int) -> Int[np.ndarray, "sources texts length"]:
    """Ids of the texts of each source, padded."""
    length = max(len(each) for of_source in encoded for each in of_source)
    tokens = np.full((len(encoded), len(encoded[0]), length), pad_id, np.int32)
    for row, of_source in zip(tokens, encoded, strict=True):
        for place, each in zip(row, of_source, strict=True):
            place[: len(each)] = each
    return tokens


@functools.cache
def library(utility: Utility) -> BLEU | CHRF:
    """sacrebleu's metric, as it is documented for sentences."""
    return BLEU(effective_order=True) if utility == "bleu" else CHRF()


def loop(texts: Sequence[str], utility: Utility) -> list[float]:
    """Mean sentence score of each text with all texts, as one writes it with sacrebleu; sums are exact, so that they do
    not depend on the order of the texts.
    """
    score = library(utility).sentence_score
    return [math.fsum(score(text, [other]).score for other in texts) / len(texts) for text in texts]


def loop_with_counts(texts: Sequence[str], utility: Utility) -> list[float]:
    """What `loop` gives, bit for bit, in less time: n-grams of a text are counted once, and those that two texts share
    once for both directions; equal texts are compared once. sacrebleu makes scores of the counts.
    """
    metric, distinct = library(utility), list(dict.fromkeys(texts))
    if utility == "bleu":
        order, counted = (
            ORDER,
            [_by_order(Text.of(metric.tokenizer(text.rstrip()).split()).ngrams) for text in distinct],
        )
    else:
        order, counted = metric.char_order, [extract_all_char_ngrams(text, metric.char_order) for text in distinct]
    totals = [[sum(of_order.values()) for of_order in each] for each in counted]

    def score(hypothesis: int, reference: int, matches: list[int]) -> float:
        ours, theirs = totals[hypothesis], totals[reference]
        if utility == "bleu":
            return BLEU.compute_bleu(
                list(matches), list(ours), ours[0], theirs[0], smooth_method="exp", effective_order=True
            ).score
        rows = zip(ours, theirs, matches, strict=True)
        # It counts no n-grams of a hypothesis where the reference has none.
        return metric._compute_f_score([number for h, r, m in rows for number in (h if r else 0, r, m)])

    scores = [[0.0] * len(distinct) for _ in distinct]
    for first, second in itertools.combinations_with_replacement(range(len(distinct)), 2):
        matches = [_shared(counted[first][n], counted[second][n]) for n in range(order)]
        scores[first][second] = score(first, second, matches)
        scores[second][first] = score(second, first, matches)
    place = {text: index for index, text in enumerate(distinct)}
    means = [math.fsum(row[place[other]] for other in texts) / len(texts) for row in scores]
    return [means[place[text]] for text in texts]


def _by_order(ngrams: Counter[tuple[str, ...]]) -> list[dict[tuple[str, ...], int]]:
    found: list[dict[tuple[str, ...], int]] = [{} for _ in range(ORDER)]
    for ngram, number in ngrams.items():
        found[len(ngram) - 1][ngram] = number
    return found


def _shared(first: dict[Any, int], second: dict[Any, int]) -> int:
    """Occurrences of n-grams that both have."""
    return sum(min(first[ngram], second[ngram]) for ngram in first.keys() & second.keys())


def choice(utilities: Sequence[float]) -> int:
    """Index of the highest, of equal ones the lowest."""
    return max(range(len(utilities)), key=lambda index: (utilities[index], -index))


def compare_choices(
    device: Float[np.ndarray, "sources texts"], expected: Sequence[Sequence[float]], texts: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """For how many sources the program and the loop choose the same text, and the sources for which they do not."""
    different = []
    for source, (found, wanted) in enumerate(zip(device.tolist(), expected, strict=True)):
        ours, theirs = choice(found), choice(wanted)
        if ours != theirs:
            different.append(
                {
                    "source": source,
                    "ours": texts[source][ours],
                    "theirs": texts[source][theirs],
                    "their_utilities": [wanted[ours], wanted[theirs]],
                    "our_utilities": [found[ours], found[theirs]],
                }
            )
    largest = max(
        np.max(np.abs(found - np.array(wanted) / 100)) for found, wanted in zip(device, expected, strict=True)
    )
    return {
        "sources": len(texts),
        "equal": len(texts) - len(different),
        "largest_difference": float(largest),
        "different": different,
    }


def in_processes(function: Callable[..., Any], texts: Sequence[Sequence[str]], utility: Utility) -> list[list[float]]:
    """A loop over sources, shared out among as many processes as there are cores."""
    with concurrent.futures.ProcessPoolExecutor(
        harness.usable_cores(), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return list(pool.map(function, texts, itertools.repeat(utility), chunksize=1))


def timings(
    device: Device, texts: Sequence[Sequence[str]], utility: Utility, *, sources: int, rounds: int
) -> dict[str, Any]:
    """Seconds of the program and of the loop for the same sources, in turns, and their ratio.

    The loop's processes are started before, and share all cores, as the program's threads do.
    """
    with concurrent.futures.ProcessPoolExecutor(
        harness.usable_cores(), mp_context=multiprocessing.get_context("spawn")
    ) as pool:

        def in_python() -> None:
            list(pool.map(loop, texts[:sources], itertools.repeat(utility)))

        in_python()
        found = harness.take_turns(
            {"program": lambda: device.utilities(utility, sources=sources), "loop": in_python}, rounds=rounds, warm_up=1
        )
    ratio = harness.paired_ratio(found["loop"].seconds, found["program"].seconds)
    return {
        "sources": sources,
        "seconds": {name: dataclasses.asdict(Spread.of(timing.seconds)) for name, timing in found.items()},
        "ratio": dataclasses.asdict(ratio),
    }


def main(arguments: list[str]) -> None:
    """Parse the command line, draw what is missing, compare, print.

    Raises:
        ValueError: the directory is not that of a run or has no such split, the file is of other samples, or a value
            does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(MinimumBayesRiskArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of one RUN. See {PROGRAM} --help.")
    run = opened(directories[0], split=chosen.split, directory=chosen.directory, precision=chosen.precision)
    examples = list(itertools.islice(run.data.scored(chosen.split), chosen.sentences))
    usual = run.experiment.generation
    method = Sampling(
        samples=chosen.samples,
        epsilon=chosen.epsilon,
        maximum_length_ratio=usual.maximum_length_ratio,
        maximum_length_extra=usual.maximum_length_extra,
        source_tokens_per_batch=min(usual.source_tokens_per_batch, 16_384 // chosen.samples),
    )
    found = texts_of(Path(chosen.texts), run, method, examples, split=chosen.split, family="samples")
    device = Device(run.tokenizer, found.texts, batch=min(chosen.batch, len(found.texts)))
    texts = device.texts
    figures: dict[str, Any] = {
        "environment": harness.environment(),
        "samples": chosen.samples,
        "epsilon": chosen.epsilon,
    }
    exact = {}
    for utility in PAIRWISE:
        exact[utility] = device.utilities(utility)
        expected = in_processes(loop_with_counts, texts, utility)
        checked = [loop(of_source, utility) for of_source in texts[:1]]
        assert checked == expected[:1], "the quick loop is the plain one, bit for bit"
        figures[utility] = compare_choices(exact[utility], expected, texts) | {
            "temporary_bytes": device.temporary_bytes(utility),
            "timing": timings(device, texts, utility, sources=min(chosen.timed, len(texts)), rounds=chosen.rounds),
        }
        report.output().print(_line(utility, figures[utility]))
    figures["aggregated_chrf"] = _against_exact(device, exact["chrf"], "aggregated_chrf", None, chosen)
    report.output().print(f"aggregated chrF: {figures['aggregated_chrf']}")
    for utility in PAIRWISE:
        figures[f"{utility}, pruned"] = _against_exact(device, exact[utility], utility, chosen.pruning, chosen)
        report.output().print(f"{utility}, pruning {chosen.pruning:g}: {figures[f'{utility}, pruned']}")
    report.output().print(report.environment_line(figures["environment"]))
    report.write_json(figures, chosen.json)


def _against_exact(
    device: Device,
    exact: Float[np.ndarray, "sources texts"],
    utility: Utility,
    pruning: float | None,
    chosen: MinimumBayesRiskArguments,
) -> dict[str, Any]:
    """How often a cheaper choice is that of all pairs, what it loses of their utility, and its time by theirs."""
    found = device.utilities(utility, pruning=pruning)
    rows = np.arange(len(exact))
    best, ours = exact.argmax(axis=1), found.argmax(axis=1)
    whole = "chrf" if utility == "aggregated_chrf" else utility
    sources = min(chosen.timed, len(exact))
    timed = harness.take_turns(
        {
            "cheaper": lambda: device.utilities(utility, pruning=pruning, sources=sources),
            "all pairs": lambda: device.utilities(whole, sources=sources),
        },
        rounds=chosen.rounds,
        warm_up=1,
    )
    # A text that was drawn twice, or two of equal utility, are the same choice.
    return {
        "sources": len(exact),
        "equal": int(np.sum(exact[rows, ours] == exact[rows, best])),
        "utility_lost": float(np.mean(exact[rows, best] - exact[rows, ours])),
        "time": dataclasses.asdict(harness.paired_ratio(timed["cheaper"].seconds, timed["all pairs"].seconds)),
        "temporary_bytes": device.temporary_bytes(utility, pruning=pruning),
    }


def _line(utility: Utility, found: dict[str, Any]) -> str:
    timing = found["timing"]
    return (
        f"{utility}: {found['equal']:,} of {found['sources']:,} choices are sacrebleu's, utilities differ by at most "
        f"{found['largest_difference']:.1e}; {timing['sources']} sources in "
        f"{1e3 * timing['seconds']['program']['median']:,.0f} ms, the loop takes {timing['ratio']['median']:.1f} times "
        f"as long ({timing['ratio']['lower_quartile']:.1f} to {timing['ratio']['upper_quartile']:.1f}); "
        f"{found['temporary_bytes'] / 2**20:,.0f} MiB"
    )


if __name__ == "__main__":
    report.run_script(main)
