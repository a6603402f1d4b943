"""Cleaning: a table of 40 pairs made by hand, each with the rule that it breaks; and each rule's border."""

import collections

import pytest

from seq2seq_jax.data.cleaning import (
    Cleaning,
    CleaningRules,
    Language,
    Pair,
    dual_cross_entropy,
    is_garbled,
    numbers,
)

GOOD = [
    ("A man is riding a brown horse.", "Ein Mann reitet auf einem braunen Pferd."),
    ("Two children are playing in the snow.", "Zwei Kinder spielen im Schnee."),
    ("The woman sells fruit at the market.", "Die Frau verkauft Obst auf dem Markt."),
    ("A dog runs through the high grass.", "Ein Hund läuft durch das hohe Gras."),
    ("Three workers are standing on the roof.", "Drei Arbeiter stehen auf dem Dach."),
    ("The girl throws the ball to her brother.", "Das Mädchen wirft ihrem Bruder den Ball zu."),
    ("He drove 120 kilometres in 2 hours.", "Er fuhr 120 Kilometer in zwei Stunden."),
    ("The price is 1,500 euros.", "Der Preis beträgt 1.500 Euro."),
    ("Ha ha ha!", "Ha ha ha, wie lustig!"),
    ("An old couple sits on a bench.", "Ein altes Paar sitzt auf einer Bank."),
    ("Don't walk on the ice & snow.", "Geh nicht auf Eis & Schnee."),
    ("A boy with a cap reads the newspaper.", "Ein Junge mit Mütze liest die Zeitung."),
]
BAD = [
    ("", "Ein Mann schläft.", "empty"),
    ("A man sleeps.", " \u200b ", "empty"),
    ("The caf\ufffd is closed today.", "Das Café ist heute geschlossen.", "garbled"),
    ("The girls are swimming.", "Die MÃ¤dchen schwimmen.", "garbled"),
    ("A bell\x07 rings.", "Eine Glocke läutet.", "garbled"),
    ("man " * 21 + "stands.", "Der Mann steht da und wartet auf die anderen Leute im Dorf am See.", "max_words"),
    ("Yes.", "Ja, das ist wirklich eine sehr gute Idee von dir.", "ratio"),
    ("We saw a very long film about the sea yesterday evening.", "Film.", "ratio"),
    ("See " + "a" * 45 + " for more.", "Siehe " + "b" * 45 + " für mehr.", "long_word"),
    ("Read <b>this</b> book.", "Lies dieses Buch.", "markup"),
    ("Salt and pepper.", "Salz &amp; Pfeffer.", "markup"),
    ("Visit the page http://x.org today.", "Besuche heute die Seite.", "markup"),
    ("New York City", "new  york city", "copy_of_source"),
    ("A dog runs.", "A dog runs.", "copy_of_source"),
    ("1 + 2 = 3 !!", "eins plus zwei", "letters"),
    ("Call me now.", "*** ### 030 --- ***", "letters"),
    ("The train is late.", "Поезд опаздывает.", "script"),
    ("列车晚点了。", "Der Zug ist spät.", "script"),
    ("very very very very very good", "sehr gut, wirklich sehr gut", "repetition"),
    ("He is 35 years old.", "Er ist 53 Jahre alt.", "digits"),
    ("Built in 1897.", "Vor langer Zeit gebaut.", "digits"),
    ("Der alte Mann sitzt auf einer Bank im Park.", "Ein alter Mann sitzt im Park auf der Bank.", "language"),
    ("The girl throws the ball.", "The girl throws the ball to her brother again.", "language"),
    ("A man is riding a brown horse.", "Ein Mann reitet auf einem braunen Pferd.", "duplicate"),
    ("a man is  riding a brown HORSE.", "Ein Mann reitet auf einem braunen pferd.", "duplicate"),
    ("Two children are playing in the snow.", "Zwei Kinder spielen draußen im Schnee.", "targets_per_source"),
    ("Two children are playing in the snow.", "Im Schnee spielen zwei Kinder.", "targets_per_source"),
    ("Stop!", "", "empty"),
]
RULES = CleaningRules(max_words=20, targets_per_source=1)
TABLE = [(source, target, None) for source, target in GOOD] + BAD


def test_each_pair_of_the_table_breaks_its_rule():
    assert len(TABLE) == 40
    # The languages are learned from more text than the table's own.
    learned = [*GOOD * 20, *((source, target) for source, target, _ in TABLE)]
    cleaning = Cleaning(RULES, learned)
    found = [(source, target, cleaning.broken(Pair(source, target))) for source, target, _ in TABLE]
    assert found == TABLE
    by_rule = collections.Counter(rule for *_, rule in found)
    assert by_rule[None] == 12 and len(by_rule) - 1 >= 13


def test_a_rule_that_is_off_hits_nothing():
    learned = [(source, target) for source, target, _ in TABLE]
    for rule in {rule for *_, rule in BAD} - {"max_words", "targets_per_source"}:
        default = getattr(CleaningRules(), rule)
        off = CleaningRules(**{rule: False if default is True else None})
        cleaning = Cleaning(off, learned)
        assert rule not in {cleaning.broken(Pair(source, target)) for source, target, _ in TABLE}


def test_borders():
    cleaning = Cleaning(CleaningRules(script=None, language=None), [])
    thirty = "abcde fghij klmno pqrst uvwxy z"[:30]
    assert cleaning.broken(Pair(thirty, "abcdefghij")) is None
    assert cleaning.broken(Pair(thirty + "z", "abcdefghij")) == "ratio"
    assert cleaning.broken(Pair("a b b b b c", "x y")) is None
    assert cleaning.broken(Pair("a b b b b b c", "x y z")) == "repetition"


def test_numbers_are_compared_without_separators_and_small_ones_not_at_all():
    assert numbers("1,500 men in 2 rows at 10:30") == {"1500": 1, "1030": 1}
    assert numbers("007 of 12.5 and 12.5") == {"125": 2}
    assert numbers("٣٤ and 34, 00 and 010") == {"34": 2, "10": 1}
    # Python makes no number of this many digits.
    assert numbers("7" * 5_000) == {"7" * 5_000: 1}


def test_text_of_another_encoding():
    assert is_garbled("Ã¼ber") and is_garbled("a\x00b")
    assert not any(map(is_garbled, ("über", "plain", "Ein\tTab", "naïve Ängste", "日本")))


def test_a_language_finds_its_own_text_more_probable():
    english, german = Language(), Language()
    for source, target in GOOD:
        english.learn(source)
        german.learn(target)
    assert english.score("The man reads on the roof.") > german.score("The man reads on the roof.") + 0.4


def test_dual_cross_entropy_by_hand():
    assert dual_cross_entropy(2.0, 2.0) == 2.0
    assert dual_cross_entropy(1.0, 4.0) == pytest.approx(3.0 + 2.5)


def test_mistakes():
    for settings, message in (
        ({"ratio": 0.5}, "ratio must be at least 1"),
        ({"letters": 2.0}, r"letters must lie in \[0, 1\]"),
        ({"min_words": 0}, "min_words must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            CleaningRules(**settings)
