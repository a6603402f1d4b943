"""Sounds of CMUdict in the symbols of us_bart, by hand; and files of words."""

import pytest

from studies.pronunciation_words import main, sounds, words_of


@pytest.mark.parametrize(
    ("phonemes", "expected"),
    [
        ("T AH0 M EY1 T OW2", "təmˈAtˌO"),
        ("CH ER1 CH", "ʧˈɜɹʧ"),
        ("B AH1 T ER0", "bˈʌtəɹ"),
        ("JH OY1 NG TH ZH", "ʤˈYŋθʒ"),
    ],
)
def test_phonemes_have_symbols_and_stress_stands_before_the_vowel(phonemes, expected):
    assert sounds(phonemes.split()) == expected


def test_words_of_letters_have_their_first_pronunciation():
    lines = ["bee B IY1", "bee(2) B IY2", "at AE1 T", "b's B IY1 Z", "tool T UW1 L # a comment"]
    assert words_of(lines) == {"bee": "bˈi", "tool": "tˈul"}


def test_splits_share_no_word(tmp_path, capsys):
    dictionary = tmp_path / "dict"
    dictionary.write_text("".join(f"{chr(97 + i)}aa AA1\n" for i in range(20)))
    (tmp_path / "seen").write_text("aaa\tx\n")
    main(["--dictionary", str(dictionary), "--output", str(tmp_path), "--excluded", str(tmp_path / "seen"),
          "--train", "10", "--val", "3", "--test", "5"])  # fmt: skip
    words = [(tmp_path / f"{split}.words").read_text().split() for split in ("train", "val", "test")]
    assert list(map(len, words)) == [10, 3, 5] and len({word for split in words for word in split}) == 18
    assert "aaa" not in words[0] + words[1] + words[2]
    assert (tmp_path / "val.sounds").read_text() == "ˈɑ\n" * 3
