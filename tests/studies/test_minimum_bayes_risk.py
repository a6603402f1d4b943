"""The loops that the program is compared with: plain and quick are the same, and ties go to the lower index."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from studies.minimum_bayes_risk import choice, compare_choices, loop, loop_with_counts

TEXTS = ["a cat sat on the mat", "a cat sat on a mat.", "two dogs", "", "a cat sat on the mat", "the the the the cat"]


@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_the_quick_loop_is_the_plain_one_bit_for_bit(utility):
    plain = loop(TEXTS, utility)
    assert loop_with_counts(TEXTS, utility) == plain
    score = {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}[utility].sentence_score
    assert plain[2] == pytest.approx(np.mean([score("two dogs", [other]).score for other in TEXTS]))
    assert choice(plain) == 0 and plain[4] == plain[0]


def test_choices_are_compared_by_index():
    expected = [[50.0, 40.0], [30.0, 30.0], [10.0, 20.0]]
    device = np.array([[0.5, 0.4], [0.3, 0.3000001], [0.1, 0.2]])
    found = compare_choices(device, expected, [["a", "b"]] * 3)
    assert (found["sources"], found["equal"]) == (3, 2)
    assert found["largest_difference"] == pytest.approx(1e-7, rel=1e-3)
    [different] = found["different"]
    assert (different["source"], different["ours"], different["theirs"]) == (1, "b", "a")
