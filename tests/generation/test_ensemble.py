"""Ensembles, against probabilities that are averaged by hand over all texts that there are."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from architectures import convolutional, parameters, recurrent, transformer
from batches import batch

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.ensemble import Ensemble, check_combination
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods import BeamSearch, DiverseBeamSearch, Greedy, MinimumBayesRisk, Sampling
from seq2seq_jax.generation.scorer import Scorer
from seq2seq_jax.objectives.ensemble import ensemble_loss
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh_config import MeshConfig

SOURCES = ["ab", "bbaab"]
LIMIT = 4
"""Tokens of a text, EOS token included."""
EXACT = BeamSearch(beam_size=48, n_best=48, length_penalty=0.0, maximum_length_ratio=0.0, maximum_length_extra=LIMIT)
"""A beam that loses nothing."""

FAMILIES = {
    "transformer": lambda: transformer(num_layers=1, tied_embeddings="none"),
    "recurrent": lambda: recurrent(cell="gru"),
    "convolutional": lambda: convolutional(num_layers=1, tied_embeddings="decoder"),
    "copying": lambda: dataclasses.replace(recurrent(), copying=True),
}


@functools.cache
def tokenizer():
    """Of six ids: pad, unknown, BOS, EOS, a and b."""
    trained = Tokenizer.train([("ab", "ba")], TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False))
    assert trained.vocabulary.target_size == 6
    return trained


@functools.cache
def member(family, seed=0):
    model = FAMILIES[family]().build(tokenizer().vocabulary)
    return model, parameters(model, seed=seed)


def generator(model, method=EXACT):
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    return Generator(model, tokenizer(), method, source=Tokens(max_length=16), mesh=mesh)


def ensemble(*members, **settings):
    models, params = zip(*members, strict=True)
    return Ensemble(tuple(model.clone() for model in models), **settings), Ensemble.parameters(params)


@functools.cache
def texts():
    """All token ids of a text."""
    vocabulary = tokenizer().vocabulary
    ids = [token for token in range(6) if token not in (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id)]
    return [(*tokens, vocabulary.eos_id) for length in range(LIMIT) for tokens in itertools.product(ids, repeat=length)]


@functools.cache
def rows():
    pairs = [(tokenizer().encode_source([source])[0], list(tokens)) for source in SOURCES for tokens in texts()]
    return batch([[pair] for pair in pairs], 16, LIMIT, tokenizer().vocabulary)


@functools.cache
def distributions(family, seed=0):
    """A member's next-token probabilities for all texts of all sources with teacher forcing, in float64."""
    model, params = member(family, seed)
    logits = np.asarray(jax.jit(model.apply)({"params": params}, rows()), np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def averaged(families, mean, weights):
    """Log-probabilities of the tokens of all texts, by the definition."""
    shares = np.array(weights or [1.0] * len(families))
    shares = shares / shares.sum()
    probabilities = np.stack([distributions(family, seed) for family, seed in families])
    if mean == "probabilities":
        together = np.einsum("m,mrtv->rtv", shares, probabilities)
    else:
        together = np.prod(probabilities ** shares[:, None, None, None], axis=0)
        together /= together.sum(axis=-1, keepdims=True)
    return np.log(np.take_along_axis(together, rows().target.tokens[..., None], axis=-1)[..., 0])


CASES = [
    ([("transformer", 0), ("recurrent", 1)], "probabilities", ()),
    ([("copying", 0), ("transformer", 1)], "probabilities", ()),
    ([("transformer", 0), ("recurrent", 1), ("convolutional", 2)], "probabilities", (1.0, 5.0, 2.0)),
    ([("recurrent", 1), ("transformer", 0)], "log_probabilities", ()),
    ([("transformer", 0), ("transformer", 3)], "log_probabilities", (3.0, 1.0)),
]


@pytest.mark.long
@pytest.mark.parametrize(("families", "mean", "weights"), CASES)
def test_a_beam_that_loses_nothing_finds_the_averaged_probabilities(monkeypatch, families, mean, weights):
    monkeypatch.setattr(tokenizer(), "decode_target", lambda ids: " ".join(map(str, ids)))
    model, params = ensemble(*(member(*each) for each in families), mean=mean, weights=weights)
    results = generator(model).generate(params, SOURCES)
    expected = np.where(rows().target.mask, averaged(families, mean, weights), 0.0).sum(axis=1)
    for best, totals in zip(results, expected.reshape(len(SOURCES), -1), strict=True):
        by_text = {" ".join(map(str, tokens)): total for tokens, total in zip(texts(), totals, strict=True)}
        found = {" ".join(each.text.split()[: each.num_tokens]): each.log_probability for each in best}
        assert found.keys() == by_text.keys()
        np.testing.assert_allclose([found[text] for text in by_text], list(by_text.values()), atol=2e-5)
    # It is none of the members.
    for family, seed in families:
        alone = averaged([(family, seed)], "probabilities", ())
        assert np.abs(np.where(rows().target.mask, alone, 0.0).sum(axis=1) - expected).max() > 0.01


@pytest.mark.parametrize(("families", "mean", "weights"), CASES[1:4])
def test_scores_and_loss_are_those_of_the_averaged_probabilities(families, mean, weights):
    model, params = ensemble(*(member(*each) for each in families), mean=mean, weights=weights)
    log_probabilities, mask = averaged(families, mean, weights), rows().target.mask
    # Of the texts that their tokens spell: without the unknown token.
    spelt = [index for index, tokens in enumerate(texts() * len(SOURCES)) if 1 not in tokens]
    pairs = list(itertools.product(SOURCES, texts()))
    scorer = Scorer(generator(model), max_target_length=LIMIT)
    scores = scorer.score(
        params,
        [pairs[index][0] for index in spelt],
        [tokenizer().decode_target(pairs[index][1]) for index in spelt],
    )
    for index, score in zip(spelt, scores, strict=True):
        np.testing.assert_allclose(score.token_log_probabilities, log_probabilities[index][mask[index]], atol=1e-5)
    config = MaximumLikelihoodConfig(label_smoothing=0.0, loss_chunk=2)
    loss, logged = jax.jit(ensemble_loss(model, config, player="model"))({"model": params}, rows())
    assert loss.mean == pytest.approx(-log_probabilities[mask].mean(), abs=1e-5)
    assert logged["nll"].mean == loss.mean and loss.weight == mask.sum()


METHODS = [
    BeamSearch(beam_size=3, n_best=2),
    Greedy(),
    DiverseBeamSearch(beam_size=4, groups=2, n_best=4, diversity=0.3),
    Sampling(samples=3, temperature=0.7, top_p=0.9),
    MinimumBayesRisk(samples=4),
]


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_an_ensemble_of_one_is_the_model_bit_for_bit(method):
    model, params = member("recurrent", 1)
    alone = generator(model, method).generate(params, SOURCES)
    one, of_one = ensemble((model, params))
    assert generator(one, method).generate(of_one, SOURCES) == alone


def test_the_scores_and_the_loss_of_an_ensemble_of_one_are_the_models_bit_for_bit():
    model, params = member("transformer")
    one, of_one = ensemble((model, params))
    ours, theirs = (
        Scorer(generator(each), max_target_length=8).score(parameters, SOURCES, ["ab", "bbb"])
        for each, parameters in ((one, of_one), (model, params))
    )
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.token_log_probabilities, their.token_log_probabilities)
    config = MaximumLikelihoodConfig(label_smoothing=0.1)
    evaluate = jax.jit(ensemble_loss(one, config, player="model"))
    assert evaluate({"model": of_one}, rows()) == jax.jit(config.build(model).evaluate)({"model": params}, rows())


@pytest.mark.parametrize("mean", ["probabilities", "log_probabilities"])
def test_two_copies_are_the_model_within_rounding(mean):
    copy = member("transformer")
    model, params = ensemble(copy, copy, mean=mean)
    together, alone = generator(model).generate(params, SOURCES), generator(copy[0]).generate(copy[1], SOURCES)
    for ours, theirs in zip(together, alone, strict=True):
        assert len(ours) == len(theirs) == len(texts())
        np.testing.assert_allclose(
            [each.log_probability for each in ours], [each.log_probability for each in theirs], atol=1e-5
        )
        assert [each.text for each in ours[:3]] == [each.text for each in theirs[:3]]


def test_texts_are_no_longer_than_all_members_have_positions_for():
    short = convolutional(max_positions=5).build(tokenizer().vocabulary)
    model, _ = ensemble(member("transformer"), (short, parameters(short)), member("recurrent"))
    assert model.position_limit == 5
    assert ensemble(member("transformer"))[0].position_limit is None


@pytest.mark.parametrize(
    ("mean", "weights", "said"),
    [
        ("probabilities", (1.0,), "an ensemble of 2 runs needs 2 weights, and 1 are given"),
        ("probabilities", (1.0, 0.0), "must be above 0"),
        ("probabilities", (1.0, float("nan")), "must be above 0"),
        ("median", (), "one of probabilities, log_probabilities"),
    ],
)
def test_what_cannot_be_combined_is_refused(mean, weights, said):
    with pytest.raises(ValueError, match=said) as error:
        check_combination(mean, weights, num_members=2)
    assert "\n" not in str(error.value)
