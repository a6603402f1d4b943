"""Metrics against their libraries' own programs, and against values computed by hand."""

import dataclasses
import math
import re
import sys

import jiwer
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from seq2seq_jax.evaluation.metric import (
    Alternatives,
    Candidate,
    Evaluated,
    Likelihood,
    Metric,
    Score,
    check_metrics,
    compute_scores,
)
from seq2seq_jax.evaluation.metrics import (
    DEFAULT_METRICS,
    METRICS,
    OutsideMetric,
    load_metrics,
    metric_from_json,
    metric_to_json,
    parse_metric,
)
from seq2seq_jax.evaluation.metrics.bleu import Bleu, bleu_tokenizer, words_per_text
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.metrics.error_rate import CharacterErrorRate, WordErrorRate
from seq2seq_jax.evaluation.metrics.exact_match import ExactMatch
from seq2seq_jax.evaluation.metrics.hits import Hits
from seq2seq_jax.evaluation.metrics.oracle import OracleLikelihood
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.evaluation.metrics.pronunciation import PronunciationErrors
from seq2seq_jax.evaluation.metrics.rouge import Rouge
from seq2seq_jax.evaluation.metrics.variety import Variety
from seq2seq_jax.outside import Trust

OUTPUTS = [
    "the quick brown foxes jumped over it",
    "A man, on a horse!",
    "",
    "two dogs are running\nthey run fast",
    "Budget Review for Q3",
]
REFERENCES = [
    ["the quick brown fox jumps over the dog", "a quick fox jumped over it today"],
    ["a man on a horse"],
    ["nothing at all is said here", "something is said here"],
    ["two dogs run fast\nthey are running", "the dogs are running\nfast they run"],
    ["Budget review", "Review of the Q3 budget", "Budget Review for Q3"],
]


def of(outputs, references):
    """Examples as validation hands them over."""
    return outputs, [{"source": "x", "target": each} for each in references]


def values(metric, outputs, references):
    return {name: score.value for name, score in metric.corpus(*of(outputs, references)).items()}


def single(references):
    return [each[0] for each in references]


def test_equal_texts_score_a_hundred():
    texts = ["Two men sit on a bench.", "A dog runs across the field."]
    for metric in DEFAULT_METRICS:
        assert values(metric, texts, texts) == {metric.name: pytest.approx(100)}


def test_bleu_is_the_geometric_mean_of_the_corpus_precisions():
    # n-grams of orders 1 to 4 that match: 4 of 5, 3 of 4, 2 of 3, 1 of 2.
    one = values(Bleu(), ["a b c d e"], ["a b c d f"])
    assert one["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # Counted over the corpus: 9 of 10, 7 of 8, 5 of 6, 3 of 4, which no mean over the two sentences gives.
    two = values(Bleu(), ["a b c d e", "g h i j k"], ["a b c d f", "g h i j k"])
    assert two["bleu"] == pytest.approx(100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25)


def test_bleu_of_a_short_text_is_penalised():
    assert values(Bleu(), ["a b c d"], ["a b c d e"])["bleu"] == pytest.approx(100 * math.exp(1 - 5 / 4))
    assert values(Bleu(), ["", "a b c d"], ["a b c d"] * 2)["bleu"] == pytest.approx(100 * math.exp(1 - 8 / 4))


def test_bleu_is_cased_unless_told_and_splits_punctuation():
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert values(Bleu(), ["the b c d e"], ["The b c d e"])["bleu"] == pytest.approx(expected)
    assert values(Bleu(lowercase=True), ["the b c d e"], ["The b c d e"])["bleu"] == pytest.approx(100)
    assert values(Bleu(), ["one two three four."], ["one two three four ."])["bleu"] == pytest.approx(100)


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
def test_bleu_of_several_references_is_sacrebleu_s(tokenizer):
    # As sacreBLEU documents it: one list for each reference, None where a text has none.
    streams = [
        [each[0] for each in REFERENCES],
        [each[1] if len(each) > 1 else None for each in REFERENCES],
        [each[2] if len(each) > 2 else None for each in REFERENCES],
    ]
    library = BLEU(tokenize=tokenizer)
    found = Bleu(tokenizer=tokenizer).corpus(*of(OUTPUTS, REFERENCES))["bleu"]
    assert found.value == library.corpus_score(OUTPUTS, streams).score
    assert found.signature == str(library.get_signature()) and found.signature.startswith("nrefs:var|case:mixed|eff:no")
    assert f"|tok:{tokenizer}|" in found.signature
    assert found.value != values(Bleu(tokenizer=tokenizer), OUTPUTS, single(REFERENCES))["bleu"]
    library = CHRF(word_order=2)
    found = ChrF(word_order=2).corpus(*of(OUTPUTS, REFERENCES))["chrf"]
    assert found.value == library.corpus_score(OUTPUTS, streams).score
    assert found.signature == str(library.get_signature())
    assert found.label == "chrF++"


def test_chrf_weighs_character_n_grams():
    # Precision and recall: 1 of 2 characters, 0 of 1 bigrams, no longer ones; their mean and so F are a quarter.
    assert values(ChrF(), ["ab"], ["ac"])["chrf"] == pytest.approx(25)
    # Precision 1 and recall (2/3 + 1/2) / 2 = 7/12 in orders 1 and 2; with beta 2, F = 5 P R / (4 P + R).
    assert values(ChrF(), ["ab"], ["abc"])["chrf"] == pytest.approx(100 * 5 * (7 / 12) / (4 + 7 / 12))


def test_exact_match_is_of_any_reference():
    assert values(ExactMatch(), OUTPUTS, REFERENCES) == {"exact_match": 20.0}
    assert values(ExactMatch(), OUTPUTS, single(REFERENCES)) == {"exact_match": 0.0}


@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_is_rouge_score_s(stemmer):
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)
    best = [
        {name: max(scorer.score(each, output)[name].fmeasure for each in references) for name in names}
        for output, references in zip(OUTPUTS, REFERENCES, strict=True)
    ]
    found = Rouge(stemmer=stemmer).corpus(*of(OUTPUTS, REFERENCES))
    assert list(found) == names
    for name in names:
        assert found[name].value == pytest.approx(100 * sum(each[name] for each in best) / len(best))
        assert re.fullmatch(
            rf"nrefs:var\|stemmer:{'porter' if stemmer else 'no'}\|measure:F1\|aggregation:mean\|version:[\d.]+",
            found[name].signature,
        )


def test_rouge_by_hand():
    # Words: 2 of 3 match 2 of 4. Pairs: 1 of 2 and 1 of 3.
    found = values(Rouge(), ["a b x"], ["a b c d"])
    assert found["rouge1"] == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"] == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    # Of the whole text 2 words are in one order; line by line all 4 are.
    swapped = values(Rouge(), ["c d\na b"], ["a b\nc d"])
    assert (swapped["rougeL"], swapped["rougeLsum"]) == (pytest.approx(50), pytest.approx(100))
    assert values(Rouge(), ["dogs running"], ["dog runs"])["rouge1"] == pytest.approx(100)
    assert values(Rouge(stemmer=False), ["dogs running"], ["dog runs"])["rouge1"] == 0


def test_error_rates_are_jiwer_s():
    references = single(REFERENCES)
    found = values(WordErrorRate(), OUTPUTS, references)
    words = jiwer.process_words(references, OUTPUTS)
    length = sum(map(len, words.references))
    assert found["wer"] == pytest.approx(100 * jiwer.wer(references, OUTPUTS))
    for kind in ("insertions", "deletions", "substitutions"):
        assert found[f"wer_{kind}"] == pytest.approx(100 * getattr(words, kind) / length)
    assert values(CharacterErrorRate(), OUTPUTS, references)["cer"] == pytest.approx(
        100 * jiwer.cer(references, OUTPUTS)
    )


def test_error_rates_by_hand():
    # "c" substituted, "e" deleted, "x" inserted: 3 edits of 5 words.
    found = WordErrorRate().corpus(*of(["a b k d x", "q"], ["a b c d e", "q"]))
    # As lengths are equal, the last word is substituted instead.
    assert {name: score.value for name, score in found.items()} == {
        "wer": pytest.approx(100 * 2 / 6), "wer_insertions": 0, "wer_deletions": 0,
        "wer_substitutions": pytest.approx(100 * 2 / 6),
    }  # fmt: skip
    found = values(WordErrorRate(), ["a x b", "d"], ["a b", "c d e"])
    assert found == {
        "wer": pytest.approx(60), "wer_insertions": pytest.approx(20), "wer_deletions": pytest.approx(40),
        "wer_substitutions": 0,
    }  # fmt: skip
    assert values(CharacterErrorRate(), ["abd"], ["abcd"])["cer"] == pytest.approx(25)
    assert values(CharacterErrorRate(), ["ab"], [""])["cer"] == pytest.approx(200)


def test_error_rates_name_their_normalisation_and_take_the_nearest_reference():
    plain = WordErrorRate().corpus(*of(["A man, on a horse!"], ["a man on a horse"]))["wer"]
    assert plain.value == pytest.approx(60) and "|norm:none|" in plain.signature and not plain.higher_is_better
    folded = WordErrorRate(lowercase=True, remove_punctuation=True)
    found = folded.corpus(*of(["A man, on a horse!"], ["a man on a horse"]))["wer"]
    assert found.value == 0 and "|norm:lower + no punctuation|" in found.signature
    # The second reference has 1 error in 4 words; the first 2 in 2.
    nearest = values(WordErrorRate(), ["a b c x"], [["y z", "a b c d"]])
    assert nearest["wer"] == pytest.approx(25)


def test_errors_in_pronunciations_by_hand():
    outputs = ["T AH M AA T OW", "W IH N", "R EH D", ""]
    pronunciations = [["T AH M EY T OW", "T AH M AA T OW"], ["W AY N D Z", "W IH N D"], ["R IY D", "R EH T"], ["AH"]]
    # One word of four is right; the others have 1 edit of 4, 1 of 3 (of equal ones the first) and 1 of 1.
    found = PronunciationErrors().corpus(*of(outputs, pronunciations))
    assert {name: score.value for name, score in found.items()} == {
        "word_error": pytest.approx(75), "phoneme_error": pytest.approx(100 * 3 / (6 + 4 + 3 + 1)),
    }  # fmt: skip
    assert not any(score.higher_is_better for score in found.values())
    # The nearest has the fewest edits, not the lowest rate: 1 of 1 rather than 2 of 6.
    assert values(PronunciationErrors(), ["A B"], [["A B C D E F G", "A"]])["phoneme_error"] == pytest.approx(100)


def test_errors_in_pronunciations_are_jiwer_s():
    random = np.random.default_rng(0)

    def drawn():
        return " ".join(random.choice(["AH", "T", "K", "S", "IY"], size=random.integers(1, 9)))

    outputs, pronunciations = [drawn() for _ in range(300)], [[drawn() for _ in range(3)] for _ in range(300)]
    outputs[:60] = [each[1] for each in pronunciations[:60]]
    nearest, wrong = [], 0
    for output, each in zip(outputs, pronunciations, strict=True):
        measures = [jiwer.process_words(reference, output) for reference in each]
        edits = [found.insertions + found.deletions + found.substitutions for found in measures]
        nearest.append(each[edits.index(min(edits))])
        wrong += min(edits) > 0
    assert values(PronunciationErrors(), outputs, pronunciations) == {
        "word_error": pytest.approx(100 * wrong / 300),
        "phoneme_error": pytest.approx(100 * jiwer.wer(nearest, outputs)),
    }


def test_variety_by_hand():
    outputs = ["I do not know.", "i do NOT know.", "A cat", "where do you live", "ok"]
    sources = ["What is it?", "and that?", "A dog or a cat? A cat", "hi! Where do you live ?", "ok"]
    examples = [{"source": source, "target": ["a b a b", "c"]} for source in sources]
    found = {name: score.value for name, score in Variety().corpus(outputs, examples).items()}
    # i do not know . | a cat | where you live | ok: 11 words of 17, and of 12 pairs 4 + 1 + 3.
    assert found == {
        "output_distinct_1": pytest.approx(100 * 11 / 17), "output_distinct_2": pytest.approx(100 * 8 / 12),
        "reference_distinct_2": pytest.approx(100 * 2 / 15), "commonest_output": pytest.approx(40),
        # Of the three outputs of three words and more one asks its question back.
        "repeated_source": pytest.approx(100 / 3),
    }  # fmt: skip
    scores = Variety().corpus(outputs, examples)
    assert scores["commonest_output"].note == "the commonest output is 'i do not know .'"
    assert "texts:5|case:lc|tok:13a" in scores["output_distinct_2"].signature
    # Nothing to divide by is no error.
    assert set(values(Variety(), [""], ["a"]).values()) == {0.0, 100.0}


def test_hits_by_hand():
    def of_tokens(*answers):
        return [Candidate(total, tokens, right) for total, tokens, right in answers]

    candidates = [
        # Per token -1 and -3 against -2: one of two right answers; as texts -4 and -3 against -6: both.
        of_tokens((-4.0, 4, True), (-3.0, 1, True), (-6.0, 3, False)),
        # Per token -2 against -1.5 and -4: none; as texts -2 against -3 and -4: the one.
        of_tokens((-2.0, 1, True), (-3.0, 2, False), (-4.0, 1, False)),
        [],
        # Equal is not better.
        of_tokens((-2.0, 2, True), (-2.0, 2, False)),
    ]
    evaluated = Evaluated(None, None, candidates=candidates)
    per_token, per_text = Hits().scores(evaluated), Hits(per="text").scores(evaluated)
    assert per_token["hits_at_1_per_token"].value == pytest.approx(100 * 1 / 4)
    assert per_text["hits_at_1_per_text"].value == pytest.approx(100 * 3 / 4)
    assert per_token["hits_at_1_per_token_by_chance"].value == pytest.approx(100 * (1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # Shorter than all wrong ones: the second right answer of the first example.
    assert per_text["hits_at_1_per_text_by_length"].value == pytest.approx(100 * 1 / 4)
    # Residuals of the examples: 1 - 2/4, 0 - 1/4 and 0 - 1/4.
    error = math.sqrt((0.5**2 + 0.25**2 + 0.25**2) * 3 / 2) / 4
    assert per_token["hits_at_1_per_token_high"].value == pytest.approx(100 * (0.25 + 1.959964 * error))
    assert per_token["hits_at_1_per_token_low"].value == 0.0
    with pytest.raises(ValueError, match="metric hits expected examples with wrong answers"):
        Hits().scores(Evaluated(None, None, candidates=[[], []]))


def test_the_interval_of_hits_is_the_usual_one_where_each_example_has_one_right_answer():
    candidates = [[Candidate(-1.0 - (n % 3 == 0), 1, True), Candidate(-1.5, 1, False)] for n in range(300)]
    found = Hits().scores(Evaluated(None, None, candidates=candidates))
    outcomes = np.array([n % 3 != 0 for n in range(300)], float)
    half = 1.959964 * outcomes.std(ddof=1) / math.sqrt(300)
    low, high = (found[f"hits_at_1_per_token_{end}"].value for end in ("low", "high"))
    assert (low, high) == (pytest.approx(100 * (2 / 3 - half)), pytest.approx(100 * (2 / 3 + half)))


def test_punctuation_marks_count_beside_words_where_that_is_asked_for():
    likelihood = Likelihood(nll=12.0, tokens=6, texts=["it's me!", "c"])
    found = Perplexity(per="word_or_mark").scores(Evaluated(outputs=None, examples=None, likelihood=likelihood))
    assert found["perplexity_per_word_or_mark"].value == pytest.approx(math.exp(12 / 6))
    assert "words, and each punctuation mark" in found["perplexity_per_word_or_mark"].signature


def test_perplexity_by_hand():
    likelihood = Likelihood(nll=12.0, tokens=6, texts=["a b", "c"])
    evaluated = Evaluated(outputs=None, examples=None, likelihood=likelihood)
    found = compute_scores((Perplexity(), Perplexity(per="word")), evaluated)
    assert {name: score.value for name, score in found.items()} == {
        "perplexity_per_token": pytest.approx(math.exp(2)), "perplexity_per_word": pytest.approx(math.exp(4)),
    }  # fmt: skip
    assert not any(score.higher_is_better for score in found.values())
    endless = Evaluated(outputs=None, examples=None, likelihood=Likelihood(nll=1e6, tokens=1, texts=["a"]))
    assert Perplexity().scores(endless)["perplexity_per_token"].value == math.inf
    with pytest.raises(ValueError, match="per=word expected references with a word"):
        Perplexity(per="word").scores(Evaluated(None, None, Likelihood(nll=1.0, tokens=1, texts=[""])))


OF_TEXTS = [
    metric
    for metric in (kind() for kind in METRICS.values())
    if metric.needs <= {"outputs", "alternatives", "likelihood", "target"}
]
"""Metrics that read nothing else of examples; others have tests of their own."""


@pytest.mark.parametrize("metric", OF_TEXTS, ids=str)
def test_a_metric_returns_the_scores_that_it_names(metric):
    outputs, examples = of(OUTPUTS, REFERENCES)
    likelihood = Likelihood(nll=12.0, tokens=6, texts=["a b", "c"])
    alternatives = Alternatives([[output, output[:9]] for output in outputs], number=2, method="BeamSearch")
    candidates = [[Candidate(-1.0, 2, True), Candidate(-3.0, 4, False)]]
    found = compute_scores([metric], Evaluated(outputs, examples, likelihood, alternatives, candidates=candidates))
    assert tuple(found) == metric.names
    for score in found.values():
        assert math.isfinite(score.value) and score.unit and score.signature and score.label
        assert score.rank == (score.value if score.higher_is_better else -score.value)
        assert Score(value=score.value, **score.described()) == score


@pytest.mark.parametrize(("outputs", "references"), [(["a"], []), (["a"], ["a", "b"]), ([], []), (["a"], [[]])])
@pytest.mark.parametrize(
    "metric", [each for each in OF_TEXTS if each not in (Perplexity(), OracleLikelihood())], ids=str
)
def test_texts_without_a_partner_are_refused(metric, outputs, references):
    alternatives = Alternatives([[output] for output in outputs], number=1, method="Greedy")
    evaluated = Evaluated(*of(outputs, references), alternatives=alternatives)
    with pytest.raises(ValueError, match=r"^expected [^\n]*hypothes[^\n]*$"):
        metric.scores(evaluated)


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
    found = Bleu().corpus(*of([text], [text]))["bleu"]
    assert found.value == pytest.approx(100)
    assert f"tok:{WRITING.get(text, '13a')}" in found.signature


def test_bleu_warns_of_short_references():
    assert words_per_text(["a b, c", "d"]) == 2.5
    assert "references of 2.5 words" in Bleu().corpus(*of(["x", "x"], ["a b, c", "d"]))["bleu"].note
    assert Bleu().corpus(*of(["x"], ["a b c d"]))["bleu"].note == ""


SPELLED = {
    "bleu": Bleu(),
    "bleu,tokenizer=ja-mecab,lowercase=True": Bleu(tokenizer="ja-mecab", lowercase=True),
    "chrf,word_order=2": ChrF(word_order=2),
    "rouge,stemmer=False": Rouge(stemmer=False),
    "wer,remove_punctuation=True": WordErrorRate(remove_punctuation=True),
    "cer": CharacterErrorRate(),
    "perplexity,per=word": Perplexity(per="word"),
    "perplexity,per=word_or_mark": Perplexity(per="word_or_mark"),
}


@pytest.mark.parametrize("text", SPELLED)
def test_a_metric_is_named_by_text_and_by_json(text):
    metric = SPELLED[text]
    assert parse_metric(text) == metric and str(metric) == text
    assert metric_from_json(metric_to_json(metric)) == metric


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blue", "no metric 'blue'.*bleu, chrf"),
        ("bleu,tokenize=zh", "no field 'tokenize'; it has tokenizer, lowercase"),
        ("bleu,zh", "field=value.*'zh'"),
        ("bleu,tokenizer=cn", "metrics.bleu.tokenizer must be one of 13a.*'cn'"),
        ("chrf,word_order=two", "metrics.chrf.word_order must be a whole number, and is 'two'"),
        ("chrf,word_order=-1", "must not be negative"),
        ("no_such_module:Metric", "metric no_such_module:Metric cannot be imported"),
        ("json:loads", "is no metric"),
        ("json:", "module:Class"),
    ],
)
def test_a_metric_that_is_none_is_refused(text, said):
    with pytest.raises(ValueError, match=rf"^[^\n]*{said}[^\n]*$"):
        parse_metric(text)


@pytest.mark.parametrize(
    "values", [None, {"class": "Blue"}, {"class": "Bleu", "words": 3}, {"tokenizer": "zh"}, {"class": 3}]
)
def test_json_that_is_no_metric_is_refused(values):
    with pytest.raises(ValueError, match=r"^[^\n]*metric[^\n]*$"):
        metric_from_json(values)


def test_what_cannot_be_computed_is_said():
    check_metrics(DEFAULT_METRICS, {"outputs", "source", "target", "likelihood"}, of="pairs")
    check_metrics([Perplexity()], {"likelihood"}, of="documents")
    with pytest.raises(ValueError, match="^metric bleu needs outputs and target, which documents do not have"):
        check_metrics(DEFAULT_METRICS, {"likelihood"}, of="documents")
    with pytest.raises(ValueError, match="bleu and bleu,lowercase=True both have a score bleu"):
        check_metrics([Bleu(), Bleu(lowercase=True)], {"outputs", "target"}, of="pairs")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "jiwer", None)
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    missing = {Rouge(): "rouge-score", WordErrorRate(): "jiwer", Bleu(tokenizer="ja-mecab"): r"sacrebleu\[ja\]"}
    for metric, package in missing.items():
        with pytest.raises(ValueError, match=rf"^metric [^\n]* needs [^\n]*pip install '?{package}[^\n]*$"):
            metric.check_installed()


def test_a_model_that_cannot_be_loaded_is_named(monkeypatch, tmp_path):
    def offline(url, path):
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.download_file", offline)
    with pytest.raises(ValueError, match=r"=flores200 needs a model .*(Name or service not known).*internet once"):
        Bleu(tokenizer="flores200").check_installed()


OUTSIDE = """
import dataclasses

from seq2seq_jax.evaluation.metric import Metric, Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length(Metric):
    weight: float = 1.0
    wrong: str | None = None

    @property
    def names(self):
        return ("length",)

    def corpus(self, outputs, examples):
        if self.wrong == "raises":
            outputs[len(outputs)]
        value = self.weight * sum(map(len, outputs)) / sum(len(example["target"]) for example in examples)
        score = Score(value=value, unit="ratio", higher_is_better=True, signature="characters", label="length")
        return {None: {"length": score}, "name": {"long": score}, "none": None, "number": {"length": 3}}[self.wrong]

    def scores(self, evaluated):
        return self.corpus(evaluated.outputs, evaluated.examples)


class NoDataclass(Length):
    weight = 2.0
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "outside_metrics.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("outside_metrics", None)


def test_a_metric_from_outside_is_as_good_as_ours(outside):
    metric = parse_metric("outside_metrics:Length,weight=0.5")
    assert isinstance(metric, Metric) and str(metric) == "outside_metrics:Length,weight=0.5"
    found = compute_scores([metric, ExactMatch()], Evaluated(["ab"], [{"target": "abcd"}]))
    assert found["length"].value == 0.25 and list(found) == ["length", "exact_match"]
    kept = metric_to_json(metric)
    assert kept == {"class": "outside_metrics:Length", "weight": 0.5, "wrong": None}


def test_a_metric_of_a_run_is_imported_only_if_it_is_trusted(outside):
    kept = {"class": "outside_metrics:Length", "weight": 0.5, "wrong": None}
    stored = metric_from_json(kept)
    assert "outside_metrics" not in sys.modules
    assert isinstance(stored, OutsideMetric) and metric_to_json(stored) == kept
    with pytest.raises(ValueError, match="^RUN names the metric outside_metrics:Length, .*--trust-code True"):
        load_metrics([Bleu(), stored], trust=Trust.of(False), origin="RUN")
    assert "outside_metrics" not in sys.modules
    bleu, loaded = load_metrics([Bleu(), stored], trust=Trust.of(True), origin="RUN")
    assert bleu == Bleu() and dataclasses.asdict(loaded) == {"weight": 0.5, "wrong": None}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("raises", r"raised IndexError: list index out of range at .*outside_metrics.py, line [0-9]+"),
        ("name", r"must return scores named \['length'\], and returned \['long'\]"),
        ("none", "must return scores named .*, and returned a NoneType"),
        ("number", "must return a Score as length, and returned a int"),
    ],
)
def test_what_a_metric_from_outside_does_wrong_is_one_line(outside, wrong, said):
    metric = parse_metric(f"outside_metrics:Length,wrong={wrong}")
    with pytest.raises(ValueError, match=rf"^metric outside_metrics:Length[^\n]*{said}[^\n]*$"):
        compute_scores([metric], Evaluated(["ab"], [{"target": "abcd"}]))
