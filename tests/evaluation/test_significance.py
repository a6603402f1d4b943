"""Paired bootstrap: that of sacreBLEU, and what it says of systems that differ, hardly differ, and do not."""

import numpy as np
import pytest
from sacrebleu.metrics import CHRF
from sacrebleu.significance import PairedTest

from seq2seq_jax.evaluation.comparison import compare
from seq2seq_jax.evaluation.lengths import Group
from seq2seq_jax.evaluation.metric import Evaluated, Likelihood
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.metrics.exact_match import ExactMatch
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.evaluation.metrics.rouge import Rouge
from seq2seq_jax.evaluation.significance import paired_bootstrap, paired_bootstrap_of_means

WORDS = "the a cat dog sat ran on under mat hat red big".split()


@pytest.fixture(scope="module")
def systems():
    """Outputs of three systems, of which the second has more words wrong, and the third the same as the first."""
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(WORDS, rng.integers(5, 12))) for _ in range(40)]

    def noisy(share):
        texts = [[word if rng.random() > share else rng.choice(WORDS) for word in each.split()] for each in references]
        return [" ".join(text) for text in texts]

    first, second = noisy(0.1), noisy(0.4)
    examples = [{"source": "x " * (index + 1), "target": each} for index, each in enumerate(references)]
    return {"first": first, "second": second, "third": list(first)}, examples


def test_it_is_sacrebleu_s(systems):
    outputs, examples = systems
    found = paired_bootstrap(outputs, examples, ChrF())
    references = [[example["target"] for example in examples]]
    signatures, expected = PairedTest(
        list(outputs.items()), {"chrF2": CHRF()}, references, test_type="bs", n_samples=1000
    )()
    assert list(found) == ["first", "second", "third"]
    for bootstrap, result in zip(found.values(), expected["chrF2"], strict=True):
        assert (bootstrap.score, bootstrap.mean, bootstrap.confidence) == (result.score, result.mean, result.ci)
        assert bootstrap.signature == str(signatures["chrF2"])
    assert found["first"].p_value is None and found["second"].p_value == expected["chrF2"][1].p_value < 0.01
    assert found["third"].p_value == 1.0


def test_a_metric_that_is_not_sacrebleu_s_has_none(systems):
    outputs, examples = systems
    assert paired_bootstrap(outputs, examples, ExactMatch()) is None


def test_means_over_the_examples_are_tested_as_sacrebleu_tests_its_own(systems):
    """The mean of values of examples as a metric of sacreBLEU, tested by its own program."""
    rng = np.random.default_rng(1)
    values = {name: rng.normal(50 + shift, 10, 80) for name, shift in (("first", 0), ("near", 1), ("far", 8))}
    values["same"] = values["first"].copy()

    class Score:
        name = "mean"

        def __init__(self, score):
            self.score = score

    class Mean(CHRF):
        def _extract_corpus_statistics(self, hypotheses, references):
            return [[float(each), 1.0] for each in hypotheses]

        def _aggregate_and_compute(self, stats):
            return self._compute_score_from_stats(np.sum(stats, axis=0))

        def _compute_score_from_stats(self, stats):
            return Score(stats[0] / stats[1])

    mean = Mean()
    mean.num_refs = 1
    texts = [(name, [repr(float(each)) for each in of_system]) for name, of_system in values.items()]
    _, expected = PairedTest(texts, {"mean": mean}, [["x"] * 80], test_type="bs", n_samples=1000)()
    found = paired_bootstrap_of_means({name: each.tolist() for name, each in values.items()}, signature="metric")
    for (name, bootstrap), result in zip(found.items(), expected["mean"], strict=True):
        assert bootstrap.score == pytest.approx(result.score) and bootstrap.mean == pytest.approx(result.mean)
        assert bootstrap.confidence == pytest.approx(result.ci, rel=1e-4)
        if name in ("near", "far"):
            assert bootstrap.p_value == pytest.approx(result.p_value)
        assert bootstrap.signature == "metric|bs:1000|rs:12345"
    assert found["far"].p_value < 0.01 < found["near"].p_value < 1.0 == found["same"].p_value
    assert found["first"].p_value is None


def test_rouge_is_tested_and_its_corpus_score_is_the_mean(systems):
    outputs, examples = systems
    found = compare({name: Evaluated(texts, examples) for name, texts in outputs.items()}, (Rouge(),), [])["bootstrap"]
    assert list(found) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for name, tested in found.items():
        for system, texts in outputs.items():
            assert tested["systems"][system]["score"] == pytest.approx(Rouge().corpus(texts, examples)[name].value)
        assert tested["systems"]["second"]["p_value"] < 0.01 and tested["systems"]["third"]["p_value"] == 1.0


def test_systems_are_compared_by_groups(systems):
    outputs, examples = systems
    likelihood = Likelihood(nll=1.0, tokens=1, texts=["a"])
    evaluated = {name: Evaluated(texts, examples, likelihood) for name, texts in outputs.items()}
    groups = [Group(name="≤ 10", members=tuple(range(10))), Group(name="> 10", members=tuple(range(10, 40)))]
    found = compare(evaluated, (Bleu(), ExactMatch(), Perplexity()), groups)
    assert found["bootstrap"].keys() == {"bleu"} and found["bootstrap"]["bleu"]["systems"]["third"]["p_value"] == 1.0
    assert [(group["words"], group["examples"]) for group in found["by_source_length"]] == [("≤ 10", 10), ("> 10", 30)]
    for group, of_group in zip(groups, found["by_source_length"], strict=True):
        assert of_group["scores"].keys() == {"bleu", "exact_match"}
        for name, texts in outputs.items():
            part = [texts[index] for index in group.members], [examples[index] for index in group.members]
            assert of_group["scores"]["bleu"][name] == Bleu().corpus(*part)["bleu"].value
