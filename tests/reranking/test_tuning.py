"""Line search and tuning, against brute force and planted weights."""

import numpy as np
import pytest

from seq2seq_jax.reranking.tuning import SummedQuality, WholeQuality, best_texts, envelope, tune


def random_features(seed, num_lists=60, num_features=3):
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-2, 2, num_features)
    return [rng.normal(size=(rng.integers(1, 9), num_features)) * scales + 5 for _ in range(num_lists)]


@pytest.mark.parametrize("seed", range(20))
def test_the_envelope_is_the_highest_line_everywhere(seed):
    rng = np.random.default_rng(seed)
    # Few values, so that lines are parallel, equal, or cross in one point.
    offsets, slopes = (rng.integers(-3, 4, 12).astype(float) for _ in range(2))
    hull = envelope(offsets, slopes)
    begins = [place for place, _ in hull]
    assert begins[0] == -np.inf and begins == sorted(set(begins))
    for x in np.linspace(-20, 20, 999) + 1e-4:
        line = hull[np.searchsorted(begins, x) - 1][1]
        values = offsets + slopes * x
        assert values[line] == values.max()
        same = (slopes == slopes[line]) & (offsets == offsets[line])
        assert line == np.flatnonzero(same)[0]


def agreement(features, planted, kind):
    """How many lists have the text chosen that planted weights choose."""
    wanted = best_texts(features, planted)
    if kind is WholeQuality:
        return WholeQuality(value=lambda choice: float(np.sum(choice == wanted)), evaluations=10_000)
    statistics = [
        (np.arange(len(of_list)) == text).astype(float)[:, None] for of_list, text in zip(features, wanted, strict=True)
    ]
    return SummedQuality(statistics=statistics, value=lambda sums: float(sums[0]))


@pytest.mark.parametrize("kind", [SummedQuality, WholeQuality])
@pytest.mark.parametrize("seed", range(4))
def test_planted_weights_are_found(seed, kind):
    features = random_features(seed)
    scales = np.concatenate(features).std(axis=0)
    planted = np.random.default_rng(100 + seed).normal(size=3) / scales
    quality, start = agreement(features, planted, kind), np.array([1.0, 0.0, 0.0])
    assert quality.after(best_texts(features, start), ())[0] < 50
    found = tune(features, quality, start)
    assert np.abs(found).sum() == pytest.approx(1)
    assert quality.after(best_texts(features, found), ())[0] >= 59


def test_weights_that_nothing_beats_are_kept():
    features = random_features(5)
    start = np.array([0.2, -0.5, 0.3])
    found = tune(features, agreement(features, start, SummedQuality), start, restarts=2)
    np.testing.assert_allclose(found, start)


def test_a_feature_that_never_differs_within_a_list_does_no_harm():
    features = [np.column_stack([of_list[:, :2], np.full(len(of_list), 7.0)]) for of_list in random_features(6)]
    planted = np.array([1.0, 0.5, 0.0]) / np.concatenate(features).std(axis=0).clip(1e-9)
    found = tune(features, agreement(features, np.nan_to_num(planted), SummedQuality), np.ones(3))
    assert np.isfinite(found).all()


def test_qualities_after_changes_are_those_of_the_choices():
    rng = np.random.default_rng(7)
    statistics = [rng.normal(size=(4, 3)) for _ in range(9)]

    def value(sums):
        return float(sums[0] * sums[1] - sums[2])

    def whole(choice):
        return value(sum(of_list[chosen] for of_list, chosen in zip(statistics, choice, strict=True)))

    choice = rng.integers(0, 4, 9)
    changes = [(int(rng.integers(9)), int(rng.integers(4))) for _ in range(30)]
    expected, current = [whole(choice)], choice.copy()
    for index, chosen in changes:
        current[index] = chosen
        expected.append(whole(current))
    np.testing.assert_allclose(SummedQuality(statistics=statistics, value=value).after(choice, changes), expected)
    sparse = WholeQuality(value=whole, evaluations=5).after(choice, changes)
    assert np.flatnonzero(~np.isnan(sparse)).tolist() == [0, 8, 15, 22, 30]
    np.testing.assert_allclose(sparse[~np.isnan(sparse)], np.array(expected)[~np.isnan(sparse)])
