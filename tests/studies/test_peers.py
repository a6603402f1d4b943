"""The peers compute what this project's models compute, and the comparison runs through at a toy size."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from studies.peers import __main__ as peers
from studies.peers.task import Task, shifted

needs_torch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")),
    reason="PyTorch or transformers is not installed (the extra `peers`)",
)
TASK = Task(
    rows=3,
    source_length=6,
    target_length=5,
    vocabulary_size=40,
    model_dim=12,
    hidden_dim=8,
    transformer_layers=2,
    num_heads=2,
    feed_forward_dim=16,
    convolutional_layers=2,
)
SIZES = [argument for field, value in dataclasses.asdict(TASK).items() for argument in (f"--task.{field}", str(value))]
MODELS = ("marian", "t5", "transformer", "recurrent_general", "recurrent_additive", "convolutional")


@needs_torch
@pytest.mark.parametrize("name", MODELS)
def test_both_sides_compute_the_same(name):
    from studies.peers import side_by_side

    agreement = side_by_side.check(name, TASK, threads=1)
    # Without training, every token of the vocabulary is about as likely.
    assert agreement.loss == pytest.approx(np.log(TASK.vocabulary_size), rel=0.2)
    assert agreement.gradient_difference < 2e-5
    assert agreement.updated_loss_difference < 1e-5


@needs_torch
def test_two_that_compute_something_else_are_not_compared(monkeypatch):
    from studies.peers import side_by_side

    architecture = side_by_side.ARCHITECTURES["recurrent_general"]

    def other_weights(params):
        found = dict(architecture.weights(params))
        return found | {"bridge.weight": -found["bridge.weight"]}

    monkeypatch.setitem(
        side_by_side.ARCHITECTURES, "recurrent_general", dataclasses.replace(architecture, weights=other_weights)
    )
    with pytest.raises(side_by_side.Disagreement, match="recurrent_general: the two sides lie further apart"):
        side_by_side.check("recurrent_general", TASK, threads=1)


@needs_torch
def test_the_comparison_at_a_toy_size(tmp_path, capsys):
    path = tmp_path / "figures.json"
    settings = ["--compiled", "False", "--threads", "1", "--rounds", "5", "--calls", "1", "--json", str(path)]
    peers.main(["--models", "recurrent_general", *settings, *SIZES])
    shown = capsys.readouterr().out
    figures = json.loads(path.read_text())
    found = figures["models"]["recurrent_general"]
    # Embeddings; 3 LSTM directions; bridge; keys; output.
    expected = 40 * 12 + 3 * 4 * 8 * (12 + 8 + 1) + 16 * 16 + 16 + 16 * 8 + 24 * 12 + 12
    assert found["parameters"] == expected
    assert f"{expected:,}" in shown
    assert found["agreement"]["gradient_difference"] < 1e-4
    assert list(found["timings"]) == ["seq2seq_jax", "PyTorch"]
    assert [len(timing["seconds"]) for timing in found["timings"].values()] == [5, 5]
    assert found["fastest_peer"] == "PyTorch"
    assert found["ratio"]["lower_quartile"] <= found["ratio"]["median"] <= found["ratio"]["upper_quartile"]
    assert figures["environment"]["pytorch"]["threads"] == 1


@needs_torch
@pytest.mark.parametrize("name", ["marian", "t5", "transformer"])
def test_both_sides_compute_the_same_on_padded_rows(name):
    from studies.peers import side_by_side

    full = dataclasses.replace(TASK, rows=20).batch(seed=0)

    def padded(side, shortest):
        lengths = shortest + np.arange(20)[:, None] % (side.tokens.shape[1] - shortest + 1)
        there = np.arange(side.tokens.shape[1]) < lengths
        return side.replace(tokens=np.where(there, side.tokens, 0), segment_ids=there.astype(np.int32))

    batch = full.replace(source=padded(full.source, 2), target=padded(full.target, 1))
    agreement = side_by_side.check(name, TASK, threads=1, batch=batch)
    assert agreement.gradient_difference < 2e-5
    assert agreement.updated_loss_difference < 1e-5


@needs_torch
def test_real_lengths_at_a_toy_size(tmp_path, capsys):
    path = tmp_path / "figures.json"
    sizes = [f"--task.{name}={value}" for name, value in dataclasses.asdict(TASK).items() if "dim" in name]
    peers.main(
        [
            *("packing", "dates/transformer", "--buckets", "1", "2", "--rounds", "5", "--threads", "1"),
            *("--data.train_examples", "200", "--data.validation_examples", "9", "--data.test_examples", "9"),
            *("--data.cache_directory", str(tmp_path), "--tokenizer.vocabulary_size", "500", *sizes),
            *("--task.transformer_layers=1", "--task.num_heads=2", "--json", str(path)),
        ]
    )
    shown = capsys.readouterr().out
    found = json.loads(path.read_text())["models"]["marian"]
    ways = ["padded, 1 buckets", "padded, 2 buckets"]
    assert list(found["rows"]) == ["packed", *ways, *(f"PyTorch, {way}" for way in ways)]
    assert found["best"] in [f"PyTorch, {way}" for way in ways]
    # Batches of both sides are the same.
    assert [found["rows"][f"PyTorch, {way}"]["fill"] for way in ways] == [found["rows"][way]["fill"] for way in ways]
    assert f"{found['parameters']:,}" in shown
    assert f"times the tokens/s of {found['best']}" in " ".join(shown.split())


def test_without_pytorch_there_is_one_clear_message(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"PyTorch is not installed.*pip install 'seq2seq_jax\[peers\]'"):
        peers.main([])


def test_help_needs_no_pytorch(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        peers.main(["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert [name for name in ("models", "check", "compiled", "json", "task.rows") if f"--{name}" not in shown] == []


def test_rows_are_full_and_the_decoder_reads_the_label_before():
    batch = TASK.batch(seed=0)
    assert batch.source.tokens.shape == (3, 6) and batch.target.tokens.shape == (3, 5)
    assert batch.source.mask.all() and batch.target.mask.all()
    inputs = shifted(batch.target.tokens)
    assert set(inputs[:, 0]) == {TASK.vocabulary.bos_id}
    np.testing.assert_array_equal(inputs[:, 1:], batch.target.tokens[:, :-1])
