"""Sources and targets in, attention weights out: those of each pair on its own, in order."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import parameters, transformer
from batches import batch

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.alignment import Aligner
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import attention_weights
from seq2seq_jax.modules import attention
from seq2seq_jax.parallel.mesh_config import MeshConfig

SOURCES = ["abc", "", "hgfedcbahgfedcbahgfedcba", "a", "deadbeefdeadbeefdead", "b", "a b"]
TARGETS = ["cba", "a", "abc", "", "daeb", "hgfedcbahgfedcbahgfedcbahg", "b a"]
LAYERS, HEADS = 2, 4


@functools.cache
def tokenizer():
    config = TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False)
    return Tokenizer.train([("abc defgh", "hgfedcba")], config)


@functools.cache
def aligner():
    model = transformer(tied_embeddings="none", scan_layers=True).build(tokenizer().vocabulary)
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    config = BeamSearch(beam_size=2, maximum_length_ratio=0.5, maximum_length_extra=3, source_tokens_per_batch=64)
    generator = Generator(model, tokenizer(), config, source=Tokens(max_length=32), mesh=mesh)
    return Aligner(generator, max_target_length=28), parameters(model, seed=2)


@functools.cache
def forced():
    align, params = aligner()
    return align.align(params, SOURCES, TARGETS)


@pytest.mark.long
def test_the_weights_are_those_of_each_pair_alone():
    align, params = aligner()
    sources, targets = tokenizer().encode_source(SOURCES), tokenizer().encode_target(TARGETS)
    for alignment, source, target in zip(forced(), sources, targets, strict=True):
        alone = batch([[(source, target)]], len(source), len(target), tokenizer().vocabulary)
        [expected] = attention_weights(align.generator.model, params, jax.tree.map(jnp.asarray, alone))
        assert alignment.weights.shape == (LAYERS, HEADS, len(target), len(source))
        np.testing.assert_allclose(alignment.weights, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(alignment.weights.sum(axis=-1), 1, rtol=1e-5)


def test_tokens_and_texts_are_those_of_the_pairs_in_order():
    assert [each.source for each in forced()] == SOURCES
    assert [each.target for each in forced()] == TARGETS
    assert forced()[0].source_tokens == ["a", "b", "c", "</s>"]
    assert forced()[6].target_tokens == ["b", "▁", "a", "</s>"]
    assert forced()[1].source_tokens == forced()[3].target_tokens == ["</s>"]


def test_without_targets_the_tokens_that_the_search_found_are_aligned():
    align, params = aligner()
    found = align.align(params, SOURCES)
    best = [hypotheses[0] for hypotheses in align.generator.generate(params, SOURCES)]
    assert [each.target for each in found] == [hypothesis.text for hypothesis in best]
    assert [len(each.target_tokens) for each in found] == [hypothesis.num_tokens for hypothesis in best]
    tokens = align.generator.best_tokens(params, SOURCES)
    assert [each.target_tokens for each in found] == [tokenizer().target_pieces(ids) for ids in tokens]
    assert all(each.target_tokens[-1] == "</s>" and "</s>" not in each.target_tokens[:-1] for each in found)
    for each in found:
        assert each.weights.shape == (LAYERS, HEADS, len(each.target_tokens), len(each.source_tokens))
        np.testing.assert_allclose(each.weights.sum(axis=-1), 1, rtol=1e-5)


def test_a_layer_and_a_head_or_their_means():
    alignment = forced()[0]
    weights = alignment.weights
    np.testing.assert_array_equal(alignment.matrix(layer=1, head=2), weights[1, 2])
    np.testing.assert_allclose(alignment.matrix(layer=1), weights[1].sum(axis=0) / HEADS, rtol=1e-6)
    np.testing.assert_allclose(alignment.matrix(head=2), weights[:, 2].sum(axis=0) / LAYERS, rtol=1e-6)
    np.testing.assert_allclose(alignment.matrix(), weights.sum(axis=(0, 1)) / LAYERS / HEADS, rtol=1e-6)


def test_layers_and_heads_are_counted_without_computing():
    align, params = aligner()
    assert align.layers_and_heads(jax.eval_shape(lambda: params)) == (LAYERS, HEADS)


def test_progress_counts_the_pairs():
    align, params = aligner()
    calls = []
    align.align(params, SOURCES, progress=lambda what, done, total: calls.append((what, done, total)))
    assert {what for what, _, _ in calls} == {"translating", "aligning"}
    for what in ("translating", "aligning"):
        done = [count for name, count, _ in calls if name == what]
        assert done == sorted(set(done))
        assert (done[-1], calls[-1][2]) == (len(SOURCES), len(SOURCES))


def test_nothing_gives_nothing():
    align, params = aligner()
    assert align.align(params, []) == align.align(params, [], []) == []


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        (["a", "b"], ["a"], "expected one target per source, 2 targets, and got 1."),
        (["a", "a" * 32], None, "line 2 has 33 tokens, and the model takes 32 (data.max_source_length"),
        (["a", "a" * 32], ["a", "b"], "line 2 has 33 tokens, and the model takes 32 (data.max_source_length"),
        (["a", "b"], ["a", "a" * 28], "line 2 of the targets has 29 tokens, and the model takes 28 (data.max_target"),
    ],
)
def test_what_does_not_fit_is_refused(sources, targets, message):
    align, params = aligner()
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}[^\n]*$"):
        align.align(params, sources, targets)


def test_a_model_without_attention_is_refused_before_it_searches(monkeypatch):
    align, params = aligner()
    # As with a decoder that reads nothing but a summary: no weights are recorded.
    monkeypatch.setattr(attention, "record", lambda module, weights: None)
    monkeypatch.setattr(align.generator, "best_tokens", lambda *args, **arguments: pytest.fail("searched"))
    with pytest.raises(ValueError) as caught:
        align.align(params, ["abc"])
    # Not by `match`, which reads the notes that JAX adds as well.
    assert str(caught.value).startswith("the model's decoder has no attention")
    assert "\n" not in str(caught.value)
