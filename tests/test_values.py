"""What every value of a config must be: no value of any field is a traceback, whatever it is."""

import dataclasses
from typing import Literal

import pytest

from seq2seq_jax.data.dates import Dates
from seq2seq_jax.experiment import Experiment, from_json, load_config_by_name, to_json
from seq2seq_jax.training.loop import TrainingConfig
from seq2seq_jax.training.optimizer import AdafactorConfig, AdamWConfig
from seq2seq_jax.training.step import run_key
from seq2seq_jax.values import check_values

BAD = (
    0, -1, -2, 2**31, 2**63, 10**5000, float("nan"), float("inf"), -float("inf"), 1e300, 0.0, -0.5, 1.5, "", "x" * 5000,
    "a\nb", "caf\udce9", "a\0b", None, True, (), ("",), ("x", -1), [1], {}, object(),
)  # fmt: skip
CONFIGS = (
    "dates/transformer_policy_gradient", "multi30k/recurrent_additive_self_critical", "multi30k/convolutional",
    "c4_span_corruption/t5_large", "ted_hrlr_translate/transformer", "own_table/transformer",
)  # fmt: skip
"""One of each class of data, model, objective and optimizer."""


def parts(config, name=""):
    """Every dataclass in a config, itself included, by its dotted name."""
    yield name, config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from parts(value, f"{name}.{field.name}".removeprefix("."))


def replaced(config, name, value):
    """A config with one field replaced, by its dotted name, as __init__ makes it without the tests' checks of types."""
    first, _, rest = name.partition(".")
    inner = replaced(getattr(config, first), rest, value) if rest else value
    new = object.__new__(type(config))
    for field in dataclasses.fields(config):
        object.__setattr__(new, field.name, inner if field.name == first else getattr(config, field.name))
    if hasattr(new, "__post_init__"):
        new.__post_init__()
    return new


@pytest.mark.long
def test_any_value_of_any_field_fits_or_is_one_line():
    tried, refused = set(), 0
    for experiment in map(load_config_by_name, CONFIGS):
        for place, part in parts(experiment):
            for field in dataclasses.fields(part):
                dotted = f"{place}.{field.name}".removeprefix(".")
                if (type(part), dotted) in tried:
                    continue
                tried.add((type(part), dotted))
                for value in BAD:
                    try:
                        replaced(experiment, dotted, value)
                    except ValueError as error:
                        refused += 1
                        message = str(error)
                        assert "Exceeds the limit" not in message and "codec" not in message, dotted
                        assert message.isprintable() and len(message) < 12_000, (dotted, message)
                    except Exception as error:
                        pytest.fail(f"{dotted} = {value!r:.50}: {type(error).__name__}: {error}")
    assert len(tried) > 200 and refused > 4_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    whole: int = 1
    fraction: float | None = 0.5
    flag: bool = True
    names: tuple[str, ...] = ("a",)
    name: str | None = "a"
    seed: int = 0
    kind: Literal["float32", "bfloat16"] = "float32"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"whole": 2**31}, r"part\.whole must be below 2,147,483,648, and is 2147483648"),
        ({"whole": -(10**5000)}, r"part\.whole must be below .* and is -a number of 16610 bits"),
        ({"whole": True}, r"part\.whole must be a whole number, and is True"),
        ({"whole": 1.0}, r"part\.whole must be a whole number, and is 1\.0"),
        ({"fraction": float("nan")}, r"part\.fraction must be a finite number of 32 bits, and is nan"),
        ({"fraction": 3.5e38}, r"part\.fraction must be a finite number of 32 bits"),
        ({"fraction": "much"}, r"part\.fraction must be a number or None, and is 'much'"),
        ({"flag": 1}, r"part\.flag must be True or False, and is 1"),
        ({"names": ("a", "")}, r"part\.names\[1\] is empty: give a value\."),
        ({"names": ["a"]}, r"part\.names must be a sequence of values"),
        ({"name": ""}, r"part\.name is empty: give a value, or None\."),
        ({"name": "caf\udce9"}, r"part\.name must be Unicode text"),
        ({"name": "a\0b"}, r"part\.name has a character of value 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused(values, said):
    check_values(Example(), "part")
    with pytest.raises(ValueError, match=said):
        check_values(Example(**values), "part")


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_layers", 2**12 + 1), ("model_dim", 2**20 + 1), ("hidden_dim", 2**31 - 1), ("head_dim", 2**30)],
)
def test_sizes_that_no_compiler_takes_are_refused(field, value):
    encoder = load_config_by_name("dates/transformer").model.encoder
    with pytest.raises(ValueError, match=rf"{field} must be at most [\d,]+, and is {value:,}: give a smaller number"):
        dataclasses.replace(encoder, **{field: value})


def test_what_is_not_refused():
    check_values(Example(whole=2**31 - 1, fraction=1, name=None, names=(), seed=2**32 - 1), "part")
    check_values(Example(whole=-(2**31), fraction=3.4e38), "part")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**32 + 1, 2**63, 10**5000], ids=["-1", "2^32", "2^32+1", "2^63", "huge"])
def test_a_seed_that_another_one_equals_is_refused(seed):
    """2**32 has the key of 0, and 2**32 + 1 that of 1."""
    for give in (lambda: TrainingConfig(seed=seed), lambda: run_key(seed)):
        with pytest.raises(ValueError, match=r"^[^\n]*seed [^\n]*\[0, 2\*\*32\)[^\n]*$"):
            give()


def test_seeds_have_keys_of_their_own():
    keys = {tuple(run_key(seed)._base_array.tolist()) for seed in (0, 1, 2**31, 2**32 - 1)}
    assert len(keys) == 4
    assert TrainingConfig(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0, -1.0, 1e39])
@pytest.mark.parametrize("optimizer", [AdamWConfig, AdafactorConfig])
def test_a_learning_rate_that_is_none(optimizer, rate):
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate"):
        optimizer(learning_rate=rate)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prefetch": 0}, r"data\.prefetch must be at least 1 batch, not 0"),
        ({"prefetch": -2}, r"data\.prefetch"), ({"window": 0}, r"data\.window must be at least 1"),
        ({"workers": -1}, r"data\.workers"), ({"max_target_length": 0}, r"data\.max_target_length must be 1 to"),
        ({"max_source_length": 2**30}, r"data\.max_source_length"), ({"train_examples": 0}, "train_examples"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_data_that_cannot_be(values, said):
    with pytest.raises(ValueError, match=said):
        Dates(**values)


def test_a_value_of_another_type_in_json_is_refused():
    values = to_json(load_config_by_name("dates/transformer"))
    values["model"]["precision"] = "floqt32"
    with pytest.raises(ValueError, match="(?s)precision.*floqt32"):
        from_json(Experiment, values)
    forged = replaced(Example(), "kind", "floqt32")
    with pytest.raises(ValueError, match=r"^part\.kind must be one of float32, bfloat16, and is 'floqt32'\.$"):
        check_values(forged, "part")
