"""Names that earlier versions gave to fields of configs, their values, metrics and saved states, so that old runs stay
readable.

Everything that is renamed, or whose default is another one now, gets an entry here: `experiment.json`, `metrics.jsonl`
and checkpoints of earlier versions are read through these tables, and written under the current names only.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any

FIELDS: dict[str, dict[str, str]] = {
    "PairSource": {"max_examples_a_row": "max_examples_per_row"},
    "TrainingConfig": {"batch_tokens": "target_tokens_per_batch", "samples": "num_sample_outputs"},
    "BeamSearch": {"batch_tokens": "source_tokens_per_batch", "halvings": "max_compactions"},
    "PolicyGradientConfig": {"samples": "samples_per_source"},
}
"""Class of a config (subclasses included) -> old name of a field -> its current name."""

MOVED: dict[str, dict[str, tuple[str, str]]] = {
    "Experiment": {"data.corruption": ("task.corruption", "Denoising")},
}
"""Class of a config -> old dotted name of a field in a part of it -> its current one, and the class of that part."""

VALUES: dict[str, dict[str, dict[Any, Any]]] = {
    "MaximumLikelihoodConfig": {"sampling_choice": {"drawn": "sample", "likeliest": "argmax"}},
}
"""Class of a config (subclasses included) -> current name of a field -> old value -> its current value."""


def _attention_as_a_config(values: dict[str, Any]) -> dict[str, Any]:
    """A decoder that named its attention has it as a config of its own."""
    kind = values.get("attention", "additive")
    if not isinstance(kind, str):
        return values
    values = dict(values)
    settings = {name: values.pop(name) for name in ("attention_dim", "coverage") if name in values}
    kinds = {
        "none": None,
        "additive": {"class": "AdditiveAttentionConfig"} | settings,
        "general": {"class": "GeneralAttentionConfig"},
        "dot": {"class": "DotAttentionConfig", "scaled": False},
        "scaled_dot": {"class": "DotAttentionConfig", "scaled": True},
    }
    return values | {"attention": kinds.get(kind, kind)}


SHAPES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"RecurrentDecoderConfig": _attention_as_a_config}
"""Class of a config -> what makes its current values of those of an earlier version, where more than names changed."""
BEFORE_THE_FIELD: dict[str, dict[str, Any]] = {
    "TokenizerConfig": {"normalization": "nfkc"},
}
"""Class of a config -> name of a field -> the value that was the only one before there was the field, where that is not
its default now."""

METRICS: dict[str, str] = {
    "checkpoint_stall_share": "checkpoint_stall_fraction",
    "ended_share": "ended_fraction",
    "input_wait_share": "input_wait_fraction",
    "input_wait_share_by_process": "input_wait_fraction_by_process",
    "padding_share": "padding_fraction",
    "step_wait_share_by_process": "step_wait_fraction_by_process",
    "straggler_share": "straggler_fraction",
}
"""Old name of a metric in metrics.jsonl -> its current name."""

SCORES: dict[str, dict[str, Any]] = {
    name: {"unit": "percent", "higher_is_better": True, "signature": "", "label": label}
    for name, label in (("bleu", "BLEU"), ("chrf", "chrF"), ("exact_match", "exact match"))
}
"""Score in a validation record of a version that did not describe its scores -> its description."""

LOOP_STATE: dict[str, str] = {
    "anchor": "plan_position",
    "slots": "padded_positions",
}
"""Old key of the training loop's state in a checkpoint, or of its window, -> its current key."""


def current_fields(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of a config, under the current names of its fields, and with those that went without saying.

    Raises:
        ValueError: a field is there under its old and its current name.
    """
    known = typing.get_type_hints(config)
    current = BEFORE_THE_FIELD.get(config.__name__, {}) | dict(values)
    for parent in config.__mro__:
        current = SHAPES.get(parent.__name__, dict)(current)
        for old, new in FIELDS.get(parent.__name__, {}).items():
            if old not in current or old in known:
                continue
            if new in current:
                raise ValueError(f"{config.__name__} has {old}, an old name of {new}, and {new} itself. Remove either.")
            current[new] = current.pop(old)
        for old, (new, kind) in MOVED.get(parent.__name__, {}).items():
            (part, old), (place, new) = old.split("."), new.split(".")
            if isinstance(current.get(part), dict) and old in current[part] and place not in current:
                current[part] = dict(current[part])
                current[place] = {"class": kind, new: current[part].pop(old)}
        for field, renamed in VALUES.get(parent.__name__, {}).items():
            if field in current and isinstance(current[field], str):
                current[field] = renamed.get(current[field], current[field])
    return current


def current_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of metrics.jsonl, under the current names of its metrics, with a description of its scores."""
    current = {METRICS.get(name, name): value for name, value in record.items()}
    scores = {name: facts for name, facts in SCORES.items() if name in current}
    if scores and current.get("kind") == "validation" and "metrics" not in current:
        current["metrics"] = scores
    return current


def current_loop_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The training loop's state of a checkpoint, under its current keys and the current names of metrics."""
    current = {LOOP_STATE.get(key, key): value for key, value in state.items()}
    if "window" in current:
        window = {LOOP_STATE.get(key, key): value for key, value in current["window"].items()}
        window["sums"] = current_metrics(window["sums"])
        if "weights" not in window:
            # All means were weighted by target tokens, but for norms of gradients.
            window["weights"] = {
                name: window["steps"] if name.endswith("gradient_norm") else window["target_tokens"]
                for name in window["sums"]
            }
        current["window"] = window
    if "best" in current:
        # Kept by a version that did not look at the loss, nor whether all scores were equal.
        best = {"score": current.pop("best"), "since_best": current.pop("since_best")}
        current["selection"] = best | {"num_equal": None if best["score"] is not None else 0}
    return current
