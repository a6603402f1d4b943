"""Two players in turns of 3 to 1, one of them alone at first: on eight devices as on one, and continued bit by bit."""

import numpy as np
import pytest
from eight_devices import on_eight_devices

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Mesh -> metrics of ten steps, counts of the optimizers, norms of parameters, and whether it continued alike."""
    return on_eight_devices(tmp_path_factory, "parallel/players_on_meshes.py")


@pytest.mark.parametrize("mesh", ["one", "data", "all"])
def test_each_player_counts_its_own_updates(trained, mesh):
    counts = trained[mesh]["counts"]
    assert counts["at the switch"] == {"critic": 3 * 5, "model": 0}
    assert counts["at the end"] == {"critic": 3 * 10, "model": 5}


def test_after_100_steps_of_turns_of_3_to_1_optimizers_have_counted_300_and_100(trained):
    counts = trained["one"]["counts"]
    before, after = counts["at the switch"], counts["after 100 steps of both"]
    assert {name: after[name] - before[name] for name in after} == {"critic": 300, "model": 100}


@pytest.mark.parametrize("mesh", ["one", "data", "all"])
def test_what_is_continued_where_the_second_player_begins_is_the_same_bit_by_bit(trained, mesh):
    assert trained[mesh]["continued"] is True


@pytest.mark.parametrize("mesh", ["one", "data", "all"])
def test_one_program_serves_both_phases(trained, mesh):
    assert trained[mesh]["programs"] == 1


def test_the_player_that_waits_logs_nothing(trained):
    for step, metrics in enumerate(trained["one"]["metrics"]):
        assert ("loss" in metrics) == ("gradient_norm" in metrics) == ("nll" in metrics) == (step >= 5)
        assert all(np.isfinite(list(metrics.values())))


@pytest.mark.parametrize("mesh", ["data", "all"])
def test_meshes_change_no_number(trained, mesh):
    one, other = trained["one"], trained[mesh]
    for found, expected in zip(other["metrics"], one["metrics"], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert other["norms"].keys() == one["norms"].keys()
    for name, expected in one["norms"].items():
        # The bias of keys has no gradient but rounding's.
        np.testing.assert_allclose(other["norms"][name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
