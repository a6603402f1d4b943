"""What counts as moved, by hand."""

import json

import pytest

from seq2seq_jax.benchmark.comparison import moved, read, warnings


def figures(**measurements):
    """(lower quartile, median, upper quartile) in seconds by name."""
    return {
        "environment": {"cpu": "one", "versions": {"jax": "0.10.2"}},
        "experiment": {"model": {"precision": "float32"}},
        "measurements": {
            name: {"lower_quartile": low, "median": middle, "upper_quartile": high, "unit": "seconds"}
            for name, (low, middle, high) in measurements.items()
        },
    }


def test_only_what_lies_apart_and_is_far_has_moved():
    old = figures(
        apart=(0.9, 1.0, 1.1), overlapping=(0.9, 1.0, 1.3), near=(1.0, 1.0, 1.0), faster=(3.9, 4.0, 4.1), gone=(1, 1, 1)
    )
    new = figures(
        apart=(1.15, 1.2, 1.25), overlapping=(1.25, 1.4, 1.5), near=(1.02, 1.02, 1.02), faster=(1.9, 2.0, 2.1)
    )
    found = moved(old, new)
    assert [(each.name, each.ratio, each.verdict) for each in found] == [
        ("faster", 0.5, "faster"), ("apart", 1.2, "slower")
    ]  # fmt: skip
    assert warnings(old, new) == ["only that one measured gone"]


def test_another_environment_or_config_is_named():
    old, new = figures(step=(1, 1, 1)), figures(step=(1, 1, 1))
    new["environment"]["cpu"] = "two"
    new["environment"]["versions"] = {"jax": "0.11.2"}
    new["experiment"]["model"]["precision"] = "bfloat16"
    assert warnings(old, new) == [
        "cpu was 'one', and is 'two'",
        'versions was {"jax": "0.10.2"}, and is {"jax": "0.11.2"}',
        "model.precision was 'float32', and is 'bfloat16'",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not JSON", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"environment": {}}', "KeyError"),
        ('{"measurements": {"step": {"median": 1}}}', "KeyError"),
        ('{"measurements": {}, "environment": {}, "experiment": {}}', "has no measurements"),
    ],
)
def test_another_file_is_refused(tmp_path, content, said):
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read(str(tmp_path / "old.json"))


def test_what_was_written_is_read(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(figures(step=(1, 2, 3))))
    assert read(str(tmp_path / "old.json")) == figures(step=(1, 2, 3))
