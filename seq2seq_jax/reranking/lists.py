"""N-best lists: what reranking chooses from."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = math.nan
"""The value of what a list does not say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text of a list, and what its generator thought of it.

    Attributes:
        text: the text.
        score: by which the generator ranked it; NaN = not known.
        log_probability: of the generator's model, in nats; NaN = not known.
    """

    text: str
    score: float = MISSING
    log_probability: float = MISSING


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateList:
    """The texts for one source, in the order of their generator.

    Attributes:
        source: source text; None = not known.
        candidates: at least one.
    """

    source: str | None
    candidates: tuple[Candidate, ...]


def lists_of(sources: Sequence[str], hypotheses: Sequence[Sequence[Any]]) -> list[CandidateList]:
    """Lists of what `Inference.hypotheses` gives.

    Raises:
        ValueError: the numbers differ, or a list is empty.
    """
    if len(sources) != len(hypotheses):
        raise ValueError(
            f"expected one list for each source, and got {len(hypotheses)} lists for {len(sources)} sources: give a "
            "list for every source."
        )
    return [
        _checked(
            CandidateList(
                source=source,
                candidates=tuple(
                    Candidate(text=each.text, score=each.score, log_probability=each.log_probability) for each in best
                ),
            ),
            number,
        )
        for number, (source, best) in enumerate(zip(sources, hypotheses, strict=True), 1)
    ]


def read_records(lines: Iterable[str], name: str) -> tuple[list[CandidateList], list[dict[str, Any]]]:
    """Lists from JSON lines as `seq2seq generate --json` writes them, and the records themselves.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: a line is no such record; the message names it.
    """
    lists, records = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            source, texts = record.get("source"), [each["text"] for each in record["hypotheses"]]
            if not all(isinstance(text, str) for text in (*texts, "" if source is None else source)):
                raise TypeError("texts must be strings")
            candidates = tuple(
                Candidate(
                    text=each["text"],
                    score=float(each.get("score", MISSING)),
                    log_probability=float(each.get("log_probability", MISSING)),
                )
                for each in record["hypotheses"]
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {name} is no n-best list ({type(error).__name__}: {error}). Expected JSON lines "
                'with "source" and "hypotheses", each with a "text", as seq2seq generate --json writes them; of plain '
                "lines give the number for each source with --n."
            ) from error
        lists.append(_checked(CandidateList(source=source, candidates=candidates), number))
        records.append(record)
    return lists, records


def lists_of_lines(lines: Sequence[str], sources: Sequence[str], name: str, *, n: int) -> list[CandidateList]:
    """Lists of plain lines, n for each source, one after the other.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: there are more or fewer lines.
    """
    if len(lines) != n * len(sources):
        raise ValueError(
            f"{name} has {len(lines):,} lines, and {n} for each of {len(sources):,} sources are {n * len(sources):,}: "
            "correct --n, or give the sources that the lists were made from."
        )
    return [
        CandidateList(
            source=source, candidates=tuple(Candidate(text=text) for text in lines[n * index : n * (index + 1)])
        )
        for index, source in enumerate(sources)
    ]


def check_sources(lists: Sequence[CandidateList], feature: str) -> None:
    """Return if all lists have their sources.

    Raises:
        ValueError: one has none.
    """
    for number, each in enumerate(lists, 1):
        if each.source is None:
            raise ValueError(
                f"the n-best list {number} has no source, which the feature {feature} needs: give the file of sources "
                "with --source."
            )


def _checked(candidates: CandidateList, number: int) -> CandidateList:
    if not candidates.candidates:
        raise ValueError(f"the n-best list of source {number} is empty: give at least one text for every source.")
    return candidates
