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
from seq2seq_jax.evaluation.significance import paired_bootstrap

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
