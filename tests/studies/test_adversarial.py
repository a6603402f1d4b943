"""The study of adversarial training: what it runs, and what it says of curves."""

import pytest

from seq2seq_jax.experiment import find_config
from studies.adversarial import RUNS, AdversarialArguments, command, lower_where, picture, table

SETTINGS = {
    "synthetic": AdversarialArguments(results="here", oracle="oracle.npz"),
    "multi30k": AdversarialArguments(task="multi30k", results="here", directory="text", start="start"),
}


@pytest.mark.parametrize("task", RUNS)
def test_its_runs_have_directories_of_their_own_and_configs_that_are_there(task):
    runs = list(RUNS[task](SETTINGS[task]))
    assert len({run.name for run in runs}) == len(runs) >= 6
    for run in runs:
        assert find_config(run.config).is_file()
        words = command(run, SETTINGS[task])
        assert words[:2] == ["train", run.config] and words[-2:] == ["--run-dir", f"here/{run.name}"]
        others = [word for word in words[2:] if word.startswith("--")]
        assert len(set(others)) == len(others)


def test_all_but_cooperative_training_start_from_the_first():
    first, *others = RUNS["synthetic"](SETTINGS["synthetic"])
    assert "--init-from" not in first.options
    for run in others:
        if run.name == "cooperative":
            continue
        assert run.options[run.options.index("--init-from") + 1] == "here/maximum_likelihood:latest"


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
    lines = table(SETTINGS["synthetic"], found).splitlines()
    assert lines[2] == "| maximum_likelihood | best | 4 | 9.000 | 8.000 | 0.900 |"
    scores = {"greedy": {"bleu": 39.64, "chrf": 63.8}, "beam": {"bleu": 40.2, "chrf": 64.2}}
    assert table(SETTINGS["multi30k"], {"x": scores}).splitlines()[2] == "| x | 39.64 | 63.80 | 40.20 | 64.20 |"


def test_translation_needs_text_and_a_run():
    with pytest.raises(ValueError, match="--start"):
        AdversarialArguments(task="multi30k")
