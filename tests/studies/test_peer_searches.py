"""Beam search of other systems: the same weights, the same outputs or more probable ones, one table."""

import dataclasses
import importlib.util
import json

import jax
import pytest
from command_line import call

from seq2seq_jax.run.inference import Inference
from studies.peers import __main__ as peers
from studies.peers.generation import compare_outputs, token_log_probabilities

pytestmark = pytest.mark.long

needs_peers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "ctranslate2")),
    reason="PyTorch, transformers or ctranslate2 is not installed (the extra `peers`)",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Transformer that has learned a little about dates."""
    directory = tmp_path_factory.mktemp("dates")
    sizes = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "hidden_dim": 64}
    status = call(
        *[
            *("train", "dates/transformer", "--run-dir", str(directory / "run"), "--training.steps", "40"),
            *("--data.train_examples", "400", "--data.validation_examples", "8", "--data.test_examples", "24"),
            *("--data.cache_directory", str(directory / "cache"), "--tokenizer.vocabulary_size", "700"),
            *(f"--model.{stack}.{name}={value}" for stack in ("encoder", "decoder") for name, value in sizes.items()),
        ]
    )
    assert status == 0
    return directory / "run"


@needs_peers
def test_the_comparison_at_a_toy_size(trained, tmp_path, capsys):
    path = tmp_path / "figures.json"
    peers.main(
        [
            *("generation", str(trained), "--sentences", "12", "--rounds", "5", "--threads", "1"),
            *("--our_batches", "64", "256", "--hugging_face_batches", "4", "--ctranslate2_batches", "64"),
            *("--json", str(path)),
        ]
    )
    figures = json.loads(path.read_text())
    assert set(figures["agreement"]) == {"Hugging Face", "CTranslate2"}
    for agreement in figures["agreement"].values():
        assert agreement["token_difference"] <= 1e-4
        others = sum(agreement[name] for name in ("ties", "ours_likelier", "theirs_likelier"))
        assert agreement["identical"] + others == agreement["sentences"] == 12
        # After so few steps texts run to their limits, which CTranslate2 does not have for each source.
        assert agreement["theirs_likelier"] == 0
    assert figures["agreement"]["Hugging Face"]["identical"] >= 6
    assert figures["speed"]["seq2seq_jax"]["batch_size"] in (64, 256)
    assert all(speed["search_ratio"]["median"] > 0 for speed in figures["speed"].values())
    shown = capsys.readouterr().out
    assert "12 sentences of test, beam 4" in " ".join(shown.split())


def test_outputs_that_differ_are_judged_by_their_likelihood(trained):
    run = Inference.open(trained)
    run = run.with_parts(model=dataclasses.replace(run.experiment.model, precision="float32"))
    params = jax.device_put(run.parameters()[0])
    sources = run.tokenizer.encode_source([source for source, _ in run.data.corpus.examples("test")][:4])
    ours = run.system.generator.best_tokens_of(params, sources)
    end = run.tokenizer.vocabulary.eos_id
    theirs = [ours[0], [*ours[1][:1], *ours[1]], [end + 1, end], ours[3]]
    expected = [
        sum(scores.sum() for scores in token_log_probabilities(run.system.model, params, sources[1:3], found[1:3]))
        for found in (ours, theirs)
    ]
    agreement = compare_outputs(run.system.model, params, sources, ours, theirs, token_difference=0.0)
    assert (agreement.identical, agreement.sentences) == (2, 4)
    assert agreement.ours_likelier + agreement.theirs_likelier + agreement.ties == 2
    turned = compare_outputs(run.system.model, params, sources, theirs, ours, token_difference=0.0)
    assert (turned.ours_likelier, turned.theirs_likelier) == (agreement.theirs_likelier, agreement.ours_likelier)
    assert agreement.largest_difference >= abs(expected[0] - expected[1]) / 2 > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "the directory of one run, not of 0"), (["a", "b"], "the directory of one run, not of 2")],
)
def test_one_run_has_to_be_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        peers.main(["generation", *arguments])
