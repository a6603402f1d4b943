"""The cost of a policy gradient: the table by hand, and mistakes."""

import pytest

from seq2seq_jax.benchmark.harness import Timing
from studies.policy_gradient import _figures, _rows, main


def timing(*seconds):
    return Timing(first_call=9.0, seconds=seconds)


FOUND = {
    "sources": 64,
    "tokens": {0: 1_000, 5: 4_000},
    "timings": {
        ("whole", 5): timing(2.0, 2.0, 4.0, 4.0, 4.0),
        ("sampling", 5): timing(1.0, 1.0, 1.0, 1.0, 1.0),
        ("reward", 5): timing(0.01, 0.01, 0.02, 0.01, 0.01),
        ("update", 5): timing(1.0, 1.0, 1.5, 1.0, 1.0),
        ("with host reward", 5): timing(3.0, 3.0, 6.0, 6.0, 6.0),
        ("maximum likelihood", 0): timing(0.25, 0.25, 0.5, 0.5, 0.5),
    },
}


def test_costs_are_told_per_target_token_and_round_by_round():
    """Four times the tokens in eight times the time of maximum likelihood: twice as dear."""
    likelihood, five = _rows(FOUND, (5,))
    assert likelihood[:2] == ("maximum likelihood", "1,000")
    assert five[:2] == ("5 samples per source", "4,000")
    assert five[3:6] == ("1,000 ms", "10 ms", "1,000 ms")
    assert five[6] == "2.00 (2.00 to 2.00)"
    assert five[7].startswith("1.50")


def test_figures_for_machines_name_what_was_timed():
    figures = _figures(FOUND)
    assert figures["tokens"] == {"references": 1_000, "5 samples": 4_000}
    assert figures["seconds"]["reward, 5 samples"]["median"] == 0.01
    assert figures["seconds"]["maximum likelihood"]["rounds"] == (0.25, 0.25, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["multi30k/transformer_small"], "has no policy-gradient objective"),
        (["--host_samples", "3"], "--host_samples must be one of --samples 1 5 16 and at least 2, not 3"),
        (["--samples", "1", "5", "--host_samples", "1"], "--host_samples must be one of --samples 1 5 and at least 2"),
    ],
)
def test_a_mistake(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)
