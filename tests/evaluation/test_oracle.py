"""The oracle of the synthetic task: its formulas, its draws, its metric, and its texts as data."""

import dataclasses
import itertools

import numpy as np
import pytest

from seq2seq_jax.data.oracle_texts import OracleTexts
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.evaluation.metrics.oracle import OracleLikelihood
from seq2seq_jax.evaluation.oracle import Oracle, as_text, as_tokens

SMALL = {"num_tokens": 7, "hidden": 3}


def by_hand(arrays, text):
    """Negative log-likelihoods of one text, step by step in float64."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    hidden = cell = np.zeros(len(arrays["b_input"]))
    found, token = [], 0
    for following in text:
        x = arrays["embedding"][token]
        gate = {g: x @ arrays[f"W_{g}"] + hidden @ arrays[f"U_{g}"] + arrays[f"b_{g}"] for g in GATES}
        cell = sigmoid(gate["forget"]) * cell + sigmoid(gate["input"]) * np.tanh(gate["candidate"])
        hidden = sigmoid(gate["output"]) * np.tanh(cell)
        logits = hidden @ arrays["W_logits"] + arrays["b_logits"]
        found.append(np.log(np.exp(logits).sum()) - logits[following])
        token = following
    return found


GATES = ("input", "forget", "output", "candidate")


def test_likelihoods_are_those_of_the_formulas():
    oracle = Oracle.of_seed(1, **SMALL)
    texts = np.random.default_rng(0).integers(0, 7, (4, 6))
    expected = [by_hand(oracle._arrays, text) for text in texts]
    np.testing.assert_allclose(oracle.negative_log_likelihoods(texts), expected, rtol=1e-4)


def test_draws_are_of_the_oracles_distribution_and_do_not_depend_on_their_number():
    """Of two tokens, all 49 texts are enumerated; frequencies within 5 standard errors."""
    oracle = Oracle.of_seed(1, **SMALL)
    every = np.array([(a, b) for a in range(7) for b in range(7)])
    probabilities = np.exp(-oracle.negative_log_likelihoods(every).sum(axis=1))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    drawn = oracle.draw(20_000, length=2, seed=0)
    counts = np.bincount(drawn @ [7, 1], minlength=49) / len(drawn)
    errors = np.sqrt(probabilities * (1 - probabilities) / len(drawn))
    assert np.all(np.abs(counts - probabilities) < 5 * errors + 1e-4)
    np.testing.assert_array_equal(oracle.draw(700, length=2, seed=0), drawn[:700])
    assert not np.array_equal(oracle.draw(700, length=2, seed=1), drawn[:700])


def test_an_oracle_is_read_from_a_file(tmp_path):
    oracle = Oracle.of_seed(1, **SMALL)
    np.savez(tmp_path / "oracle.npz", **oracle._arrays)
    assert Oracle.read(str(tmp_path / "oracle.npz")).fingerprint == oracle.fingerprint
    np.savez(tmp_path / "part.npz", embedding=oracle._arrays["embedding"])
    (tmp_path / "none.npz").write_text("no arrays")
    for name, message in (("part", "W_input is missing"), ("none", "cannot be read"), ("absent", "No such file")):
        with pytest.raises(ValueError, match=message):
            Oracle.read(str(tmp_path / f"{name}.npz"))


def test_the_metric_is_the_mean_over_texts_of_the_oracles_tokens():
    oracle = Oracle.of_seed(5, num_tokens=30)
    texts = oracle.draw(5, length=4, seed=0)
    texts[1] = texts[0]
    outputs = [*map(as_text, texts.tolist()), "1 2 3", "1 2 3 x", "1 2 3 30", ""]
    # What comes behind the last token does not count.
    outputs[0] += " x"
    found = OracleLikelihood(seed=5, num_tokens=30, length=4).corpus(outputs, [{}] * len(outputs))
    assert found["oracle_nll"].value == pytest.approx(oracle.negative_log_likelihoods(texts).mean())
    assert found["oracle_valid"].value == pytest.approx(500 / 9)
    pairs = [pair for text in texts.tolist() for pair in itertools.pairwise(text)]
    assert found["oracle_distinct_2"].value == pytest.approx(100 * len(set(pairs)) / len(pairs))
    assert not found["oracle_nll"].higher_is_better
    nothing = OracleLikelihood(seed=5, num_tokens=30, length=4).corpus(["", "x"], [{}] * 2)
    assert nothing["oracle_nll"].value == pytest.approx(np.log(30)) and nothing["oracle_valid"].value == 0.0


def test_its_texts_are_data(tmp_path):
    """Drawn once, and found again; the splits differ; a tokenizer of words has a token for each."""
    data = OracleTexts(
        cache_directory=str(tmp_path),
        num_tokens=50,
        length=5,
        max_target_length=6,
        train_examples=200,
        validation_examples=20,
        test_examples=30,
    )
    corpus = data.open()
    assert dict(corpus.splits) == {"train": 200, "validation": 20, "test": 30}
    train = list(corpus.examples("train"))
    assert train == list(data.open().examples("train")) and len(list((tmp_path / "oracle_texts").iterdir())) == 3
    assert {source for source, _ in train} == {"."}
    tokens = np.array([as_tokens(text, num_tokens=50) for _, text in train])
    np.testing.assert_array_equal(tokens, Oracle.of_seed(0, num_tokens=50).draw(200, length=5, seed=0))
    assert not np.array_equal(
        tokens[:20], [as_tokens(text, num_tokens=50) for _, text in corpus.examples("validation")]
    )
    config = TokenizerConfig(kind="words", joint=False, vocabulary_size=60, byte_fallback=False)
    tokenizer = Tokenizer.train(train, config)
    ids = tokenizer.encode_target([text for _, text in train])
    assert all(len(each) == 6 for each in ids)
    assert [tokenizer.decode_target(each) for each in ids] == [text for _, text in train]
    assert tokenizer.vocabulary.target_size == 4 + len(np.unique(tokens)) and tokenizer.vocabulary.source_size == 5
    other = dataclasses.replace(data, draw_seed=1).open()
    assert other.fingerprint != corpus.fingerprint
