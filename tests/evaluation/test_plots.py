"""The figure holds the curves of the records; the file is a PNG of the promised width."""

import math
import struct
import subprocess
import sys

import pytest

from seq2seq_jax.evaluation.plots import learning_curves, plot_learning_curves

SCORES = {
    name: {"unit": "percent", "higher_is_better": True, "signature": f"version:{name}", "label": label}
    for name, label in (("bleu", "BLEU"), ("chrf", "chrF"), ("exact_match", "exact match"))
}


def validation(step, **values):
    """A record of a validation, with what its scores are."""
    described = {name: facts for name, facts in SCORES.items() if name in values}
    return {"step": step, "kind": "validation", **values, "metrics": described}


RECORDS = [
    {"step": 100, "kind": "train", "loss": 6.0, "tokens_per_second": 3000.0, "learning_rate": 1e-3},
    {"step": 200, "kind": "train", "loss": 4.0, "tokens_per_second": 3100.0, "learning_rate": 2e-3},
    validation(200, loss=4.5, bleu=12.5, chrf=30.0, exact_match=0.5),
    {"step": 300, "kind": "train", "loss": 3.0, "tokens_per_second": 3050.0, "learning_rate": 1.6e-3},
    validation(400, loss=3.25, bleu=34.4, chrf=55.0, exact_match=2.0),
    validation(600, loss=3.5, bleu=33.0, chrf=56.0, exact_match=2.0),
]


def panels(records):
    return {axes.get_title(): axes for axes in learning_curves(records).axes}


def curves(axes):
    """Legend name before its remark to the points of the line."""
    return {
        line.get_label().split(",")[0]: list(zip(*line.get_data(), strict=True))
        for line in axes.lines
        if line.get_marker() != "*"
    }


def stars(axes):
    return {(line.get_color(), *zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_marker() == "*"}


def test_every_metric_is_drawn_over_steps():
    figure = panels(RECORDS)
    assert list(figure) == ["Loss", "Validation scores", "Throughput", "Learning rate"]
    assert curves(figure["Loss"]) == {
        "training": [(100, 6.0), (200, 4.0), (300, 3.0)],
        "validation": [(200, 4.5), (400, 3.25), (600, 3.5)],
    }
    assert curves(figure["Validation scores"]) == {
        "BLEU": [(200, 12.5), (400, 34.4), (600, 33.0)],
        "chrF": [(200, 30.0), (400, 55.0), (600, 56.0)],
        "exact match": [(200, 0.5), (400, 2.0), (600, 2.0)],
    }
    assert curves(figure["Throughput"]) == {"training": [(100, 3000.0), (200, 3100.0), (300, 3050.0)]}
    assert curves(figure["Learning rate"]) == {"training": [(100, 1e-3), (200, 2e-3), (300, 1.6e-3)]}


def test_losses_of_training_and_validation_share_a_chart_whose_scale_may_be_logarithmic():
    scales = {
        scale: {axes.get_title(): axes.get_yscale() for axes in learning_curves(RECORDS, loss_scale=scale).axes}
        for scale in ("linear", "log")
    }
    assert scales["log"] == {**scales["linear"], "Loss": "log"}
    assert set(scales["linear"].values()) == {"linear"}
    (axes,) = (axes for axes in learning_curves(RECORDS, loss_scale="log").axes if axes.get_title() == "Loss")
    assert curves(axes)["training"] == [(100, 6.0), (200, 4.0), (300, 3.0)]
    assert curves(axes)["validation"] == [(200, 4.5), (400, 3.25), (600, 3.5)]


def test_a_policy_gradient_shows_its_samples_instead_of_its_loss():
    """Its loss has another unit than the likelihood of validation."""
    reward = {"reward": 0.4, "reward_spread": 0.1, "advantage": 0.05, "entropy": 0.3, "sample_length": 15.0}
    records = [
        {"step": 10, "kind": "train", "loss": -0.5, "ended_fraction": 0.9, "rewards_per_second": 100.0, **reward},
        {"step": 20, "kind": "validation", "loss": 2.5},
    ]
    figure = panels(records)
    assert list(figure) == [
        "Loss", "Reward of samples", "Policy", "Length of samples", "Samples that end in the EOS token",
        "Rewards computed",
    ]  # fmt: skip
    assert curves(figure["Loss"]) == {"validation": [(20, 2.5)]}
    assert curves(figure["Reward of samples"]) == {
        "mean": [(10, 0.4)], "standard deviation within a source": [(10, 0.1)], "advantage": [(10, 0.05)],
    }  # fmt: skip
    assert curves(figure["Policy"]) == {"entropy": [(10, 0.3)]}


def test_axes_name_their_units_and_have_a_legend():
    units = {"Loss": "nats per token", "Validation scores": "percent", "Throughput": "tokens per second"}
    figure = panels(RECORDS)
    for title, unit in units.items():
        assert unit in figure[title].get_ylabel()
    for axes in figure.values():
        assert axes.get_xlabel().startswith("step")
        assert axes.get_legend() is not None


def test_the_best_of_validation_is_marked_and_named():
    figure = panels(RECORDS)
    assert {star[1:] for star in stars(figure["Loss"])} == {((400, 3.25),)}
    assert {star[1:] for star in stars(figure["Validation scores"])} == {((400, 34.4),), ((600, 56.0),), ((400, 2.0),)}
    assert not stars(figure["Throughput"])
    names = [text.get_text() for text in figure["Validation scores"].get_legend().get_texts()]
    assert names[0] == "BLEU, best 34.4 at step 400"


ERRORS = {"unit": "percent", "higher_is_better": False, "signature": "norm:none", "label": "WER"}
PERPLEXITY = {"unit": "perplexity per word", "higher_is_better": False, "signature": "per:words", "label": "per word"}


def test_scores_are_drawn_as_the_records_describe_them():
    """A metric that no code here names: its unit makes the panel, its direction the star, its signature is there."""
    facts = {"wer": ERRORS, "perplexity": PERPLEXITY}
    records = [
        {"step": step, "kind": "validation", "loss": 1.0, "wer": wer, "perplexity": perplexity, "metrics": facts}
        for step, wer, perplexity in ((10, 30.0, 9.0), (20, 20.0, 8.0), (30, 25.0, 11.0))
    ]
    figure = panels(records)
    assert list(figure) == ["Loss", "Validation scores", "Validation, perplexity per word"]
    assert curves(figure["Validation scores"]) == {"WER": [(10, 30.0), (20, 20.0), (30, 25.0)]}
    assert {star[1:] for star in stars(figure["Validation scores"])} == {((20, 20.0),)}
    assert figure["Validation, perplexity per word"].get_ylabel() == "score (perplexity per word)"
    assert learning_curves(records).get_supxlabel() == "WER: norm:none\nper word: per:words"


def test_validation_sets_have_curves_of_their_own():
    records = [
        validation(step, loss=loss, bleu=bleu) | {"set": name}
        for step, name, loss, bleu in (
            (10, "validation", 3.0, 1.0), (10, "news", 5.0, 0.5), (20, "validation", 2.0, 4.0), (20, "news", 6.0, 0.7),
        )
    ]  # fmt: skip
    figure = panels(records)
    assert curves(figure["Loss"]) == {
        "validation (validation)": [(10, 3.0), (20, 2.0)], "validation (news)": [(10, 5.0), (20, 6.0)],
    }  # fmt: skip
    assert curves(figure["Validation scores"]) == {
        "BLEU (validation)": [(10, 1.0), (20, 4.0)], "BLEU (news)": [(10, 0.5), (20, 0.7)],
    }  # fmt: skip
    assert {star[1:] for star in stars(figure["Loss"])} == {((20, 2.0),), ((10, 5.0),)}
    styles = {line.get_linestyle() for line in figure["Loss"].lines if line.get_marker() != "*"}
    assert len(styles) == 2


def test_a_panel_with_nothing_to_show_is_left_out():
    assert list(panels(RECORDS[:2])) == ["Loss", "Throughput", "Learning rate"]
    assert list(panels([validation(1, bleu=3.0)])) == ["Validation scores"]
    assert curves(panels(RECORDS[2:3])["Loss"]) == {"validation": [(200, 4.5)]}


def test_the_later_record_of_a_step_counts_and_steps_are_in_order():
    repeated = [*RECORDS[:2], {"step": 100, "kind": "train", "loss": 5.0}]
    assert curves(panels(repeated)["Loss"])["training"] == [(100, 5.0), (200, 4.0)]


def test_what_is_not_finite_is_never_the_best():
    losses = {1: 2.0, 2: math.nan, 3: None}
    records = [{"step": step, "kind": "validation", "loss": loss} for step, loss in losses.items()]
    axes = panels(records)["Loss"]
    assert {star[1:] for star in stars(axes)} == {((1, 2.0),)}
    assert [step for step, _ in curves(axes)["validation"]] == [1, 2]


@pytest.mark.parametrize("records", [[], [{"step": 1, "kind": "train"}], [{"step": 1, "kind": "other", "loss": 1.0}]])
def test_nothing_to_draw_is_an_error(records):
    with pytest.raises(ValueError, match=r"^expected records [^\n]*$"):
        learning_curves(records)


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], [validation(1, bleu=3.0)]])
def test_the_file_is_a_png_a_thousand_pixels_wide(tmp_path, records):
    path = tmp_path / "curves.png"
    plot_learning_curves(records, path)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", content[16:20]) == (1000,)


def test_no_global_state_of_matplotlib_is_touched():
    program = "import sys, seq2seq_jax.evaluation.plots as plots; plots.learning_curves(%r); " % RECORDS[:1]
    program += "sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
