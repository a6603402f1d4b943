"""What changes when a field of a config changes, said beside the field. Imports nothing heavy."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

Effect = Literal["nothing", "numbers", "parameters"]
"""nothing: no number that is computed; numbers: what is computed with the same parameters; parameters: which parameters
there are, or what they mean."""

_KEY = "seq2seq_jax.effect"


def changes(effect: Effect) -> dict[str, Effect]:
    """Metadata of a field: `dataclasses.field(default=..., metadata=changes("nothing"))`.

    Fields without it change what the field that holds their config does; at the top, numbers.
    """
    return {_KEY: effect}


def effects(config: Any) -> dict[str, Effect]:
    """Dotted names of all fields of a config, and of the configs in it, -> what they change.

    Which class a config is of (`PART.class`, where several are possible) changes what the field that holds it does.
    """
    return dict(_walk(config, "", "numbers"))


def _walk(config: Any, prefix: str, inherited: Effect) -> Iterator[tuple[str, Effect]]:
    for field in dataclasses.fields(config):
        name, effect = f"{prefix}{field.name}", field.metadata.get(_KEY, inherited)
        yield name, effect
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield f"{name}.class", effect
            yield from _walk(value, f"{name}.", effect)
        for index, each in enumerate(value if isinstance(value, tuple) else ()):
            if dataclasses.is_dataclass(each):
                yield from _walk(each, f"{name}.{index}.", effect)
