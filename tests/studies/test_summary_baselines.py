"""Baselines of summaries: what they take of the source, and that they are scored against one reference."""

from studies.summary_baselines import first_sentence, scores_of, summaries

EXAMPLES = [
    {"source": "Hi Ann. The plan is due at 5.30 today! Thanks", "target": ["Plan due today", "plan", "Due at 5.30"]},
    {"source": "one two three four five six seven eight nine", "target": ["nine", "one two", "ten"]},
]


def test_summaries_are_parts_of_the_source_and_further_references():
    assert summaries(EXAMPLES) == {
        "first sentence": ["Hi Ann.", "one two three four five six seven eight nine"],
        "first 8 words": ["Hi Ann. The plan is due at 5.30", "one two three four five six seven eight"],
        "reference 2": ["plan", "one two"],
        "reference 3": ["Due at 5.30", "ten"],
    }
    assert list(summaries([{"source": "a", "target": "b"}])) == ["first sentence", "first 8 words"]
    assert first_sentence(" at 5.30 today? Yes.") == "at 5.30 today?"


def test_they_are_scored_against_the_first_reference():
    scores = scores_of(["plan due", "one two"], EXAMPLES)
    # Precision 1, recall 2 / 3; nothing of the second.
    assert abs(scores["rouge1"].value - 100 * 0.8 / 2) < 1e-6
    assert scores["rouge1"].signature.startswith("nrefs:1|") and scores["extractive_coverage"].value == 100.0
