"""Words of texts: as the libraries cut them, on thousands of texts made of what their rules are about."""

import jax.numpy as jnp
import numpy as np
import pytest
from jiwer.transformations import wer_default
from rouge_score.tokenize import tokenize
from sacrebleu.metrics import BLEU

from seq2seq_jax.rewards.text import NO_CHARACTER
from seq2seq_jax.rewards.words import count, words_13a, words_alphanumeric, words_between_blanks

PARTS = [*"aB5.,-&<>; \n\t'\"{~/^_İKé\u3000\u0085😀中", "..", ".,5", "&amp;", "&lt;", "<skipped>", "-\n", "&quot;"]
PARTS += ["&gt;", "lt;", "amp;", "5-", "...", " ", " "]
SIZE = 256


def characters(texts):
    """Texts as rows of code points."""
    rows = np.full((len(texts), SIZE), NO_CHARACTER, np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = [ord(character) for character in text]
    return jnp.asarray(rows)


@pytest.fixture(scope="module")
def texts():
    """Random sequences of the parts."""
    rng = np.random.default_rng(0)
    return ["", " ", "."] + ["".join(rng.choice(PARTS, rng.integers(1, 25))) for _ in range(4000)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a..5", ["a", ".", ".5"]),
        ("a...5", ["a", ".", ".", ".", "5"]),
        ("1,234.5", ["1,234.5"]),
        ("9-a", ["9", "-", "a"]),
        ("&amp;lt;", ["<"]),
        ("x-\ny", ["xy"]),
        ("x-\n", ["x-"]),
    ],
)
def test_words_of_13a_by_hand(text, words):
    found = words_13a(characters([text]))
    np.testing.assert_array_equal(found, words_between_blanks(characters([" ".join(words)])))


@pytest.mark.long
@pytest.mark.parametrize(
    ("cut", "library"),
    [
        (words_13a, lambda text: BLEU().tokenizer(text.rstrip()).split()),
        (words_alphanumeric, lambda text: tokenize(text, None)),
    ],
)
def test_words_are_the_library_s(texts, cut, library):
    """Cut again at blanks, the library's words are the same symbols."""
    expected = characters([" ".join(library(text)) for text in texts])
    np.testing.assert_array_equal(cut(characters(texts)), words_between_blanks(expected))


def test_words_between_blanks_are_jiwer_s(texts):
    """Equal words have equal symbols, and different ones different."""
    symbols = np.asarray(words_between_blanks(characters(texts)))
    expected = [wer_default(text)[0] if text else [] for text in texts]
    np.testing.assert_array_equal(count(jnp.asarray(symbols)), list(map(len, expected)))
    pairs = {
        (word, tuple(symbols[row, :, place].tolist()))
        for row, words in enumerate(expected)
        for place, word in enumerate(words)
    }
    words, hashes = zip(*pairs, strict=True)
    assert len(set(words)) == len(set(hashes)) == len(pairs) > 5000
