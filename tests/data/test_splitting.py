"""Parts of texts that are too long, and what is made of them as one text again."""

import random
import re

import pytest

from seq2seq_jax.data.splitting import join_texts, split_text


def count(texts):
    """A token per character that is no space, and the EOS token."""
    return [len(re.sub(r"\s", "", text)) + 1 for text in texts]


@pytest.mark.parametrize(
    ("text", "max_tokens", "parts"),
    [
        ("Fits.", 6, ["Fits."]),
        ("", 6, []),
        (" \n ", 6, []),
        # Sentences, as few parts as that, of like length: 5 + 5 + 5 + 5 and not 15 + 5.
        ("Aaaa. Bbbb. Cccc. Dddd.", 16, ["Aaaa. Bbbb.", "Cccc. Dddd."]),
        ("Aaaa! Bbbb? Cccc… “Dddd.” Eeee.", 12, ["Aaaa! Bbbb?", "Cccc…", "“Dddd.”", "Eeee."]),
        # An abbreviation is no end, a line's is.
        ("Aa z. b. cc dd. Ee.", 12, ["Aa z. b. cc dd.", "Ee."]),
        ("one two\nthree four", 12, ["one two", "three four"]),
        # A sentence that is too long alone is split between clauses; the others stay whole.
        ("Aaaa. Bbbb, cccc; dddd. Eeee.", 11, ["Aaaa.", "Bbbb, cccc;", "dddd.", "Eeee."]),
        ("aaaa bbbb cccc dddd", 10, ["aaaa bbbb", "cccc dddd"]),
        # Words, and pieces of words; a mark stays with its letter.
        ("aaaa bbbbbbbbbbbb cc", 6, ["aaaa", "bbbb", "bbbb", "bbbb", "cc"]),
        ("aae\u0301e\u0301", 4, ["aa", "e\u0301", "e\u0301"]),
        # Chinese, Japanese, Hindi, Arabic and Armenian sentences; a closing quotation mark belongs to its sentence.
        ("他来了。她走了！「好。」我们也走吧。", 10, ["他来了。她走了！", "「好。」", "我们也走吧。"]),
        ("我们今天去，明天回来", 7, ["我们今天去，", "明天回来"]),
        ("वह आया। वह गया।", 9, ["वह आया।", "वह गया।"]),
        ("هل أتى؟ نعم أتى.", 9, ["هل أتى؟", "نعم أتى."]),
    ],
)
def test_a_text_is_split_at_the_best_places(text, max_tokens, parts):
    assert split_text(text, count=count, max_tokens=max_tokens) == parts


@pytest.mark.parametrize("seed", range(20))
def test_parts_fit_and_hold_the_whole_text(seed):
    rng = random.Random(seed)
    text = "".join(rng.choices("abcä.,! \n。、'\u0301", weights=[9, 9, 9, 3, 2, 1, 1, 6, 1, 1, 1, 1, 1], k=2000))
    for max_tokens in (2, 3, 7, 40, 300, 3000):
        parts = split_text(text, count=count, max_tokens=max_tokens)
        assert max(count(parts)) <= max_tokens
        assert all(part == part.strip() != "" for part in parts)
        assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text)
        # Two neighbours never fit together where both are made of whole sentences.
        assert len(parts) == 1 or max_tokens < count([text])[0]


def test_tokens_of_neighbours_that_depend_on_each_other_are_counted_together():
    def with_borders(texts):
        """Two tokens more wherever two sentences meet."""
        return [number + 2 * text.count(". ") for number, text in zip(count(texts), texts, strict=True)]

    parts = split_text("Aaaa. Bbbb. Cccc.", count=with_borders, max_tokens=11)
    assert parts == ["Aaaa.", "Bbbb.", "Cccc."]


def test_a_character_of_too_many_tokens_is_a_part():
    assert split_text("ab", count=lambda texts: [9 * len(text) for text in texts], max_tokens=5) == ["a", "b"]


def test_a_long_word_takes_a_few_counts_a_piece():
    counted = []

    def counting(texts):
        counted.extend(map(len, texts))
        return count(texts)

    parts = split_text("a" * 100_000, count=counting, max_tokens=101)
    assert [len(part) for part in parts[:-1]] == [len(parts[0])] * (len(parts) - 1) and 90 <= len(parts[0]) <= 100
    # The whole is never counted: it may be a million characters.
    assert max(counted) <= 16 * 101 and len(counted) < 4 * len(parts)


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["Ein Satz.", "Noch einer."], "Ein Satz. Noch einer."),
        (["", "a", "", "b", ""], "a b"),
        (["他来了。", "她走了。"], "他来了。她走了。"),
        (["彼は", "来た"], "彼は来た"),
        (["ฉันมา", "แล้ว"], "ฉันมาแล้ว"),
        (["그는 왔다.", "그녀는 갔다."], "그는 왔다. 그녀는 갔다."),
        (["Ja 😀", "Nein"], "Ja 😀 Nein"),
        (["a\n", "b"], "a\nb"),
    ],
)
def test_texts_are_joined_as_their_script_is_written(texts, joined):
    assert join_texts(texts) == joined
