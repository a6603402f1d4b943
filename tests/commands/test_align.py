"""A picture of attention for a line, and its weights as JSON."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import batch
from compiling import flags_for_devices

import seq2seq_jax
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.evaluation import heat_maps
from seq2seq_jax.experiment import load_config
from seq2seq_jax.model import attention_weights
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.progress import Progress

pytestmark = pytest.mark.long

SOURCES = ["two red cows", "", "seven black birds", "two red cows", "three Ω cats"]
TARGETS = ["zwei rote Kühe", "es sind", "", "Hunde im Haus", "drei Ω"]
PNG = b"\x89PNG\r\n\x1a\n"


def as_lines(texts):
    return "".join(f"{text}\n" for text in texts).encode()


def records_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected_weights(run, source, target):
    """Of one pair alone, without padding."""
    [source_ids], [target_ids] = run.tokenizer.encode_source([source]), run.tokenizer.encode_target([target])
    alone = batch([[(source_ids, target_ids)]], len(source_ids), len(target_ids), run.tokenizer.vocabulary)
    params, _ = run.parameters()
    weights = jax.jit(functools.partial(attention_weights, run.system.model))(params, jax.tree.map(jnp.asarray, alone))
    return np.asarray(weights[0])


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: the arguments of each picture."""
    pictures = []

    def plot(weights, path, **arguments):
        pictures.append({"weights": weights, "path": path, **arguments})

    monkeypatch.setattr(heat_maps, "plot_attention", plot)
    return pictures


def test_one_line_makes_one_picture_in_the_run(seq2seq, copy_of_run):
    outcome = seq2seq("align", copy_of_run, stdin=b"two red cows\n")
    path = copy_of_run / "plots" / "attention" / "0001.png"
    assert (outcome.status, outcome.output) == (0, f"{path}\n")
    assert path.read_bytes()[:8] == PNG
    assert [each.name for each in path.parent.iterdir()] == ["0001.png"]


def test_a_picture_can_have_a_name(seq2seq, trained, tmp_path, unchanged):
    with unchanged(trained):
        outcome = seq2seq("align", trained, "--output", tmp_path / "new" / "cows.png", stdin=b"two red cows\n")
    assert (outcome.status, outcome.output) == (0, f"{tmp_path / 'new' / 'cows.png'}\n")
    assert (tmp_path / "new" / "cows.png").read_bytes()[:8] == PNG


def test_lines_keep_their_order(seq2seq, trained, tmp_path, drawn):
    path = tmp_path / "weights"
    outcome = seq2seq("align", trained, "--output", tmp_path / "out", "--json", path, stdin=as_lines(SOURCES))
    assert (outcome.status, outcome.output) == (0, f"5 pictures: {tmp_path / 'out' / '0001.png'} to 0005.png\n")
    assert [picture["path"].name for picture in drawn] == [f"000{number}.png" for number in range(1, 6)]
    records = records_of(path)
    assert [record["source"] for record in records] == SOURCES
    # What is aligned is the model's translation.
    run = seq2seq_jax.load(str(trained))
    assert [record["target"] for record in records] == run.generate(SOURCES)
    assert records[0]["target"] == "es sind zwei rote Kühe im Haus"
    assert records[1]["source_tokens"] == ["</s>"]
    assert records[0]["weights"] == records[3]["weights"]
    for record, picture, alignment in zip(records, drawn, run.align(SOURCES), strict=True):
        assert picture["source_tokens"] == record["source_tokens"] == alignment.source_tokens
        assert picture["target_tokens"] == record["target_tokens"] == alignment.target_tokens
        assert picture["texts"] == (f"source: {record['source']}", f"target: {record['target']}")
        np.testing.assert_allclose(alignment.weights, record["weights"], atol=1e-5)


def test_json_holds_the_attention_of_given_targets(seq2seq, trained, tmp_path, drawn):
    (tmp_path / "sources").write_bytes(as_lines(SOURCES))
    (tmp_path / "targets").write_bytes(as_lines(TARGETS))
    path = tmp_path / "weights"
    outcome = seq2seq(
        "align", trained, "--input", tmp_path / "sources", "--target", tmp_path / "targets", "--json", path,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert outcome.status == 0
    run = Inference.open(trained)
    records = records_of(path)
    assert [(record["source"], record["target"]) for record in records] == list(zip(SOURCES, TARGETS, strict=True))
    for record in records:
        weights = np.array(record["weights"])
        expected = expected_weights(run, record["source"], record["target"])
        assert weights.shape == expected.shape == (1, 2, len(record["target_tokens"]), len(record["source_tokens"]))
        np.testing.assert_allclose(weights, expected, atol=1.5e-5)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-4)
        assert record["source_tokens"][-1] == record["target_tokens"][-1] == "</s>"
    assert "".join(records[0]["source_tokens"]) == "▁two▁red▁cows</s>"
    assert "".join(records[4]["target_tokens"]) == "▁drei▁<0xCE><0xA9></s>"


@pytest.mark.parametrize(
    ("options", "title", "chosen"),
    [
        ([], "Attention, one layer, mean of 2 heads", lambda weights: weights.mean(axis=(0, 1))),
        (["--layer", "last"], "Attention, layer 1 of 1, mean of 2 heads", lambda weights: weights[0].mean(axis=0)),
        (["--head", "1"], "Attention, one layer, head 1 of 2", lambda weights: weights[:, 0].mean(axis=0)),
        (["--layer", "1", "--head", "2"], "Attention, layer 1 of 1, head 2 of 2", lambda weights: weights[0, 1]),
    ],
    ids=["means", "last layer", "head", "layer and head"],
)
def test_a_layer_and_a_head_are_chosen(seq2seq, trained, tmp_path, drawn, options, title, chosen):
    (tmp_path / "targets").write_text("zwei rote Kühe\n")
    outcome = seq2seq(
        "align", trained, "--target", tmp_path / "targets", "--output", tmp_path / "out", *options,
        stdin=b"two red cows\n",
    )  # fmt: skip
    assert outcome.status == 0
    [picture] = drawn
    assert picture["title"] == title
    expected = chosen(expected_weights(Inference.open(trained), "two red cows", "zwei rote Kühe"))
    np.testing.assert_allclose(picture["weights"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "stdin", "said"),
    [
        ([], b"", "standard input has no lines"),
        (["--input", "FILES/nothing"], b"", "there is no file"),
        (["--target", "FILES/two"], b"one\n", "expected one target per source, 1 targets, and got 2."),
        (["--target", "FILES/long"], b"one\n", "line 1 of the targets has 42 tokens, and the model takes 24"),
        ([], b"one\n" + b"two red cows " * 20 + b"\n", "line 2 has"),
        ([], b"one\n\xff\n", "line 2 of standard input is not UTF-8"),
        (["--layer", "2"], b"one\n", "mean, last or a number from 1, not '2'; the attention of this model has 1 layer"),
        (["--layer", "0"], b"one\n", "not '0'"),
        (["--layer=-1"], b"one\n", "not '-1'"),
        (["--head", "3"], b"one\n", "mean or a number from 1, not '3'; the attention of this model has 2 heads."),
        (["--head", "last"], b"one\n", "not 'last'"),
        (["--output", "FILES/one.png"], b"one\ntwo\n", "is one picture, and there are 2 lines"),
        (["--output", "FILES/two"], b"one\n", "is a file and no .png"),
        (["--checkpoint", "7"], b"one\n", "best, latest or one of"),
    ],
    ids=["no lines", "no file", "numbers differ", "long target", "long source", "not UTF-8", "layer", "layer 0",
         "layer -1", "head", "last head", "one picture", "output", "checkpoint"],
)  # fmt: skip
def test_a_mistake_is_one_line(seq2seq, trained, tmp_path, unchanged, options, stdin, said):
    (tmp_path / "two").write_text("eins\nzwei\n")
    (tmp_path / "long").write_text("Ω" * 20 + "\n")
    options = [option.replace("FILES", str(tmp_path)) for option in options]
    with unchanged(trained), unchanged(tmp_path):
        outcome = seq2seq("align", trained, *options, stdin=stdin)
    assert outcome.status == 2
    assert said in outcome.error_line


def test_a_model_without_attention_is_one_line(seq2seq, workplace, tmp_path, unchanged):
    experiment, _ = load_config(workplace / "configs" / "tiny" / "transformer.py")
    decoder = RecurrentDecoderConfig(attention=None, model_dim=32, hidden_dim=16)
    model = dataclasses.replace(experiment.model, decoder=decoder)
    run = TrainingRun(tmp_path / "run", dataclasses.replace(experiment, model=model))
    run.begin("tiny/fixed_vector")
    with run.checkpoints() as checkpoints:
        checkpoints.save(run.initial_state(), Progress(step=0))
    with unchanged(run.directory.path):
        outcome = seq2seq("align", run.directory.path, stdin=b"two red cows\n")
    assert outcome.status == 2
    assert "the model's decoder has no attention" in outcome.error_line


def test_rows_are_divided_over_devices(process, seq2seq, trained, tmp_path, drawn):
    """Three lines, which two devices do not share evenly, in a process that says nothing but where the pictures are."""
    lines = as_lines(["two red cows", "seven black birds", "six Ω cats"])
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert seq2seq("align", trained, "--output", tmp_path / "out", "--json", alone, stdin=lines).status == 0
    outcome = process(
        "align", trained, "--mesh.data", "2", "--output", tmp_path / "out", "--json", shared, stdin=lines,
        XLA_FLAGS=flags_for_devices(2),
    )  # fmt: skip
    assert outcome.status == 0, outcome.errors
    assert outcome.output == f"3 pictures: {tmp_path / 'out' / '0001.png'} to 0003.png\n"
    assert {line.partition(":")[0] for line in outcome.errors.splitlines()} == {"translating", "aligning", "drawing"}
    for expected, record in zip(records_of(alone), records_of(shared), strict=True):
        assert record | {"weights": None} == expected | {"weights": None}
        np.testing.assert_allclose(record["weights"], expected["weights"], atol=2e-5)
    assert len(list((tmp_path / "out").iterdir())) == 3
