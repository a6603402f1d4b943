"""Controls with a tokenizer: what they mean for text, and what cannot be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import convolutional, parameters, recurrent, transformer
from batches import batch

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.constraints import TokenControls
from seq2seq_jax.generation.controls import Controls, LineControls, line_controls, phrases_of_fields
from seq2seq_jax.generation.ensemble import Ensemble
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods import (
    BeamSearch,
    DiverseBeamSearch,
    Greedy,
    MinimumBayesRisk,
    Sampling,
    StochasticBeamSearch,
)
from seq2seq_jax.model import attention_weights, step_with_attention
from seq2seq_jax.parallel.mesh_config import MeshConfig

TEXTS = ["abc", "fedcba", "a", "cafebadfacebeef", "", "abcdefgh"]
LIMITS = {"maximum_length_ratio": 0.5, "maximum_length_extra": 9, "source_tokens_per_batch": 64}
METHODS = [
    BeamSearch(beam_size=4, n_best=4, **LIMITS),
    Greedy(**LIMITS),
    Sampling(samples=4, **LIMITS),
    DiverseBeamSearch(beam_size=4, groups=2, n_best=4, **LIMITS),
    StochasticBeamSearch(samples=4, **LIMITS),
    MinimumBayesRisk(samples=4, n_best=4, epsilon=None, **LIMITS),
]


@functools.cache
def tokenizer():
    config = TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False)
    return Tokenizer.train([("abcdefgh", "hgfedcba")], config)


@functools.cache
def model():
    built = transformer(tied_embeddings="none", scan_layers=True).build(tokenizer().vocabulary)
    return built, parameters(built, seed=2)


@functools.cache
def generator(method):
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    return Generator(model()[0], tokenizer(), method, source=Tokens(max_length=32), mesh=mesh)


def generated(method, texts=TEXTS, **asked):
    controls = line_controls(len(texts), **asked)
    return generator(method).generate(model()[1], texts, controls=controls)


def words_of(hypotheses):
    return [each.text for of_text in hypotheses for each in of_text]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_method_keeps_to_controls(method):
    """One program for each method: no repeated pair, a length, a forbidden piece, and what texts begin with."""
    controls = Controls(
        no_repeat_ngram=2,
        repetition_penalty=1.1,
        minimum_length=6,
        maximum_length=9,
        forbidden_pieces=("d",),
        forbidden_ids=(1,),
        first_text="ba",
    )
    prefixes = ["", "b", "cab", None, "", "a"]
    results = generated(dataclasses.replace(method, controls=controls), prefixes=prefixes)
    for source, prefix, found in zip(TEXTS, prefixes, results, strict=True):
        if source == "":
            assert [each.text for each in found] == [""]
            continue
        assert len(found) == method.num_texts or isinstance(method, MinimumBayesRisk)
        for each in found:
            assert each.text.startswith("ba" + (prefix or ""))
            assert "d" not in each.text and 6 <= each.num_tokens <= 9
            pairs = [each.text[start : start + 2] for start in range(2 + len(prefix or ""), len(each.text) - 1)]
            assert len(set(pairs)) == len(pairs)
            # Decoding is one piece a character, and the end.
            assert each.num_tokens - len(each.text) in (0, 1)


@pytest.mark.long
def test_phrases_are_in_every_text_and_nothing_is_compiled_for_others_of_their_size():
    method = dataclasses.replace(METHODS[0], maximum_length_extra=14)
    phrases = [["hh", "ha"], [], ["abab"], ["cc", "ccd", "de"], [], ["a"]]
    results = generated(method, phrases=phrases, prefixes=["", "f", "gg", "", "", ""])
    for asked, found in zip(phrases, results, strict=True):
        for each in found:
            assert all(phrase in each.text for phrase in asked)
    assert results[1][0].text.startswith("f") and results[2][0].text.startswith("gg")
    # A line of which nothing is asked fares as without the others.
    free = generated(method)
    assert [each.text for each in generated(method, phrases=phrases)[1]] == [each.text for each in free[1]]
    before = generator(method)._program.compilations
    generated(method, phrases=[["ab"], ["ba"], ["c", "d", "e"], [], [], ["gfed"]])
    generated(method, phrases=[["ab", "d", "gg"], [], [], [], [], []])
    assert generator(method)._program.compilations == before


def test_texts_are_those_of_teacher_forcing_with_a_prefix():
    """The log-probability of a text with a forced prefix is that of its tokens, by the model."""
    [[best], *_] = generated(METHODS[1], prefixes=["hgh", "", "", "", "", ""])
    assert best.text.startswith("hgh")
    [source], [target] = tokenizer().encode_source([TEXTS[0]]), tokenizer().encode_target([best.text])
    rows = batch([[(source, target)]], 32, 32, tokenizer().vocabulary)
    logits = np.asarray(jax.jit(model()[0].apply)({"params": model()[1]}, rows), np.float64)[0]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert best.log_probability == pytest.approx(sum(log_p[i, token] for i, token in enumerate(target)), rel=1e-4)


def test_neutral_values_add_nothing():
    """No processor, and one program for all of them."""
    neutral = TokenControls.of(Controls(), tokenizer(), shortest_limit=5)
    rows = jax.tree.map(jnp.asarray, batch([[([4, 3], [4, 3])]], 8, 8, tokenizer().vocabulary)).source
    assert neutral.processor(rows, jnp.array([5])) is None
    # A text has at least its EOS token.
    for values, adds in (
        ({"minimum_length": 1}, False),
        ({"no_repeat_ngram": 1}, True),
        ({"coverage_penalty": 0.1}, True),
        ({"minimum_length_ratio": 0.1}, True),
        ({"repetition_penalty": 1.1}, True),
    ):
        found = TokenControls.of(Controls(**values), tokenizer(), shortest_limit=5)
        assert (found.processor(rows, jnp.array([5])) is not None) == adds
    asked = [LineControls() for _ in TEXTS]
    free = generator(METHODS[0]).generate(model()[1], TEXTS)
    before = generator(METHODS[0])._program.compilations
    assert generator(METHODS[0]).generate(model()[1], TEXTS, controls=asked) == free
    assert generator(METHODS[0])._program.compilations == before
    long = dataclasses.replace(METHODS[0], controls=Controls(maximum_length=99))
    lowered = [generator(method).lower(model()[1], rows).as_text() for method in (METHODS[0], long)]
    assert lowered[0] == lowered[1]


def test_minimum_and_maximum_lengths_follow_the_source():
    controls = Controls(minimum_length_ratio=0.5, minimum_length=3, maximum_length=7)
    results = generated(dataclasses.replace(METHODS[0], controls=controls))
    for source, found in zip(TEXTS, results, strict=True):
        for each in found if source else []:
            assert min(7, max(3, (len(source) + 1) // 2)) <= each.num_tokens <= 7


@pytest.mark.parametrize("build", [transformer, recurrent, convolutional], ids=lambda build: build.__name__)
def test_attention_of_steps_is_that_of_teacher_forcing(build):
    built = build().build(tokenizer().vocabulary)
    params, vocabulary = parameters(built, seed=3), tokenizer().vocabulary
    target = [5, 6, 7, 5, vocabulary.eos_id]
    rows = batch([[([6, 5, 7, vocabulary.eos_id], target)], [([7, vocabulary.eos_id], target)]], 8, 8, vocabulary)
    rows = jax.tree.map(jnp.asarray, rows)
    expected = np.asarray(attention_weights(built, params, rows)).mean(axis=(1, 2))
    memory = built.apply({"params": params}, rows.source, deterministic=True, method="encode")
    state = built.apply({"params": params}, memory, max_length=8, beam_size=2, method="start")
    step = jax.jit(functools.partial(step_with_attention, built))
    for index, token in enumerate([vocabulary.bos_id, *target[:-1]]):
        logits, weights, state = step(params, jnp.full(4, token), state)
        assert logits.shape == (4, vocabulary.target_size)
        np.testing.assert_allclose(weights, np.repeat(expected[:, index], 2, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_attention_of_an_ensemble_is_the_mean_of_its_members():
    """Of models with other numbers of layers and heads: every layer counts once."""
    vocabulary = tokenizer().vocabulary
    members = tuple(build().build(vocabulary) for build in (transformer, recurrent))
    rows = jax.tree.map(
        jnp.asarray, batch([[([6, 5, 7, vocabulary.eos_id], [5, vocabulary.eos_id])]], 8, 8, vocabulary)
    )

    def first_step(model, params):
        memory = model.apply({"params": params}, rows.source, deterministic=True, method="encode")
        state = model.apply({"params": params}, memory, max_length=8, beam_size=1, method="start")
        return step_with_attention(model, params, jnp.full(1, vocabulary.bos_id), state)

    of_members = [parameters(member, seed=index) for index, member in enumerate(members)]
    weights = [first_step(*pair)[1] for pair in zip(members, of_members, strict=True)]
    logits, found, _ = first_step(Ensemble(members), Ensemble.parameters(of_members))
    np.testing.assert_allclose(found, (2 * weights[0] + weights[1]) / 3, rtol=1e-5)
    assert logits.shape == (1, vocabulary.target_size)


def test_coverage_changes_scores_and_needs_attention():
    without = BeamSearch(beam_size=4, n_best=4, length_penalty=0.0, **LIMITS)
    covering = dataclasses.replace(without, controls=Controls(coverage_penalty=0.5))
    scores, free = generated(covering), generated(without)
    # A text of one token attends to each of many source tokens less than once.
    assert all(each.score <= each.log_probability + 1e-5 for found in scores for each in found)
    assert any(each.score < each.log_probability - 0.1 for found in scores for each in found)
    assert [[each.score for each in found] for found in scores] != [[each.score for each in found] for found in free]
    silent = recurrent(decoder={"attention": None}).build(tokenizer().vocabulary)
    with pytest.raises(ValueError, match="decoder has no attention"):
        Generator(silent, tokenizer(), covering, source=Tokens(max_length=32), mesh=generator(without).mesh).generate(
            parameters(silent, seed=0), ["abc"]
        )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must not be negative, got -1"),
        ({"maximum_length": 0}, "maximum_length must be at least 1, the EOS token, got 0"),
        ({"minimum_length": 9, "maximum_length": 8}, "minimum_length is 9, more than controls.maximum_length = 8"),
        ({"first_text": ""}, "first_text is empty: give a value, or None"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Controls(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"forbidden_pieces": ("xyz",)}, "'xyz', which is no piece of the tokenizer"),
        ({"forbidden_pieces": ("</s>",)}, "forbidden_pieces has </s>, the EOS token"),
        ({"forbidden_ids": (999,)}, "must be ids below 1[0-9], the size of the vocabulary, and has 999"),
        ({"forbidden_ids": (3,)}, "forbidden_ids has 3, the EOS token: leave it out; set a minimum_length"),
        ({"first_ids": (3,)}, "first_ids has 3, the EOS token, which ends the text"),
        ({"first_ids": (0,)}, "first_ids has 0, the pad token, which is never generated"),
        ({"first_text": "aXb"}, "first_text is 'aXb', and has characters without a piece"),
        ({"first_text": "abc", "forbidden_pieces": ("b",)}, "needs the piece b .*, which is forbidden"),
        ({"first_text": "abcdefgha"}, "begins with 9 tokens .* has at most 9"),
        ({"first_text": "abc", "maximum_length": 3}, "begins with 3 tokens .* has at most 3"),
    ],
)
def test_controls_that_the_tokenizer_cannot_follow_are_refused(values, said):
    method = Greedy(maximum_length_ratio=0.0, maximum_length_extra=9, controls=Controls(**values))
    with pytest.raises(ValueError, match=said) as raised:
        generator(method)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "asked", "said"),
    [
        ({}, {"phrases": [[], ["abcdefgh" * 2]]}, "the phrases of line 2 may take 17 tokens .* at most 12: shorten"),
        ({}, {"prefixes": ["a" * 12, ""]}, "the prefix of line 1 may take 13 tokens .* at most 11"),
        ({}, {"prefixes": ["abcdef", ""], "phrases": [["feed"], []]}, "prefix and phrases of line 1 may take 10 .* 9"),
        ({"forbidden_pieces": ("c",)}, {"prefixes": ["", "abc"]}, "prefix of line 2 needs the piece c .* is forbidden"),
        ({"forbidden_pieces": ("c",)}, {"phrases": [["a", "bc"], []]}, "'bc' of line 1 needs the piece c"),
        ({}, {"phrases": [["aX"], []]}, "the phrase 'aX' of line 1 is 'aX', and has characters without a piece"),
        ({"maximum_length": 4}, {"phrases": [[], ["abcd"]]}, "may take 5 tokens .* at most 4"),
        ({}, {"phrases": [["a"]]}, "expected phrases for each of 2 texts, and got 1"),
        ({}, {"phrases": [["a", " "], []]}, "phrase 2 of 2 is blank"),
    ],
)
def test_lines_that_no_text_can_follow_are_refused_with_their_number(values, asked, said):
    limits = LIMITS | ({"maximum_length_extra": 7} if "feed" in str(asked) else {})
    method = BeamSearch(beam_size=2, **limits, controls=Controls(**values))
    with pytest.raises(ValueError, match=said) as raised:
        generated(method, ["abc", "abcdef"], **asked)
    assert "\n" not in str(raised.value)


def test_of_a_blank_source_nothing_can_be_asked():
    with pytest.raises(ValueError, match="line 2 is blank, so that nothing is generated for it, and has a prefix"):
        generated(METHODS[0], ["abc", " "], prefixes=["", "a"])


def test_phrases_are_a_list_for_each_text():
    with pytest.raises(TypeError, match=r"phrases\[0\] must be a list of strings, not a string: write \['ab'\]"):
        line_controls(1, phrases=["ab"])


@pytest.mark.parametrize(
    "method", [*METHODS[1:], BeamSearch(beam_size=1), BeamSearch(sibling_penalty=0.5)], ids=lambda each: repr(each)[:30]
)
def test_methods_that_cannot_take_phrases_say_so(method):
    with pytest.raises(ValueError, match="phrases need (beam search|a beam of 2)"):
        generated(method, ["abc"], phrases=[["a"]])


@pytest.mark.parametrize("kind", [Greedy, Sampling, StochasticBeamSearch, MinimumBayesRisk])
def test_a_coverage_penalty_needs_hypotheses_that_are_ranked(kind):
    with pytest.raises(ValueError, match=f"coverage_penalty has no effect with {kind.__name__}"):
        kind(controls=Controls(coverage_penalty=0.2))


def test_phrases_of_the_fields_of_examples():
    examples = [{"w": ["Haus", "", "Haus"]}, {"w": None}, {"w": "im"}]
    assert [each.phrases for each in phrases_of_fields(examples, "w")] == [("Haus",), (), ("im",)]
    for example, said in (({"v": "a"}, "expected the field 'w'"), ({"w": 3}, "a list of texts, and got 3. Correct it")):
        with pytest.raises(ValueError, match=said):
            phrases_of_fields([example], "w")
