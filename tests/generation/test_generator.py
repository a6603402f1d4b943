"""Text in, text out: in order, alone as in a batch, and with the probabilities of teacher forcing."""

import functools
import re

import jax
import numpy as np
import pytest
from architectures import parameters, transformer
from batches import batch

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.generation.methods import Greedy, Sampling
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.generation.sources import FittedSources, SourceEncoder
from seq2seq_jax.parallel.mesh_config import MeshConfig

TEXTS = ["abc", "", "hgfedcbahgfedcbahgfedcba", "a", "cafebadfacebeef", "deadbeefdeadbeefdead", "b", "abcdefgh"]
"""With the EOS token 4, 1, 25, 2, 16, 21, 2 and 9 tokens: rows of 16, 24 and 32."""

CONFIG = BeamSearch(
    beam_size=3,
    n_best=2,
    length_penalty=0.6,
    maximum_length_ratio=0.5,
    maximum_length_extra=3,
    source_tokens_per_batch=64,
)


@functools.cache
def tokenizer():
    config = TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False)
    return Tokenizer.train([("abcdefgh", "hgfedcba")], config)


@functools.cache
def generator(config=CONFIG):
    model = transformer(tied_embeddings="none", scan_layers=True).build(tokenizer().vocabulary)
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    return Generator(model, tokenizer(), config, source=Tokens(max_length=32), mesh=mesh), parameters(model, seed=2)


@functools.cache
def generated():
    generate, params = generator()
    return generate.generate(params, TEXTS)


def as_tuples(hypotheses):
    return [(each.text, each.num_tokens) for each in hypotheses]


@pytest.mark.parametrize("index", [0, 2, 5])
def test_each_text_fares_alone_as_in_its_place_among_others(index):
    generate, params = generator()
    (alone,) = generate.generate(params, [TEXTS[index]])
    assert as_tuples(alone) == as_tuples(generated()[index])
    for name in ("score", "log_probability"):
        np.testing.assert_allclose(
            [getattr(each, name) for each in alone],
            [getattr(each, name) for each in generated()[index]],
            rtol=1e-4,
        )


def test_results_are_those_of_the_texts_in_order():
    generate, params = generator()
    backward = generate.generate(params, TEXTS[::-1])
    assert [as_tuples(best) for best in backward[::-1]] == [as_tuples(best) for best in generated()]
    assert len({tuple(as_tuples(best)) for best in generated()}) == len(TEXTS)


def test_a_blank_source_has_the_empty_text_alone_and_changes_no_other():
    generate, params = generator()
    blanks = ["", " ", "\t", "\u00a0\u3000", "\u200b", "\ufeff\u2060\u00ad", "\u2028\x0c\r", " " * 4000, "\u200b" * 99]
    texts = [text for pair in zip(blanks, TEXTS * 2, strict=False) for text in pair]
    results = generate.generate(params, texts)
    empty = Hypothesis(text="", score=0.0, log_probability=0.0, num_tokens=1)
    assert [best for best, text in zip(results, texts, strict=True) if text in blanks] == [[empty]] * (
        len(blanks) + texts[1::2].count("")
    )
    alone = generate.generate(params, texts[1::2])
    assert results[1::2] == alone
    assert generate.best_tokens(params, ["\u200b", "a"])[0] == [tokenizer().vocabulary.eos_id]
    assert generate.sources.fit(blanks).long == []


def test_the_n_best_are_different_and_the_best_comes_first():
    for text, best in zip(TEXTS, generated(), strict=True):
        if text == "":
            continue
        assert len(best) == 2
        assert best[0].score >= best[1].score
        assert best[0] != best[1]
        for each in best:
            normalizer = ((5 + each.num_tokens) / 6) ** 0.6
            assert each.score == pytest.approx(each.log_probability / normalizer, rel=1e-5)


@pytest.mark.long
def test_the_limit_of_tokens_follows_from_the_source():
    generate, params = generator(BeamSearch(maximum_length_ratio=0.0, maximum_length_extra=1, n_best=4))
    # Only the EOS token is allowed, so there is one hypothesis, however many are asked for.
    assert [as_tuples(best) for best in generate.generate(params, TEXTS[:2])] == [[("", 1)]] * 2
    limits = [int(0.5 * (len(text) + 1)) + 3 for text in TEXTS]
    assert all(each.num_tokens <= limit for best, limit in zip(generated(), limits, strict=True) for each in best)


def test_log_probabilities_are_those_of_teacher_forcing(monkeypatch):
    generate, params = generator()
    # Text does not always lead back to the tokens it was made of; their numbers do.
    monkeypatch.setattr(tokenizer(), "decode_target", lambda ids: " ".join(map(str, ids)))
    hypotheses = generate.generate(params, TEXTS)
    pairs, expected = [], []
    for text, best in zip(TEXTS, hypotheses, strict=True):
        for each in best if text else ():
            tokens = list(map(int, each.text.split()))[: each.num_tokens]
            assert tokens[-1] == tokenizer().vocabulary.eos_id
            assert tokenizer().vocabulary.eos_id not in tokens[:-1]
            pairs.append((tokenizer().encode_source([text])[0], tokens))
            expected.append(each.log_probability)
    rows = batch([[pair] for pair in pairs], 32, 32, tokenizer().vocabulary)
    logits = np.asarray(jax.jit(generate.model.apply)({"params": params}, rows), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_p, rows.target.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(np.sum(picked * rows.target.mask, axis=1), expected, rtol=1e-5)


def test_a_text_that_is_too_long_is_refused_with_its_line():
    generate, params = generator()
    texts = ["abc", "a" * 31, "a" * 32, "b" * 50]
    assert [(each.line, each.num_tokens) for each in generate.sources.fit(texts).long] == [(3, 33), (4, 51)]
    expected = re.escape("line 3 has 33 tokens, and the model takes 32 (data.max_source_length, EOS token included)")
    with pytest.raises(ValueError, match=rf"^{expected}[^\n]*$"):
        generate.generate(params, texts, too_long="refuse")


def test_parts_of_a_text_that_is_too_long_are_joined_and_others_stay_as_they_are():
    generate, params = generator()
    long = "abcdefgh" * 9
    fitted = generate.sources.fit(["abc", long, "", "a"])
    assert [len(parts) for parts in fitted.parts] == [1, 3, 0, 1] and max(map(len, fitted.parts[1])) <= 32
    assert [len(parts) for parts in generate.sources.fit(["a" * 31, "a" * 32]).parts] == [1, 2]
    results = generate.generate(params, ["abc", long, "", "a"])
    assert [as_tuples(best) for best in results[::3]] == [as_tuples(generated()[index]) for index in (0, 3)]
    of_parts = [generate.generate(params, [generate.tokenizer.decode_source(ids)])[0] for ids in fitted.parts[1]]
    assert as_tuples(results[1]) == [
        (" ".join(filter(None, (each.text for each in rank))), sum(each.num_tokens for each in rank))
        for rank in zip(*of_parts, strict=True)
    ]
    for joined, rank in zip(results[1], zip(*of_parts, strict=True), strict=True):
        assert joined.score == joined.log_probability
        assert joined.log_probability == pytest.approx(sum(each.log_probability for each in rank), rel=1e-4)


def test_every_part_of_a_tagged_text_has_its_tag():
    config = TokenizerConfig(kind="char", vocabulary_size=50, byte_fallback=False, special_tokens=("<2de>", "<2fr>"))
    tagged = Tokenizer.train([("<2de> abcdefgh", "hgfedcba")], config)
    sources = SourceEncoder(tagged, Tokens(max_length=16), tags=("<2fr>", "<2de>"))
    long = "abcd efgh " * 4
    (parts,) = sources.fit([f"<2de> {long}"]).parts
    texts = [tagged.decode_source(list(ids)) for ids in parts]
    assert len(parts) > 2 and max(map(len, parts)) <= 16 and all(text.startswith("<2de> ") for text in texts)
    assert " ".join(text.removeprefix("<2de> ") for text in texts) == long.strip()
    (plain,) = sources.fit([long]).parts
    assert "<2de>" not in "".join(tagged.decode_source(list(ids)) for ids in plain)


def test_batches_give_a_source_with_the_last_of_its_parts():
    generate, params = generator()
    texts = ["a" * 40, "", "b", "a"]
    batches = list(generate.generate_batches(params, generate.sources.fit(texts)))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3]
    assert list(batches[0]) == [1]
    assert 0 in batches[-1], "its parts are the longest"


def test_parts_of_a_line_are_drawn_differently_and_the_first_as_the_line():
    generate, params = generator(Sampling(samples=2, source_tokens_per_batch=64))
    fitted = FittedSources([[[5, 3]], [], [[5, 3]] * 3], np.array([7, 8, 9]), [])
    assert fitted.drawn_lines.tolist()[:2] == [6, 8] and len(set(fitted.drawn_lines.tolist())) == 4
    [[first]] = [generate.generate(params, ["abcdefgh"], lines=[5])]
    parts = generate.generate_fitted(
        params, FittedSources([generate.sources.encode(["abcdefgh"] * 2)], np.array([5]), [])
    )
    assert all(text.text.startswith(alone.text) for alone, text in zip(first, parts[0], strict=True))
    assert any(text.text != f"{alone.text} {alone.text}" for alone, text in zip(first, parts[0], strict=True))


@pytest.mark.parametrize("lines", [[1], [0, 1], [1, 2**31]])
def test_numbers_of_lines_that_are_none_are_refused(lines):
    with pytest.raises(ValueError, match="expected a line number, 1 or more, for each of 2 texts"):
        generator()[0].sources.fit(["a", "b"], lines=lines)


def test_a_text_that_is_too_long_is_cut_where_training_cuts():
    whole, params = generator()
    generate = Generator(
        whole.model, tokenizer(), CONFIG, source=Tokens(max_length=8, truncate="right"), mesh=whole.mesh
    )
    assert [each.line for each in generate.sources.fit(TEXTS).long] == [3, 5, 6, 8]
    assert [len(ids) for ids, *_ in filter(None, whole.sources.fit(TEXTS, too_long="truncate").parts)] == [
        4, 25, 2, 16, 21, 2, 9,
    ]  # fmt: skip
    assert [len(ids) for ids in generate.sources.encode(TEXTS)] == [4, 1, 8, 2, 8, 8, 2, 8]
    assert generate.sources.encode(["abcdefgh"]) == whole.sources.encode(["abcdefg"])
    [cut], [same] = generate.generate(params, ["abcdefgh"]), whole.generate(params, ["abcdefg"])
    assert as_tuples(cut) == as_tuples(same)


def test_a_text_without_end_is_refused_by_its_beginning(monkeypatch):
    generate, _ = generator()
    lengths = []
    encode = Tokenizer.encode_source
    monkeypatch.setattr(
        Tokenizer, "encode_source", lambda self, texts: lengths.extend(map(len, texts)) or encode(self, texts)
    )
    with pytest.raises(ValueError, match="line 2 has more than 2049 tokens, and the model takes 32 "):
        generate.sources.encode(["abc", "a" * 5_000_000])
    assert max(lengths) == 64 * 32
    # Spaces are no tokens, so that a long text may be short.
    assert generate.sources.encode(["a" + " " * 100_000 + "b"]) == generate.sources.encode(["a b"])


def test_progress_counts_the_sources():
    generate, params = generator()
    calls = []
    generate.generate(params, TEXTS, progress=lambda done, total: calls.append((done, total)))
    done = [count for count, _ in calls]
    assert done == sorted(set(done))
    assert len(calls) > 1
    assert calls[-1] == (len(TEXTS), len(TEXTS))


def test_no_text_gives_no_text():
    generate, params = generator()
    assert generate.generate(params, []) == []


def test_no_text_is_longer_than_the_decoder_has_positions():
    positions = {"positions": "learned", "max_positions": 32}
    config = transformer(encoder=positions, decoder=positions | {"max_positions": 5}, tied_embeddings="none")
    model = config.build(tokenizer().vocabulary)
    generate = Generator(
        model, tokenizer(), CONFIG, source=Tokens(max_length=32), mesh=MeshConfig(data=1).build(jax.devices()[:1])
    )
    results = generate.generate(parameters(model, seed=2), TEXTS)
    assert max(best.num_tokens for hypotheses in results for best in hypotheses) == 5
    assert CONFIG.maximum_length_extra + CONFIG.maximum_length_ratio * max(map(len, TEXTS)) > 5


@pytest.mark.parametrize(
    "method",
    [Sampling(temperature=1.5, seed=3, controls=Controls(minimum_length=3)), Greedy()],
    ids=["sampling", "greedy"],
)
def test_tokens_are_heard_one_after_the_other_and_are_those_of_the_text(method):
    generate, params = generator(method)
    texts, lines = [TEXTS[0], TEXTS[4]], [7, 2]
    for text, line in zip(texts, lines, strict=True):
        [ids] = generate.sources.encode([text])
        heard = []
        found = generate.generate_one(params, ids, line=line, on_token=heard.append)
        # The source stands in a longer row, and alone; what is drawn for its line is the same.
        assert as_tuples([found]) == as_tuples(generate.generate(params, [text], lines=[line])[0])
        # All but the last, which no further token depends on.
        assert len(heard) == found.num_tokens - 1 > 0
        before = tokenizer().decode_target(heard)
        assert found.text.startswith(before) and len(found.text) - len(before) <= 1
        assert as_tuples([generate.generate_one(params, ids, line=line)]) == as_tuples([found])


def test_a_search_with_several_hypotheses_is_heard_of_at_its_end():
    generate, params = generator()
    assert not generate.can_stream
    [ids] = generate.sources.encode([TEXTS[0]])
    heard = []
    found = generate.generate_one(params, ids, line=1, on_token=heard.append)
    assert heard == [] and as_tuples([found]) == as_tuples(generated()[0][:1])
