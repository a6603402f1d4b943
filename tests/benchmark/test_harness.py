"""Turns, medians and ratios, by hand."""

import json

import pytest

from seq2seq_jax.benchmark.harness import Spread, Timing, environment, paired_ratio, take_turns


class Clock:
    """Time that passes only while a contender works."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def contender(self, name, seconds):
        """Takes these seconds, call after call."""
        durations = iter(seconds)

        def work():
            self.calls.append(name)
            self.now += next(durations)

        return work


def test_quartiles_by_hand():
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(median=3.0, lower_quartile=2.0, upper_quartile=4.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0]) == Spread(median=2.5, lower_quartile=1.75, upper_quartile=3.25)


def test_contenders_take_turns_after_their_compilation_and_warm_up():
    clock = Clock()
    timings = take_turns(
        {
            "A": clock.contender("A", [60, 9, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7]),
            "B": clock.contender("B", [30, 9, 10, 20, 10, 20, 10, 20, 10, 20, 10, 20]),
        },
        rounds=5,
        calls=2,
        warm_up=1,
        clock=clock,
    )
    assert "".join(clock.calls) == "AB" + "AB" + "AABB" * 5
    assert timings["A"] == Timing(first_call=60.0, seconds=(1.0, 2.0, 3.0, 4.0, 6.0))
    assert timings["B"] == Timing(first_call=30.0, seconds=(15.0,) * 5)
    assert timings["A"].spread == Spread(median=3.0, lower_quartile=2.0, upper_quartile=4.0)


def test_the_ratio_is_that_of_the_rounds_and_not_of_the_medians():
    """Rounds 2, 1 and 9; the medians are 9 and 2."""
    assert paired_ratio([10.0, 2.0, 9.0], [5.0, 2.0, 1.0]).median == 2.0


def test_a_slow_round_leaves_the_ratio_as_it_is():
    ratio = paired_ratio([2.0, 2.0, 200.0, 2.0, 2.0], [1.0, 1.0, 100.0, 1.0, 1.0])
    assert ratio == Spread(median=2.0, lower_quartile=2.0, upper_quartile=2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 4}, "rounds must be at least 5"),
        ({"rounds": 5, "calls": 0}, "calls must be at least 1"),
        ({"rounds": 5, "warm_up": -1}, "warm_up at least 0"),
    ],
)
def test_too_little_to_measure_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        take_turns({"A": lambda: None}, **settings)


def test_the_environment_is_json_and_names_what_speed_depends_on():
    found = json.loads(json.dumps(environment()))
    assert found["cpu"] and found["cores"] >= 1
    assert {"jax", "jaxlib"} <= found["versions"].keys()
    assert found["num_devices"] >= 1
