"""What summaries take from their sources: fragments by hand and against the published pseudocode, and the scores."""

import numpy as np
import pytest

from seq2seq_jax.evaluation.extraction import extraction, fragments, words_of
from seq2seq_jax.evaluation.metrics.summary import SummaryStatistics


def by_pseudocode(source, summary):
    """Figure 3 of Grusky et al. 2018, line by line."""
    found, i, j = [], 0, 0
    while i < len(summary):
        best = []
        while j < len(source):
            if summary[i] == source[j]:
                i_, j_ = i, j
                while i_ < len(summary) and j_ < len(source) and summary[i_] == source[j_]:
                    i_, j_ = i_ + 1, j_ + 1
                if len(best) < i_ - i:
                    best = summary[i:i_]
                j = j_
            else:
                j += 1
        i, j = i + max(len(best), 1), 0
        found.append(best)
    return [len(each) for each in found if each]


def test_fragments_are_the_longest_runs_that_the_source_has():
    source = "the board meets on monday at ten and the board votes on friday".split()
    assert fragments(source, "the board votes monday at ten".split()) == [3, 3]
    assert fragments(source, "a vote on friday".split()) == [2]
    assert fragments(source, []) == fragments([], ["a"]) == []


def test_fragments_are_those_of_the_published_pseudocode():
    """Theirs goes on behind a match, so that it can miss a longer one that overlaps it: never in these."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        source = rng.permutation(30)[: rng.integers(1, 25)].tolist()
        summary = rng.integers(0, 30, rng.integers(1, 12)).tolist()
        start = rng.integers(0, len(source))
        summary[1:1] = source[start : start + 4]
        source, summary = list(map(str, source)), list(map(str, summary))
        assert fragments(source, summary) == by_pseudocode(source, summary)


def test_numbers_keep_their_separators_and_words_their_apostrophes():
    assert words_of("It's 10:30 on 10/30/01, $1,250.00 (EB3267)!") == [
        "It's", "10:30", "on", "10/30/01", ",", "$", "1,250.00", "(", "EB3267", ")", "!",
    ]  # fmt: skip


SOURCE = "Please meet Monica Brown at 10:30 in EB 3267 on Tuesday."
OUTPUTS = ["Meeting with Monica Brown at 10:30", "Lunch at 12"]
EXAMPLES = [{"source": SOURCE, "target": "Meet Monica"}, {"source": SOURCE, "target": ["On Tuesday", "at noon, Bob"]}]


def scores(outputs, examples=EXAMPLES):
    return SummaryStatistics().corpus(outputs, examples)


def test_the_scores_by_hand():
    """Fragments: "monica brown at 10:30" of 6 words, and "at" of 3."""
    found = {name: score.value for name, score in scores(OUTPUTS).items()}
    assert found == {
        # 6 and 3 words; the references have 2, and (2 + 3) / 2 on average.
        "length_ratio": pytest.approx(9 / 4.5),
        "extractive_coverage": pytest.approx(100 * (4 / 6 + 1 / 3) / 2),
        "extractive_density": pytest.approx((16 / 6 + 1 / 3) / 2),
        "novel_1": pytest.approx(100 * (2 + 2) / 9),
        "novel_2": pytest.approx(100 * (2 + 2) / 7),
        "novel_3": pytest.approx(100 * (2 + 1) / 5),
        "numbers_in_source": pytest.approx(100 * 1 / 2),
        # Meeting and Lunch are not there, Monica and Brown are.
        "capitalised_in_source": pytest.approx(100 * 2 / 4),
    }


def test_what_the_references_have_is_a_note():
    note = scores(OUTPUTS)["length_ratio"].note
    # Meet Monica; On Tuesday; at noon, Bob: 5 of 8 words and marks, "," among the others.
    assert note.startswith("the references have extractive coverage ") and "novel 1-grams 37.50" in note
    assert [score.note for score in scores(OUTPUTS).values()][1:] == [""] * 7
    assert scores(OUTPUTS)["novel_1"].signature == "nrefs:var|case:lc|tok:words, numbers, punctuation"


def test_texts_without_anything_to_count():
    found = scores(["", ""])
    assert found["length_ratio"].value == found["extractive_coverage"].value == found["novel_1"].value == 0.0
    assert found["numbers_in_source"].value == found["capitalised_in_source"].value == 100.0, "nothing is made up"


def test_sums_are_over_all_summaries_of_a_source():
    found = extraction([SOURCE], [["Monica", "Bob 3267", ""]], orders=2)
    assert (found.texts, found.coverage, found.novel, found.ngrams) == (3, 1.5, (1, 1), (3, 1))
    assert found.numbers == (1, 1) and found.capitalised == (1, 2)
