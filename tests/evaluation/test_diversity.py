"""Measures of several texts per source: by hand, and BLEU as sacreBLEU's corpus_score over all pairs has it."""

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from seq2seq_jax.evaluation import diversity
from seq2seq_jax.evaluation.metric import Alternatives, Evaluated, check_metrics
from seq2seq_jax.evaluation.metrics import parse_metric
from seq2seq_jax.evaluation.metrics.diversity import Diversity

WORDS = "the a cat dog sat ran on under mat hat red big".split()


def sources_of(*texts_of_each):
    return [[diversity.Text.of(text.split()) for text in texts] for texts in texts_of_each]


def random_texts(seed, *, sources=5, number=4):
    """Texts of several lengths with many repetitions, some equal, one empty."""
    rng = np.random.default_rng(seed)
    texts = [[" ".join(rng.choice(WORDS[:6], rng.integers(1, 12))) for _ in range(number)] for _ in range(sources)]
    texts[0][1], texts[1][2] = texts[0][0], ""
    return texts


def test_distinct_n_grams_by_hand():
    sources = sources_of(["a b a", "a b"], ["a c", "a c"])
    # Words a b a a b a c a c: 3 of 9. Bigrams ab ba ab ac ac: 3 of 5. Trigrams: aba, 1 of 1.
    assert [diversity.distinct(sources, order) for order in (1, 2, 3, 4)] == [3 / 9, 3 / 5, 1.0, 0.0]
    # Of each source: words 2 of 5 and 2 of 4; bigrams 2 of 3 and 1 of 2; trigrams 1 of 1 and none.
    found = [diversity.distinct_per_source(sources, order) for order in (1, 2, 3)]
    assert found == pytest.approx([(2 / 5 + 2 / 4) / 2, (2 / 3 + 1 / 2) / 2, 0.5])


def test_entropy_types_and_lengths_by_hand():
    sources = sources_of(["a b a", "a b"], ["a c", "a c"])
    # Words: a 5, b 2, c 2 of 9. Bigrams: ab 2, ba 1, ac 2 of 5.
    assert diversity.entropy(sources, 1) == pytest.approx(-(5 * math.log(5 / 9) + 4 * math.log(2 / 9)) / 9)
    assert diversity.entropy(sources, 2) == pytest.approx(-(4 * math.log(2 / 5) + math.log(1 / 5)) / 5)
    assert diversity.entropy(sources, 4) == 0.0
    assert diversity.types(sources) == {"a", "b", "c"}
    assert diversity.mean_length(sources) == 9 / 4


def test_pairwise_bleu_by_hand():
    # Of each ordered pair 4 of 5 words, 3 of 4 bigrams, 2 of 3 trigrams, 1 of 2 4-grams; all are equally long.
    sources = sources_of(["a b c d e", "a b c d f"])
    assert diversity.pairwise_bleu(sources) == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert diversity.pairwise_bleu(sources_of(["a b c d", "a b c d"])) == pytest.approx(100)
    assert diversity.pairwise_bleu(sources_of(["a b c d", "e f g h"])) == 0.0
    assert diversity.pairwise_bleu(sources_of(["a b c d"])) == diversity.self_bleu(sources_of(["a b c d"])) == 100.0


@pytest.mark.parametrize("seed", range(3))
def test_pairwise_bleu_is_sacrebleu_s_of_all_ordered_pairs(seed):
    texts = random_texts(seed)
    pairs = [(each[i], each[j]) for each in texts for i in range(len(each)) for j in range(len(each)) if i != j]
    expected = BLEU(tokenize="none").corpus_score([a for a, _ in pairs], [[b for _, b in pairs]]).score
    assert diversity.pairwise_bleu(sources_of(*texts)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_self_bleu_is_sacrebleu_s_against_the_other_texts(seed):
    texts = random_texts(seed)
    each = [(text, of_source[:i] + of_source[i + 1 :]) for of_source in texts for i, text in enumerate(of_source)]
    streams = [[others[k] for _, others in each] for k in range(len(texts[0]) - 1)]
    expected = BLEU(tokenize="none").corpus_score([text for text, _ in each], streams).score
    found = diversity.self_bleu(sources_of(*texts))
    assert found == pytest.approx(expected, rel=1e-12)
    # With each text among its own references it would be 100.
    assert found < 99


def test_a_text_is_none_of_its_own_references():
    assert diversity.self_bleu(sources_of(["a b c d", "e f g h", "i j k l"])) == 0.0
    # A word that a text has twice and another once: one of the two matches.
    [first, second] = diversity._against_the_others(sources_of(["a a b", "a c"])[0])
    assert (first.matches, second.matches) == ([1, 0, 0, 0], [1, 0, 0, 0])
    assert (first.length, first.reference_length) == (3, 2)


@pytest.mark.parametrize("seed", range(3))
def test_bleu_of_all_and_of_the_best_are_sacrebleu_s(seed):
    texts = random_texts(seed)
    references = [each[:2] for each in random_texts(seed + 10)]
    found = sources_of(*texts), sources_of(*references)
    flat = [(text, of_source) for each, of_source in zip(texts, references, strict=True) for text in each]
    streams = [[of_source[k] for _, of_source in flat] for k in range(2)]
    corpus = BLEU(tokenize="none")
    assert diversity.mean_bleu(*found) == pytest.approx(
        corpus.corpus_score([text for text, _ in flat], streams).score, rel=1e-12
    )
    sentence = BLEU(tokenize="none", effective_order=True)
    best = [
        max(range(len(each)), key=lambda k: sentence.sentence_score(each[k], of_source).score)
        for each, of_source in zip(texts, references, strict=True)
    ]
    assert diversity.oracle(*found) == best
    chosen = [each[k] for each, k in zip(texts, best, strict=True)]
    streams = [[of_source[k] for of_source in references] for k in range(2)]
    assert diversity.oracle_bleu(*found) == pytest.approx(corpus.corpus_score(chosen, streams).score, rel=1e-12)


def evaluated(texts, references, *, number=2):
    return Evaluated(
        outputs=[each[0] if each else "" for each in texts],
        examples=[{"source": "x", "target": each} for each in references],
        alternatives=Alternatives(texts, number=number, method="Sampling,samples=2,temperature=0.5"),
    )


def test_the_metric_says_how_texts_were_generated_and_how_many():
    texts = [["The cat sat.", "a Cat sat."], ["two dogs"], []]
    found = Diversity().scores(evaluated(texts, ["the cat sat.", "two dogs", "nothing"]))
    assert tuple(found) == Diversity().names and found["pairwise_bleu"].higher_is_better is False
    # Words The cat sat . a Cat sat . two dogs: 8 types, of references the cat sat . two dogs nothing: 5 of 7.
    assert found["types"].value == 8 and found["types_of_references"].value == pytest.approx(500 / 7)
    assert found["distinct_1"].value == pytest.approx(80.0) and found["distinct_1"].unit == "percent"
    assert found["mean_length"].value == 10 / 4
    signature = found["oracle_bleu"].signature
    assert signature.startswith("nrefs:1|method:Sampling,samples=2,temperature=0.5|n:2|case:mixed|tok:13a|")
    assert "|version:2." in signature
    assert found["pairwise_bleu"].note == "2 of 3 sources have fewer than 2 texts"
    lower = Diversity(lowercase=True).scores(evaluated(texts, ["the cat sat.", "two dogs", "nothing"]))
    assert lower["types"].value == 7 and "|case:lc|" in lower["types"].signature


def test_texts_are_split_as_for_bleu():
    texts = [["Two dogs, running!", "Two dogs run."], ["A cat.", "A cat."]]
    references = ["Two dogs run!", "A cat."]
    found = Diversity().scores(evaluated(texts, references))
    pairs = [(each[i], each[1 - i]) for each in texts for i in (0, 1)]
    expected = BLEU().corpus_score([a for a, _ in pairs], [[b for _, b in pairs]]).score
    assert found["pairwise_bleu"].value == pytest.approx(expected)


def test_one_text_per_source_is_refused():
    available = {"outputs", "likelihood", "source", "target"}
    with pytest.raises(ValueError, match="diversity needs alternatives, .*one text per source.*--generation.n_best"):
        check_metrics([parse_metric("diversity")], available, of="pairs")
    check_metrics([parse_metric("diversity,tokenizer=char")], available | {"alternatives"}, of="pairs")
