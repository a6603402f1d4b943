"""What a metric is: a config that scores the outputs for the examples of a set, and says how."""

import abc
import dataclasses
import importlib.util
import itertools
import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from seq2seq_jax.outside import is_ours, name_of_class
from seq2seq_jax.values import check_values

Example = Mapping[str, Any]
"""Name of a column -> its value: the source text in "source", the reference or a list of references in "target"."""

OUTPUTS, ALTERNATIVES, LIKELIHOOD, ROLLED, CANDIDATES = "outputs", "alternatives", "likelihood", "rolled", "candidates"
"""What a metric may need beside columns of the examples: the text that was generated for each, several texts for each,
how probable the references are together, what came of each where outputs are rolled through examples that follow each
other, and how probable each right and wrong answer of an example is."""

_REMEDIES = {
    ALTERNATIVES: "Generation gives one text per source: have it give several, such as --generation.n_best 4, or "
    "--generation sampling --generation.samples 8",
}
"""What a metric may need -> what to do where it is missing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A value of a metric, with all that is needed to report it."""

    value: float
    unit: str
    """Such as "percent"; scores of one unit share a panel of the plots."""
    higher_is_better: bool
    signature: str
    """How it was computed, as the metric's library writes it: to be reported with the value."""
    label: str
    """What tables and plots call it."""
    note: str = ""
    """What a reader of the value should know of this set; empty = nothing."""

    @property
    def rank(self) -> float:
        """Higher is better."""
        return self.value if self.higher_is_better else -self.value

    def described(self) -> dict[str, Any]:
        """All but the value, as JSON values, for records of many values."""
        facts = dataclasses.asdict(self)
        del facts["value"]
        return facts if self.note else {name: fact for name, fact in facts.items() if name != "note"}


class Likelihood(NamedTuple):
    """How probable a model finds the references of a set."""

    nll: float
    """Negative log-likelihood of all target tokens together, nats, EOS tokens included."""
    tokens: int
    """Target tokens, EOS tokens included."""
    texts: Sequence[str]
    """The target texts that these are the tokens of."""


class Alternatives(NamedTuple):
    """All texts that were generated for each example."""

    texts: Sequence[Sequence[str]]
    """Of each example, in the order of the examples; the method may have found fewer than requested."""
    number: int
    """Requested texts per example."""
    method: str
    """How they were generated, as signatures say it."""


class Candidate(NamedTuple):
    """How probable a model finds one answer of an example."""

    log_probability: float
    """Nats, EOS token included."""
    num_tokens: int
    """EOS token included."""
    is_right: bool
    """Whether it is a reference; otherwise it is one of the column `adversarial`."""


class Evaluated(NamedTuple):
    """What is known of a model on a set of examples; None = it was not computed, as no metric needs it."""

    outputs: Sequence[str] | None
    """Generated texts, in the order of the examples."""
    examples: Sequence[Example] | None
    likelihood: Likelihood | None = None
    alternatives: Alternatives | None = None
    rolled: Sequence[Any] | None = None
    """Of each example, what a task's rollout gives."""
    candidates: Sequence[Sequence[Candidate]] | None = None
    """Of each example; none where it has no wrong answers, or a side of an answer is longer than the model takes."""

    def part(self, members: Sequence[int]) -> "Evaluated":
        """What is known of some of the examples, by their indices; what is known of their answers is not."""
        alternatives = self.alternatives
        if alternatives is not None:
            alternatives = alternatives._replace(texts=[alternatives.texts[index] for index in members])
        return Evaluated(
            outputs=None if self.outputs is None else [self.outputs[index] for index in members],
            examples=None if self.examples is None else [self.examples[index] for index in members],
            alternatives=alternatives,
            rolled=None if self.rolled is None else [self.rolled[index] for index in members],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(abc.ABC):
    """Scores of a set of examples. A subclass is a frozen dataclass, whose fields say how they are computed."""

    needs: ClassVar[frozenset[str]] = frozenset({OUTPUTS, "target"})
    """Columns of the examples that are read, and OUTPUTS and the like where these are."""
    packages: ClassVar[Mapping[str, str]] = {}
    """Modules that are imported when it is computed -> what pip calls their packages."""

    def __post_init__(self):
        check_values(self, f"metrics.{metric_name(type(self))}")

    def __str__(self) -> str:
        """As a command line names it: NAME,field=value,..., the fields that are not at their defaults."""
        settings = (
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return ",".join((metric_name(type(self)), *settings))

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the scores that `corpus` returns, the most important one first."""

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        """The scores of all outputs together, by name, as `names` says.

        Args:
            outputs: generated texts.
            examples: as many, in the same order.
        """
        raise NotImplementedError(f"{type(self).__name__} scores no texts")

    def scores(self, evaluated: Evaluated) -> dict[str, Score]:
        """The scores of what is known of a model: `corpus`, which a metric of something else than texts passes over."""
        return self.corpus(evaluated.outputs, evaluated.examples)

    def sacrebleu(self, examples: Sequence[Example]) -> Any | None:
        """The metric of sacreBLEU that gives the first score for texts of these examples, for tests of significance;
        None = it is not sacreBLEU's.
        """
        return None

    def unsuited(self, references: Sequence[str]) -> str:
        """Why the scores hardly tell models apart on references like these; empty = they do."""
        return ""

    @classmethod
    def from_text(cls, text: str) -> "Metric":
        """What `str` of a metric gives: how a command line names it. See `seq2seq_jax.evaluation.metrics.parse_metric`.

        Raises:
            ValueError: there is no such metric.
        """
        from seq2seq_jax.evaluation.metrics import parse_metric

        return parse_metric(text)

    def check_installed(self) -> None:
        """Return if the packages and files that the metric takes are there.

        Raises:
            ValueError: one is not; the message says how to install it.
        """
        for module, package in self.packages.items():
            if importlib.util.find_spec(module) is None:
                raise ValueError(f"metric {self} needs {package}, which is not installed: pip install {package}.")


def metric_name(kind: type[Metric]) -> str:
    """What a class of metrics is called: the `name` of one of this package, "module:Class" of another."""
    return getattr(kind, "name", None) if is_ours(kind) else name_of_class(kind)


RESERVED = frozenset({"kind", "step", "set", "best", "metrics", "loss", "nll"})
"""Names in a record that no score may have."""


def check_metrics(metrics: Sequence[Metric], available: Collection[str], *, of: str) -> None:
    """Return if metrics can be computed of a set, and their scores told apart.

    Args:
        available: columns of the examples, and OUTPUTS and the like where these can be had.
        of: what the set is of, for messages: "documents".

    Raises:
        ValueError: one cannot; two have a score of the same name.
    """
    seen: dict[str, Metric] = {}
    for metric in metrics:
        missing = sorted(metric.needs - set(available))
        if missing:
            raise ValueError(
                f"metric {metric} needs {' and '.join(missing)}, which {of} do not have. "
                + (
                    f"{_REMEDIES[missing[0]]}."
                    if missing[0] in _REMEDIES and len(missing) == 1
                    else f"They have {', '.join(sorted(available))}: choose other metrics."
                )
            )
        for name in metric.names:
            if name in RESERVED or "/" in name:
                raise ValueError(f"metric {metric} has a score {name!r}, which is not a name for one: choose another.")
            if name in seen:
                raise ValueError(f"metrics {seen[name]} and {metric} both have a score {name}. Leave one of them out.")
            seen[name] = metric


def compute_scores(metrics: Sequence[Metric], evaluated: Evaluated) -> dict[str, Score]:
    """The scores of metrics, by name, in their order.

    Raises:
        ValueError: a metric cannot score these, or one from outside the package fails.
    """
    scores: dict[str, Score] = {}
    for metric in metrics:
        scores |= metric.scores(evaluated) if is_ours(type(metric)) else _outside_scores(metric, evaluated)
    return scores


def _outside_scores(metric: Metric, evaluated: Evaluated) -> dict[str, Score]:
    """The scores of a metric that others wrote, its mistakes as one line."""
    try:
        found = metric.scores(evaluated)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        where = f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        said = " ".join(str(error).split())
        raise ValueError(f"metric {metric} raised {type(error).__name__}: {said}{where}. Correct it.") from error
    if not isinstance(found, dict) or tuple(found) != metric.names:
        came = list(found) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise ValueError(f"metric {metric} must return scores named {list(metric.names)}, and returned {came}.")
    for name, score in found.items():
        if not isinstance(score, Score):
            raise ValueError(f"metric {metric} must return a Score as {name}, and returned a {type(score).__name__}.")
    return found


def references_of(outputs: Sequence[str], examples: Sequence[Example]) -> list[list[str]]:
    """The references of each example, one or several.

    Raises:
        ValueError: there are no texts, the numbers of outputs and examples differ, or an example has no reference.
    """
    if len(outputs) != len(examples):
        raise ValueError(
            f"expected one reference for each hypothesis, got {len(outputs)} hypotheses and "
            f"{len(examples)} references: score the lines of the same split, all of them"
        )
    if not outputs:
        raise ValueError("expected at least one hypothesis to score, got none: give a split that is not empty")
    found = [references(example) for example in examples]
    without = [index for index, each in enumerate(found) if not each]
    if without:
        raise ValueError(f"expected a reference for each hypothesis; example {without[0]} has none: leave it out")
    return found


def reference_streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacreBLEU takes them: the first of all texts, then the second ones and so on; None = no more."""
    return [list(stream) for stream in itertools.zip_longest(*references)]


def references(example: Example) -> list[str]:
    """The references of an example: its target, or all of them where there are several."""
    target = example["target"]
    return [target] if isinstance(target, str) else list(target)


def num_references(references: Sequence[Sequence[str]]) -> str:
    """The number of references of each example, as signatures write it; "var" where it varies."""
    sizes = {len(each) for each in references}
    return str(*sizes) if len(sizes) == 1 else "var"
