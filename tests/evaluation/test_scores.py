"""Corpus scores against values computed by hand."""

import math

import pytest

from seq2seq_jax.evaluation.scores import bleu_tokenizer, corpus_scores, default_metric, words_per_text


def test_equal_texts_score_a_hundred():
    texts = ["Two men sit on a bench.", "A dog runs across the field."]
    scores = corpus_scores(texts, list(texts))
    assert scores.bleu == pytest.approx(100)
    assert scores.chrf == pytest.approx(100)
    assert scores.exact_match == 100


def test_bleu_is_the_geometric_mean_of_the_corpus_precisions():
    # n-grams of orders 1 to 4 that match: 4 of 5, 3 of 4, 2 of 3, 1 of 2.
    one = corpus_scores(["a b c d e"], ["a b c d f"])
    assert one.bleu == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # Counted over the corpus: 9 of 10, 7 of 8, 5 of 6, 3 of 4, which no mean over the two sentences gives.
    two = corpus_scores(["a b c d e", "g h i j k"], ["a b c d f", "g h i j k"])
    assert two.bleu == pytest.approx(100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25)
    assert two.exact_match == 50


def test_bleu_of_a_short_text_is_penalised():
    assert corpus_scores(["a b c d"], ["a b c d e"]).bleu == pytest.approx(100 * math.exp(1 - 5 / 4))


def test_bleu_is_cased_and_splits_punctuation():
    lower = corpus_scores(["the b c d e"], ["The b c d e"]).bleu
    assert lower == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    split = corpus_scores(["one two three four."], ["one two three four ."])
    assert split.bleu == pytest.approx(100)
    assert split.exact_match == 0


def test_chrf_weighs_character_n_grams():
    # Precision and recall: 1 of 2 characters, 0 of 1 bigrams, no longer ones; their mean and so F are a quarter.
    assert corpus_scores(["ab"], ["ac"]).chrf == pytest.approx(25)
    # Precision 1 and recall (2/3 + 1/2) / 2 = 7/12 in orders 1 and 2; with beta 2, F = 5 P R / (4 P + R).
    assert corpus_scores(["ab"], ["abc"]).chrf == pytest.approx(100 * 5 * (7 / 12) / (4 + 7 / 12))


def test_signatures_say_how():
    scores = corpus_scores(["a"], ["a"])
    assert scores.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores.chrf_signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_an_empty_hypothesis_is_scored():
    scores = corpus_scores(["", "a b c d"], ["a b c d", "a b c d"])
    assert scores.bleu == pytest.approx(100 * math.exp(1 - 8 / 4))
    assert scores.exact_match == 50


@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], []), (["a"], ["a", "b"]), ([], [])])
def test_texts_without_a_partner_are_refused(hypotheses, references):
    with pytest.raises(ValueError, match=r"^expected [^\n]*hypothes[^\n]*$"):
        corpus_scores(hypotheses, references)


WRITING = {
    "Ein Mann, der 3 Äpfel isst.": "13a",
    "Человек ест яблоко": "13a",
    "한 남자가 사과를 먹는다": "13a",
    "12:30 ... !": "13a",
    "": "13a",
    "一个男人在吃苹果。": "zh",
    "他用 iPhone 拍了一张很好看的照片": "zh",
    "The word 猫 is a cat": "13a",
    "男の人がリンゴを食べている。": "char",
    "ﾘﾝｺﾞ": "char",
    "ผู้ชายกำลังกินแอปเปิล": "char",
    "បុរសម្នាក់កំពុងញ៉ាំផ្លែប៉ោម": "char",
}


@pytest.mark.parametrize("text", WRITING)
def test_the_tokens_of_bleu_fit_the_writing(text):
    assert bleu_tokenizer([text]) == WRITING[text]


@pytest.mark.parametrize(
    "text", ["男の人がリンゴを食べている。", "一个男人在吃苹果。", "ผู้ชายกำลังกินแอปเปิล", "a man eats an apple"]
)
def test_a_perfect_text_has_bleu_100_in_any_writing(text):
    scores = corpus_scores([text], [text])
    assert scores.bleu == pytest.approx(100)
    assert f"tok:{WRITING.get(text, '13a')}" in scores.signature


def test_the_default_metric_fits_the_length_of_references():
    assert words_per_text(["a b, c", "d"]) == 2.5
    assert default_metric(["banafus", "bagiges"]) == "chrf"
    assert default_metric(["a b c", "a b c d e"]) == "bleu"
    assert default_metric(["男の人がリンゴを食べている。"]) == "bleu"
    assert default_metric(["猫"]) == "chrf"
    assert corpus_scores(["a"], ["a b"]).words_per_reference == 2
