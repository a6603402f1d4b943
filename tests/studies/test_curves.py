"""Curves of several runs: points by hand, the picture's lines, the table, and mistakes."""

import json

import pytest

from studies.curves import curves, main, points, reached

RECORDS = [
    {"kind": "train", "step": 10, "reward": 1.0, "seconds": 60.0},
    {"kind": "train", "step": 20, "reward": 4.0, "seconds": 120.0},
    {"kind": "validation", "step": 20, "bleu": 30.0, "chrf": 50.0, "best": True},
    {"kind": "train", "step": 30, "reward": 7.0, "seconds": 180.0},
    {"kind": "validation", "step": 30, "bleu": 29.0, "chrf": 51.0, "best": False},
]


def test_points_are_means_of_the_records_around_them_over_minutes():
    assert points(RECORDS, "train/reward", smoothing=1) == [(1.0, 1.0), (2.0, 4.0), (3.0, 7.0)]
    assert points(RECORDS, "train/reward", smoothing=3) == [(1.0, 2.5), (2.0, 4.0), (3.0, 5.5)]
    assert points(RECORDS, "validation/bleu", smoothing=3) == [(2.0, 30.0), (3.0, 29.0)]
    assert points(RECORDS, "train/kl", smoothing=3) == []


def test_a_panel_a_metric_and_a_line_a_run_that_has_it():
    figure = curves({"one": RECORDS, "two": RECORDS[:1]}, ("train/reward", "validation/bleu"), smoothing=1)
    assert [axes.get_title() for axes in figure.axes] == ["train/reward", "validation/bleu"]
    assert [[line.get_label() for line in axes.get_lines()] for axes in figure.axes] == [["one", "two"], ["one"]]


def test_what_a_run_reached_is_that_of_its_best_checkpoint():
    assert reached(RECORDS) == {"steps": 30, "minutes": 3.0, "step": 20, "bleu": 30.0, "chrf": 50.0}


def test_the_program(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    plot, figures = tmp_path / "curves.png", tmp_path / "figures.json"
    main([str(run), "--metrics", "train/reward", "--plot", str(plot), "--json", str(figures)])
    assert "30.00" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads(figures.read_text())["run"]["bleu"] == 30.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the directory of at least one RUN"),
        (["nowhere"], "nowhere has no records"),
        (["RUN", "--smoothing", "0"], "--smoothing must be at least 1"),
        (["RUN", "--metrics", "train/rewrd"], "no run has logged 'train/rewrd'"),
    ],
)
def test_a_mistake(tmp_path, arguments, message):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(RECORDS[0]) + "\n")
    with pytest.raises(ValueError, match=message):
        main([argument.replace("RUN", str(tmp_path)) for argument in arguments])
