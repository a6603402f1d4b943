"""The metrics of this package, one file each, and how command lines and experiment.json name any metric.

The libraries behind them are imported when a metric is computed.
"""

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any, ClassVar

from seq2seq_jax.evaluation.metric import Metric, metric_name
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.metrics.dialogue_state import DialogueStateScores, GoldDialogueStateScores
from seq2seq_jax.evaluation.metrics.diversity import Diversity
from seq2seq_jax.evaluation.metrics.error_rate import CharacterErrorRate, WordErrorRate
from seq2seq_jax.evaluation.metrics.exact_match import ExactMatch
from seq2seq_jax.evaluation.metrics.hits import Hits
from seq2seq_jax.evaluation.metrics.oracle import OracleLikelihood
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.evaluation.metrics.pronunciation import PronunciationErrors
from seq2seq_jax.evaluation.metrics.rouge import Rouge
from seq2seq_jax.evaluation.metrics.slot_errors import SlotErrors
from seq2seq_jax.evaluation.metrics.summary import SummaryStatistics
from seq2seq_jax.evaluation.metrics.variety import Variety
from seq2seq_jax.outside import Trust, is_ours, load, name_of_class
from seq2seq_jax.values import check_value, options

METRICS: dict[str, type[Metric]] = {
    kind.name: kind
    for kind in (
        Bleu,
        ChrF,
        ExactMatch,
        Rouge,
        SummaryStatistics,
        WordErrorRate,
        CharacterErrorRate,
        Perplexity,
        Variety,
        Hits,
        PronunciationErrors,
        Diversity,
        DialogueStateScores,
        GoldDialogueStateScores,
        SlotErrors,
        OracleLikelihood,
    )
}
"""Those of this package, by the name that a command line gives."""

DEFAULT_METRICS: tuple[Metric, ...] = (Bleu(), ChrF(), ExactMatch())
"""What is computed of pairs of text where nothing else is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutsideMetric(Metric):
    """A metric from outside the package that a run names, and that nothing has been imported of yet."""

    name: ClassVar[str] = "outside"
    needs: ClassVar[frozenset[str]] = frozenset()

    path: str
    """"module:Class"."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Fields and their values."""

    def __str__(self) -> str:
        return ",".join((self.path, *(f"{field}={value}" for field, value in self.settings)))

    @property
    def names(self) -> tuple[str, ...]:
        """Not known before it is loaded."""
        return ()

    def load(self) -> Metric:
        """The metric, imported now.

        Raises:
            ValueError: it cannot be imported or is no metric, or has no such field.
        """
        return _built(_outside_class(self.path), dict(self.settings))


def load_metrics(metrics: Iterable[Metric], *, trust: Trust, origin: str) -> tuple[Metric, ...]:
    """The metrics, those from outside the package imported.

    Args:
        trust: which modules may be.
        origin: what names them, for the message.

    Raises:
        ValueError: one may not be imported, or cannot.
    """
    loaded = []
    for metric in metrics:
        if isinstance(metric, OutsideMetric) and not trust.includes(metric.path):
            raise ValueError(
                f"{origin} names the metric {metric.path}, which would be imported and executed. If you trust it, say "
                "so: --trust-code True. Or choose others: --metrics."
            )
        loaded.append(metric.load() if isinstance(metric, OutsideMetric) else metric)
    return tuple(loaded)


def parse_metric(text: str) -> Metric:
    """The metric that a command line names: NAME, or NAME,field=value,...; NAME of METRICS or "module:Class".

    A class from outside the package is imported: who names it on the command line trusts it.

    Raises:
        ValueError: there is no such metric or field, or the value does not fit.
    """
    name, *settings = text.split(",")
    if ":" in name:
        kind = _outside_class(name)
    elif name in METRICS:
        kind = METRICS[name]
    else:
        raise ValueError(f"there is no metric {name!r}. Name one of {', '.join(METRICS)}, or a class as module:Class.")
    hints = typing.get_type_hints(kind)
    values = {}
    for setting in settings:
        field, given, value = setting.partition("=")
        if not given:
            raise ValueError(f"metric {text}: expected field=value after the comma, and got {setting!r}.")
        values[field] = _parsed(value, hints.get(field, str))
    return _built(kind, values)


def metric_to_json(metric: Metric) -> dict[str, Any]:
    """A metric as JSON values: its class, "module:Class" for one from outside the package, and its fields.

    Raises:
        ValueError: the class stands where no other program finds it again.
    """
    if isinstance(metric, OutsideMetric):
        return {"class": metric.path, **dict(metric.settings)}
    kind = type(metric)
    name = kind.__name__ if is_ours(kind) else name_of_class(kind)
    return {"class": name} | {field.name: getattr(metric, field.name) for field in dataclasses.fields(metric)}


def metric_from_json(values: Any) -> Metric:
    """What `metric_to_json` gave; nothing is imported.

    Raises:
        ValueError: this version has no such metric or field, or the value does not fit.
    """
    if not isinstance(values, dict) or not isinstance(values.get("class"), str):
        raise ValueError(f"a metric must be a class and its fields, and is {values!r}.")
    settings = {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}
    name = settings.pop("class")
    if ":" in name:
        return OutsideMetric(path=name, settings=tuple(settings.items()))
    ours = {kind.__name__: kind for kind in METRICS.values()}
    if name not in ours:
        raise ValueError(f"a metric of class {name!r} is not known to this version; known: {', '.join(ours)}.")
    return _built(ours[name], settings)


def _outside_class(path: str) -> type[Metric]:
    kind = load(path, what="metric", kind="Class")
    if not isinstance(kind, type) or not issubclass(kind, Metric) or not dataclasses.is_dataclass(kind):
        raise ValueError(
            f"metric {path} is no metric: it must be a frozen dataclass that derives from "
            "seq2seq_jax.evaluation.metric.Metric."
        )
    return kind


def _built(kind: type[Metric], settings: dict[str, Any]) -> Metric:
    known = [field.name for field in dataclasses.fields(kind)]
    hints = typing.get_type_hints(kind)
    for field, value in settings.items():
        if field not in known:
            raise ValueError(
                f"metric {metric_name(kind)} has no field {field!r}; it has {', '.join(known) or 'none'}: correct the "
                "name."
            )
        check_value(value, hints[field], f"metrics.{metric_name(kind)}.{field}")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"metric {metric_name(kind)} cannot be made: {error}.") from error


_WORDS: dict[Any, dict[str, Any]] = {type(None): {"None": None}, bool: {"True": True, "False": False}}


def _parsed(text: str, hint: Any) -> Any:
    """A value as the type of its field has it, the text itself where none of its types fits: the class refuses it."""
    for option in options(hint):
        if typing.get_origin(option) is typing.Literal:
            for choice in typing.get_args(option):
                if str(choice) == text:
                    return choice
        elif text in _WORDS.get(option, {}):
            return _WORDS[option][text]
        elif option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    return text
