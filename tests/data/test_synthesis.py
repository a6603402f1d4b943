"""Synthesis: pairs of grammars, and sources with words of the target language, as functions of seed and number."""

import collections
import json
import math

import pytest

from seq2seq_jax.data.code_switching import CodeSwitching, switched
from seq2seq_jax.data.synthesis import Grammar, Synthetic

GRAMMAR = {
    "S": [["{NP} sees {NP:2}.", "{NP:2} wird von {NP} gesehen."], ["{NP} sleeps.", "{NP} schläft.", 3]],
    "NP": [["the {N}", "das {N}"], ["{NP} of {NP:2}", "{NP} von {NP:2}", 0.5]],
    "N": [["child", "Kind"], ["horse", "Pferd"], ["girl {{x}}", "Mädchen {{x}}"]],
}
WORDS = {"child": "Kind", "horse": "Pferd", "girl": "Mädchen", "the": "das", "of": "von", "sleeps": "schläft"}


def grammar(rules=GRAMMAR, start="S"):
    return Grammar.parse(json.dumps(rules), name="g.json", start=start)


def made(number, rules=GRAMMAR, *, seed=0, split="train", max_depth=20):
    made_by = grammar(rules)
    return [made_by.pair(seed=seed, split=split, index=index, max_depth=max_depth) for index in range(number)]


def test_both_sides_are_expanded_alike():
    for source, target in made(100):
        if source.endswith(" sleeps."):
            translated = [WORDS.get(word, word) for word in source.removesuffix(".").split()]
            assert " ".join(translated) + "." == target
        else:
            subject, thing = source.removesuffix(".").split(" sees ")
            assert target.startswith(" ".join(WORDS.get(word, word) for word in thing.split()) + " wird")
            assert " ".join(WORDS.get(word, word) for word in subject.split()) + " gesehen" in target


def test_a_pair_is_a_function_of_seed_split_and_number():
    assert made(20) == made(40)[:20]
    assert made(20) != made(20, seed=1) and made(20) != made(20, split="validation")
    assert len(set(made(100))) > 40


def test_alternatives_come_as_their_weights_say():
    counts = collections.Counter(source.endswith(" sleeps.") for source, _ in made(500))
    # 3 to 1, within 3 standard errors.
    assert abs(counts[True] / 500 - 0.75) < 3 * (0.75 * 0.25 / 500) ** 0.5


def test_depth_is_bounded_by_what_ends_the_soonest():
    endless = {"S": [["({S}", "({S}", 1e9], ["x", "x"]]}
    assert made(5, endless, max_depth=4) == [("((((x", "((((x")] * 5
    with pytest.raises(ValueError, match="more rules in each other than Python takes: lower data.max_depth"):
        made(1, endless, max_depth=9_000)
    with pytest.raises(ValueError, match="more than 10,000 symbols"):
        made(1, {"S": [["{S}{S:2}", "{S}", 1e9], ["x", "x"]]}, max_depth=100)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"S": [["{A}", "b"]]}, "no rule for A; it has S"),
        ({"T": [["a", "b"]]}, "no rule for S; it has T"),
        ({"S": [["a {S}", "b"]]}, "a rule that never ends, S"),
        ({"S": [["a"]]}, "expected a source and a target"),
        ({"S": [["a", "b", 0]]}, "a weight above 0"),
        ({"S": [["a", "b", math.nan]]}, "a weight above 0"),
        ({"S": [["a {", "b"]]}, "symbols in braces in S"),
        ({"S": []}, "a list of alternatives for S"),
        ([], "a JSON object of symbols"),
    ],
)
def test_what_is_no_grammar_is_refused_in_one_line(rules, message):
    with pytest.raises(ValueError, match=message) as raised:
        grammar(rules)
    assert "\n" not in str(raised.value)


def test_a_source_of_pairs(tmp_path):
    (tmp_path / "grammar.json").write_text(json.dumps(GRAMMAR))
    data = Synthetic(directory=str(tmp_path), train_examples=50, validation_examples=7, test_examples=0)
    corpus = data.open()
    assert corpus.splits == {"train": 50, "validation": 7} and data.available_splits == ("train", "validation")
    assert list(corpus.examples("train")) == made(50)
    assert corpus.fingerprint == data.open().fingerprint
    (tmp_path / "grammar.json").write_text("{")
    with pytest.raises(ValueError, match=r"expected a JSON object in .*grammar\.json"):
        data.open()


def test_switched_words_keep_their_case_and_place():
    translations = {"the": ["das"], "dog": ["Hund"], "runs": ["läuft", "rennt"]}
    found = {switched("The dog runs, fast!", translations, 1.0, key=key) for key in range(20)}
    assert found == {"Das Hund läuft, fast!", "Das Hund rennt, fast!"}
    words = [switched("the dog runs", translations, 0.3, key=key).split() for key in range(2000)]
    fraction = sum(word in ("das", "Hund", "läuft", "rennt") for text in words for word in text) / 6000
    assert abs(fraction - 0.3) < 3 * (0.21 / 6000) ** 0.5


def test_training_sources_are_switched_and_no_others(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.en").write_text("the dog\n" * 30)
        (tmp_path / f"{split}.de").write_text("der Hund\n" * 30)
    (tmp_path / "en-de.tsv").write_text("dog\tHund\nThe\tder\nthe\tdie\n")
    settings = {"directory": str(tmp_path), "source": "en", "target": "de", "test": None, "dictionary": "en-de.tsv"}
    corpus = CodeSwitching(**settings, switched=0.5).open(["train", "validation"])
    sources = [source for source, _ in corpus.examples("train")]
    assert {"the dog", "der dog", "die Hund"} < set(sources) and {target for _, target in corpus.examples("train")} == {
        "der Hund"
    }
    assert {source for source, _ in corpus.examples("validation")} == {"the dog"}
    other = CodeSwitching(**settings, switched=0.5, seed=1).open(["train"])
    assert [source for source, _ in other.examples("train")] != sources
    (tmp_path / "en-de.tsv").write_text("dog Hund\n")
    with pytest.raises(ValueError, match=r"a tab and its translation in line 1 of .*en-de\.tsv"):
        CodeSwitching(**settings).open(["train"])
    with pytest.raises(ValueError, match=r"switched must lie in \(0, 1\]"):
        CodeSwitching(**settings, switched=0.0)
