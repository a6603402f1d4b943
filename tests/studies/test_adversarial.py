"""The study of adversarial training: its command lines, what it measures of translations, what it says of curves."""

import itertools
import json

import pytest

from seq2seq_jax.commands.options import parse
from studies import adversarial
from studies.adversarial import (
    SEARCHES,
    AdversarialArguments,
    Multi30k,
    Synthetic,
    lower_where,
    picture,
    table_of_samples,
    table_of_synthetic,
    table_of_translation,
)
from studies.jobs import Claim


@pytest.fixture
def commands(monkeypatch):
    """What would be run; of texts that are generated or scored there are two."""
    noted = []

    def seq2seq(claim, name, *arguments):
        noted.append((name, *arguments))
        given = dict(itertools.pairwise(arguments))
        for option, text in (("--json", json.dumps({"bleu": 40.0, "chrf": 64.0})), ("--output", "ein Hund\nx\n")):
            if name != "train" and option in given:
                with open(given[option], "w") as file:
                    file.write(text)
        if name == "train":
            claim.path.mkdir(parents=True)
            records = ({"entropy": 1.0, "distinct_2": 0.5}, {"entropy": 0.5, "ended_fraction": 1.0})
            (claim.path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))

    monkeypatch.setattr(Claim, "seq2seq", seq2seq)
    return noted


def experiments_of(commands):
    """Of the trainings, by the names of their directories, parsed as the command would."""
    found = {}
    for name, *arguments in commands:
        if name == "train":
            run = arguments[arguments.index("--run-dir") + 1].partition("/runs/")[2]
            assert run not in found
            found[run] = parse("train", arguments).arguments.experiment
    return found


def test_on_an_oracle_what_trains_on_starts_from_maximum_likelihood(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(adversarial, "measure_synthetic", lambda path, chosen: {"best": {}, "latest": {}})
    study = Synthetic(tmp_path, AdversarialArguments(oracle="oracle.npz", options=("training.steps=7",)))
    assert study.do(study.jobs) == {}
    found = experiments_of(commands)
    assert list(found) == list(study.jobs)
    for name, experiment in found.items():
        assert experiment.data.oracle == "oracle.npz" and experiment.training.steps == 7
        starts = name not in ("maximum_likelihood", "cooperative", "professor_forcing")
        assert experiment.init_from == (f"{tmp_path}/runs/maximum_likelihood:latest" if starts else None)
    assert {found[f"seqgan_{seed}"].training.seed for seed in range(3)} == {0, 1, 2}
    assert found["shuffled"].objective.reward_control == "shuffled"


SETTINGS = {"task": "multi30k", "start": "start", "options": ("model.precision=float32",)}


@pytest.fixture
def translation(tmp_path, commands):
    for language, lines in (("en", "a dog\nx\n"), ("de", "ein Hund\ny\n")):
        for split in ("val", "test_2016_flickr"):
            (tmp_path / f"{split}.{language}").write_text(lines)
    study = Multi30k(tmp_path / "study", AdversarialArguments(**SETTINGS, data=str(tmp_path)))
    names = [name for name in study.jobs if not name.startswith("samples/")]
    assert study.do(names) == {}
    return study


def test_translation_starts_from_one_run_and_is_compared_with_its_controls(translation, commands):
    found = experiments_of(commands)
    assert {experiment.init_from for experiment in found.values()} == {"start"}
    assert {found[f"adversarial_constant_{seed}"].training.seed for seed in range(3)} == {0, 1, 2}
    assert found["adversarial_constant_1"].objective.reward_control == "constant"
    assert {found[name].objective.discriminator.model.precision for name in found if "adversarial" in name} == {
        "float32"
    }
    assert {experiment.model.precision for experiment in found.values()} == {"float32"}
    assert translation.result("adversarial_0")["records"] == {"entropy": 0.5, "distinct_2": 0.5, "ended_fraction": 1.0}
    # Equal outputs.
    assert translation._compared("adversarial_2", "beam") == {"more_likelihood": 1.0, "adversarial_constant_2": 1.0}
    assert set(translation._compared("adversarial_constant_2", "beam")) == {"more_likelihood"}
    assert translation._compared("preference", "greedy").keys() == {"more_likelihood", "adversarial_constant_0"}


def test_reranking_is_tuned_on_validation_and_has_a_control_without_the_discriminator(translation, commands):
    assert set(translation.result("rerank")) == {"log_probability", "with_discriminator", "seconds"}
    tuned = [arguments for name, *arguments in commands if name == "rerank" and "--tune" in arguments]
    assert [len([each for each in arguments if "adversarial_0" in each]) for arguments in tuned] == [0, 1]
    assert all("val.jsonl" in " ".join(arguments) for arguments in tuned)


def curve(*points):
    return [
        {"temperature": 1.0 + place, "nll_test": test, "oracle_nll": oracle, "oracle_distinct_2": 90.0}
        for place, (test, oracle) in enumerate(points)
    ]


STRAIGHT = curve((8.0, 9.0), (9.0, 8.0))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (curve((7.0, 9.0), (10.0, 6.0)), "lower everywhere for NLL_test from 8.00 to 9.00, by 1.000 on average"),
        (curve((9.0, 8.5), (7.0, 10.5)), "lower nowhere"),
        (curve((8.0, 8.0), (9.0, 9.0)), "lower on 50% of the range"),
        (curve((9.5, 8.0), (10.0, 9.0)), "the curves have no NLL_test in common"),
    ],
)
def test_where_a_curve_is_lower_is_said_in_words(other, words):
    assert lower_where(other, STRAIGHT).startswith(words)


def test_curves_are_drawn_and_tabulated():
    measured = {"best": {"step": 4, "curve": STRAIGHT}, "latest": {"step": 33, "curve": STRAIGHT}}
    found = {"maximum_likelihood": measured, "seqgan_0": measured}
    (axes,) = picture(found).axes
    assert len(axes.lines) == 4
    lines = table_of_synthetic(found).splitlines()
    assert lines[2] == "| maximum_likelihood | best | 4 | 9.000 | 8.000 | 0.900 |"
    scores = {"greedy": {"bleu": 39.64, "chrf": 63.8}, "beam": {"bleu": 40.2, "chrf": 64.2}}
    p_values = {"x": {search: {"more_likelihood": 0.04, "adversarial_constant_0": 0.5} for search in SEARCHES}}
    (_, _, line) = table_of_translation({"x": scores | {"records": {"entropy": 1.5}}}, p_values).splitlines()
    assert line == "| x | 39.64 (0.040, 0.500) | 63.80 | 40.20 (0.040, 0.500) | 64.20 | 1.500 |  |  |"
    curves = {"samples/x": [{"temperature": 0.5, "mean_bleu": 30.0, "pairwise_bleu": 50.0}]}
    assert table_of_samples(curves).splitlines()[2] == "| x | 30.00, 50.00 |"


def test_mistakes():
    with pytest.raises(ValueError, match="--start"):
        AdversarialArguments(task="multi30k")
    with pytest.raises(ValueError, match="needs one DIR"):
        adversarial.main([])
