"""A small tokenizer that keeps every character, and texts that tokenisers stumble over."""

import numpy as np
import pytest

from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig

SENTENCES = [
    "Ein kleines Mädchen klettert in ein Spielhaus aus Holz.",
    "Zwei Männer stehen am Herd und bereiten Essen zu, 1,234.5 Gramm!",
    'Ein Mann in einem blauen Hemd sagt: "Guten Tag", und geht.',
    "Mehrere Kinder-Gruppen spielen Fußball - bei 3-5 Grad...",
]

NASTY = [
    "",
    "a",
    "the the the the the the the the",
    "a..5,,b--9-",
    "5..a 5...a a...5 .,.,5 1,,,2",
    "1,234.5 .5 5. ,5 5,",
    "9-9 -9 9- a-b --",
    "&quot;x&quot; &amp;lt; &lt;a&gt; &amp;amp; &;",
    "<skipped>a<skip<skipped>ped> b<skipped>",
    "tab\there  and\nnew-\nline\n-\n",
    "no\u00a0break\u2009thin\u3000wide",
    "It's 'quoted' \"double\" ‘curly’ „German“ (a)[b]{c}<d>",
    "é e\u0301 ñ ß ẞ Å İstanbul K ﬁ",
    "日本語の文章、です。 ２０２０年",
    "🎉👩‍👩‍👧 emoji 𝄞",
    "\\/@#$%^&*()_+|~`=;:?!",
    "x\ty \t z\t",
    "word " * 30,
]


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-pair pieces of a little German; every other character is bytes."""
    return Tokenizer.train([(text, text) for text in SENTENCES], TokenizerConfig(vocabulary_size=340))


@pytest.fixture(scope="session")
def texts():
    """Sentences, nasty texts, and mixtures of both."""
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES + NASTY).split(" ")
    mixtures = [" ".join(rng.choice(words, rng.integers(1, 16))) for _ in range(120)]
    return SENTENCES + NASTY + mixtures
