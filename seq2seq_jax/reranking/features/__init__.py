"""The features of this package, one file each, and how command lines and tuned weights name them."""

import dataclasses
import typing
from typing import Any

from seq2seq_jax.reranking.feature import Feature
from seq2seq_jax.reranking.features.discriminator import Discriminator
from seq2seq_jax.reranking.features.forward import Forward
from seq2seq_jax.reranking.features.given import LogProbability, Score
from seq2seq_jax.reranking.features.language_model import LanguageModel
from seq2seq_jax.reranking.features.length import Length
from seq2seq_jax.reranking.features.reverse import Reverse
from seq2seq_jax.values import check_value

FEATURES: dict[str, type[Feature]] = {
    kind.name: kind for kind in (Score, LogProbability, Length, Forward, Reverse, LanguageModel, Discriminator)
}
"""By the name that a command line gives."""


def parse_feature(text: str) -> Feature:
    """The feature that a command line names: NAME, or NAME,field=value,...

    Raises:
        ValueError: there is no such feature or field, or a value does not fit.
    """
    name, *settings = text.split(",")
    values: dict[str, Any] = {}
    for setting in settings:
        field, given, value = setting.partition("=")
        if not given:
            raise ValueError(f"feature {text}: expected field=value after the comma, and got {setting!r}.")
        values[field] = value
    if "weight" in values:
        try:
            values["weight"] = float(values["weight"])
        except ValueError:
            raise ValueError(f"feature {text}: weight must be a number, and is {values['weight']!r}.") from None
    return _built(name, values)


def feature_to_json(feature: Feature) -> dict[str, Any]:
    """A feature as JSON values: its name and its fields."""
    return {"feature": feature.name, **dataclasses.asdict(feature)}


def feature_from_json(values: Any) -> Feature:
    """What `feature_to_json` gave.

    Raises:
        ValueError: there is no such feature or field, or a value does not fit.
    """
    if not isinstance(values, dict) or not isinstance(values.get("feature"), str):
        raise ValueError(f"a feature must be its name and its fields, and is {values!r}.")
    return _built(values["feature"], {field: value for field, value in values.items() if field != "feature"})


def _built(name: str, values: dict[str, Any]) -> Feature:
    if name not in FEATURES:
        raise ValueError(f"there is no feature {name!r}. Name one of {', '.join(FEATURES)}.")
    fields = {field.name: field for field in dataclasses.fields(FEATURES[name])}
    hints = typing.get_type_hints(FEATURES[name])
    for field in values:
        if field not in fields:
            raise ValueError(f"feature {name} has no field {field!r}; it has {', '.join(fields)}: correct the name.")
        check_value(values[field], hints[field], f"features.{name}.{field}")
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ValueError(f"feature {name} needs {field.name}: give {name},{field.name}=VALUE.")
    return FEATURES[name](**values)
