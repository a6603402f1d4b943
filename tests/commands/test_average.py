"""An average of checkpoints is their mean, and a run like any other."""

import json

import jax
import numpy as np
import orbax.checkpoint
import pytest

pytestmark = pytest.mark.long


def averages(run, step):
    """The averaged parameters of a checkpoint, read without this project."""
    tree = orbax.checkpoint.PyTreeCheckpointer().restore(run / "checkpoints" / f"{step:08d}" / "state")
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree["players"]["model"]["average"])


def steps_of(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("last", [None, 1, 2])
def test_the_mean_of_the_checkpoints(seq2seq, trained, tmp_path, unchanged, last):
    output = tmp_path / "averaged"
    with unchanged(trained):
        outcome = seq2seq("average", trained, "--output", output, *(() if last is None else ("--last", last)))
    assert outcome.status == 0
    steps = steps_of(trained)[-(last or 9) :]
    assert len(steps) == (last or len(steps_of(trained))) >= (last or 2)
    assert f"average of steps {', '.join(map(str, steps))} of {trained} in {output}" in outcome.output
    expected = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(averages(trained, step) for step in steps))
    assert steps_of(output) == [120]
    jax.tree.map(
        lambda mean, leaf: np.testing.assert_allclose(leaf, mean, rtol=0, atol=1e-6), expected, averages(output, 120)
    )
    assert json.loads((output / "experiment.json").read_text())["averaged"] == [{"run": str(trained), "steps": steps}]


def test_an_average_is_used_like_a_run(seq2seq, trained, tmp_path):
    assert seq2seq("average", trained, "--output", tmp_path / "averaged").status == 0
    assert seq2seq("average", trained, "--output", tmp_path / "last", "--last", "1").status == 0
    figures = {}
    for run, which in ((trained, "latest"), (tmp_path / "averaged", "best"), (tmp_path / "last", "best")):
        assert seq2seq("evaluate", run, "--checkpoint", which, "--json", tmp_path / "figures").status == 0
        figures[run.name] = json.loads((tmp_path / "figures").read_text())
    assert figures["last"]["loss"] == figures[trained.name]["loss"], "the mean of one checkpoint is that checkpoint"
    assert figures["averaged"]["loss"] != figures["last"]["loss"]
    assert figures["averaged"]["bleu"] > 10
    generated = seq2seq("generate", tmp_path / "averaged", stdin=b"two red cows\n")
    assert generated.output == "es sind zwei rote Kühe im Haus\n"


def test_an_average_that_cannot_be_written_leaves_nothing(seq2seq, trained, tmp_path, monkeypatch):
    def fails(self, state, progress):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("seq2seq_jax.training.checkpoint.Checkpoints.save", fails)
        outcome = seq2seq("average", trained, "--output", tmp_path / "averaged")
    assert outcome.status != 0 and "No space left" in outcome.errors
    assert not list(tmp_path.iterdir())
    assert seq2seq("average", trained, "--output", tmp_path / "averaged").status == 0


def test_the_mean_of_several_runs(seq2seq, trained, tmp_path):
    assert seq2seq("average", trained, "--output", tmp_path / "all").status == 0
    both = seq2seq("average", trained, tmp_path / "all", "--checkpoint", "latest", "--output", tmp_path / "both")
    assert f"average of steps 120 of {trained}; steps 120 of {tmp_path / 'all'} in {tmp_path / 'both'}" in both.output
    jax.tree.map(
        lambda mean, *leaves: np.testing.assert_allclose(mean, sum(leaves) / 2, rtol=0, atol=1e-6),
        averages(tmp_path / "both", 120), averages(trained, 120), averages(tmp_path / "all", 120),
    )  # fmt: skip


def test_runs_of_other_models_are_refused(seq2seq, trained, tmp_path):
    description = json.loads((trained / "experiment.json").read_text())
    description["experiment"]["model"]["decoder"]["num_layers"] += 1
    del description["sha256"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "experiment.json").write_text(json.dumps(description))
    refused = seq2seq("average", trained, other, "--output", tmp_path / "both")
    assert refused.status == 2 and f"{other} has another architecture" in refused.error_line
    refused = seq2seq("average", trained, "--last", "1", "--checkpoint", "best", "--output", tmp_path / "both")
    assert refused.status == 2 and "not both" in refused.error_line
    assert not (tmp_path / "both").exists()
