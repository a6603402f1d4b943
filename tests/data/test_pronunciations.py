"""Pronunciation dictionaries: by hand, against the facts of the real one, and what is refused."""

import gzip
import hashlib
import pathlib

import pytest

from seq2seq_jax.data.pronunciations import Pronunciations, read_dictionary, split_of

REPOSITORY = pathlib.Path(__file__).parents[2]
CMUDICT = [REPOSITORY / "data/cmudict", REPOSITORY.parent / "shared/data/cmudict"]

DICTIONARY = """\
;;; A comment.
a AH0
a(2) EY1
a(3) AH1
aalborg AO1 L B AO0 R G # place, danish

tomato  T AH0 M EY1 T OW2
tomato(2) T AH0 M AA1 T OW2
wind W AY1 N D
wind(2) W IH1 N D
wind(3) W AY2 N D #again
"""


def written(directory, text=DICTIONARY):
    (directory / "cmudict.dict").write_text(text, encoding="utf-8")
    return directory / "cmudict.dict"


def test_a_dictionary_by_hand(tmp_path):
    path = written(tmp_path)
    assert read_dictionary(path) == {
        "a": ["AH0", "EY1", "AH1"],
        "aalborg": ["AO1 L B AO0 R G"],
        "tomato": ["T AH0 M EY1 T OW2", "T AH0 M AA1 T OW2"],
        "wind": ["W AY1 N D", "W IH1 N D", "W AY2 N D"],
    }
    # What differs in stress alone is one pronunciation without it.
    assert read_dictionary(path, stress=False) == {
        "a": ["AH", "EY"],
        "aalborg": ["AO L B AO R G"],
        "tomato": ["T AH M EY T OW", "T AH M AA T OW"],
        "wind": ["W AY N D", "W IH N D"],
    }


WORDS = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + [f"{letter}x" for letter in "abcdefghijklmnop"]


def test_words_are_split_by_their_hash_with_all_their_pronunciations(tmp_path):
    lines = "".join(f"{word} W{number} ER1\n{word}(2) W ER{number}\n" for number, word in enumerate(WORDS))
    written(tmp_path, lines.replace("\n", " # why\n"))
    corpus = Pronunciations(directory=str(tmp_path), stress=True).open()
    expected = {word: int(hashlib.md5(word.encode()).hexdigest(), 16) % 100 for word in WORDS}
    members = {split: list(corpus.examples(split)) for split in corpus.splits}
    of_split = {split: {word for word, _, _ in examples} for split, examples in members.items()}
    assert of_split["test"] == {word for word, part in expected.items() if part < 10}
    assert of_split["validation"] == {word for word, part in expected.items() if part in (10, 11)}
    assert of_split["train"] == {word for word, part in expected.items() if part >= 12}
    assert all(of_split.values())
    # Each pronunciation is trained on; where they are scored, they are references of one example.
    assert len(members["train"]) == 2 * len(of_split["train"])
    assert all(further == [] for _, _, further in members["train"])
    for split in ("validation", "test"):
        for word, first, further in members[split]:
            number = WORDS.index(word)
            assert (first, further) == (f"W{number} ER1", [f"W ER{number}"])


def test_stress_is_an_option_that_changes_the_examples(tmp_path):
    word = next(word for word in WORDS if split_of(word) == "train")
    others = [next(word for word in WORDS if split_of(word) == split) for split in ("validation", "test")]
    written(tmp_path, "".join(f"{each} T OW2\n{each}(2) T OW1\n" for each in (word, *others)))
    plain, stressed = (Pronunciations(directory=str(tmp_path), stress=stress).open() for stress in (False, True))
    assert list(plain.examples("train")) == [(word, "T OW", [])]
    assert list(stressed.examples("train")) == [(word, "T OW2", []), (word, "T OW1", [])]
    assert plain.fingerprint != stressed.fingerprint


def test_a_gzipped_dictionary_is_the_same(tmp_path):
    path = written(tmp_path, "".join(f"{word} W ER1 D\n" for word in WORDS))
    before = Pronunciations(directory=str(tmp_path)).open()
    path.with_name("cmudict.dict.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert Pronunciations(directory=str(tmp_path)).open().fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a AH0\nsilence\n", "expected a word and its phonemes in line 2 of .*got 'silence' alone"),
        ("silence # nothing\n", "expected a word and its phonemes in line 1"),
        ("", "the file is empty"),
        # Its three words are of no split but train.
        ("worda W\nwordb W\nwordc W\n", "expected (test|validation) examples"),
    ],
)
def test_what_is_no_dictionary_is_one_line(tmp_path, text, message):
    written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        Pronunciations(directory=str(tmp_path)).open()
    assert "\n" not in str(error.value)


def test_a_dictionary_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected words.txt or words.txt.gz in .*; there is no such file"):
        Pronunciations(directory=str(tmp_path), dictionary="words.txt").open()


@pytest.mark.long
def test_cmudict_is_split_as_it_was_measured():
    directory = next((each for each in CMUDICT if any(each.glob("cmudict.dict*"))), None)
    if directory is None:
        pytest.skip(f"needs cmudict.dict[.gz] in {' or '.join(map(str, CMUDICT))}")
    corpus = Pronunciations(directory=str(directory)).open()
    assert corpus.splits == {"train": 118_624, "validation": 2_513, "test": 12_642}
    words = {split: {word for word, *_ in corpus.examples(split)} for split in corpus.splits}
    assert sum(map(len, words.values())) == len(set().union(*words.values())) == 126_052
