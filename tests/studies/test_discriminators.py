"""The study of discriminators: its jobs and its table; nothing is trained."""

import json

import pytest

from studies import discriminators
from studies.discriminators import DISCRIMINATORS, Chains, DiscriminatorsArguments, Quality, Study, best_quality, row_of


def test_every_discriminator_at_every_shift_with_and_without_a_source(tmp_path, monkeypatch, capsys):
    trained = []

    def train(config, chains, **settings):
        trained.append((config, chains.length, settings["conditional"], settings["prefixes"]))
        return Quality(accuracy=0.5, loss=0.7)

    monkeypatch.setattr(discriminators, "train", train)
    monkeypatch.setattr(discriminators, "best_quality", lambda chains: Quality(accuracy=0.8, loss=0.4))
    study = Study(tmp_path, DiscriminatorsArguments(shifts=(1.0, 0.0), json=str(tmp_path / "all.json")))
    assert next(iter(study.jobs)) == "conditional/shift=1/causal recurrent"
    assert study.do(study.jobs) == {} and len(trained) == 4 * len(DISCRIMINATORS) == len(study.jobs)
    assert [conditional for _, _, conditional, _ in trained] == [True] * 10 + [False] * 10
    assert all(prefixes == config.is_causal for config, _, _, prefixes in trained)
    study.show()
    assert "0.5000" in capsys.readouterr().out
    assert json.loads((tmp_path / "all.json").read_text())["unconditional/shift=0/match matrix"]["shift"] == 0.0
    result = {"reached": {"accuracy": 0.7, "loss": 0.5}, "best": {"accuracy": 0.71, "loss": 0.49}}
    assert row_of("x", result | {"processor_seconds": 60.4}) == ["x", "0.7000", "0.7100", "0.5000", "0.4900", "60"]


def test_the_best_of_six_symbols_is_what_the_page_says():
    for shift, accuracy, loss in ((0.5, 0.708, 0.564), (1.0, 0.840, 0.363)):
        best = best_quality(Chains.of(shift, seed=0))
        assert (round(best.accuracy, 3), round(best.loss, 3)) == (accuracy, loss)


def test_mistakes():
    with pytest.raises(ValueError, match="--steps must be at least 20, not 3"):
        DiscriminatorsArguments(steps=3)
    with pytest.raises(ValueError, match="needs one DIR"):
        discriminators.main([])
