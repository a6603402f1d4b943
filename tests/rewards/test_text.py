"""Characters of token ids: what the tokenizer decodes, whatever the ids."""

import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.rewards.text import (
    NO_CHARACTER,
    PieceTable,
    is_whitespace,
    strip,
    strip_right,
    without_whitespace,
)

LENGTH = 24
PAIRS = [
    (
        "A small house, é and 中, stands there on its own hill.",
        "Ein kleines Haus, über 中 🎉 und 12.5, steht am Hügel.",
    ),
    ("Two houses of wood, and the builders of houses", "Zwei Häuser aus Holz, und die Erbauer der Häuser"),
    ("Three more lines with nothing but words", "Hausbau, Baumhaus, Holzhaus, Häuserbau: kleine Wörter"),
]


def strings(characters):
    """The rows as Python's strings."""
    return ["".join(chr(character) for character in row if character != NO_CHARACTER) for row in np.asarray(characters)]


def characters(texts, size):
    """Texts as rows of code points."""
    rows = np.full((len(texts), size), NO_CHARACTER, np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = [ord(character) for character in text]
    return jnp.asarray(rows)


def random_ids(tokenizer, count):
    """Rows of ids in which bytes, spaces and special ids are frequent."""
    rng = np.random.default_rng(0)
    size = tokenizer.vocabulary.target_size
    names = tokenizer.target_pieces(range(size))
    leads = [token for token, name in enumerate(names) if name[:3] in ("<0x",) and name >= "<0xC"]
    trails = [token for token, name in enumerate(names) if "<0x80>" <= name <= "<0xBF>" and len(name) == 6]
    spaces = [token for token, name in enumerate(names) if name.startswith("▁")]
    groups = [range(size), range(4), *(group for group in (leads, trails, trails, spaces) if group)]
    weights = np.array([4, 0.3, *([1.0] * (len(groups) - 2))])
    kinds = rng.choice(len(groups), (count, LENGTH), p=weights / weights.sum())
    return np.array([[rng.choice(groups[kind]) for kind in row] for row in kinds], np.int32)


def decoded(tokenizer, ids):
    """The texts, read with room for all that could be."""
    table = PieceTable.of(tokenizer)
    size = table.worst_size(LENGTH)
    return strings(table.read(table.layout(jnp.asarray(ids)), size))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize(("kind", "pieces"), [("bpe", 60), ("unigram", 45), ("char", 200)])
def test_any_ids_have_the_text_that_the_tokenizer_decodes(kind, pieces, byte_fallback, joint):
    config = TokenizerConfig(
        kind=kind, vocabulary_size=pieces + 256 * byte_fallback, byte_fallback=byte_fallback, joint=joint
    )
    tokenizer = Tokenizer.train(PAIRS, config)
    ids = random_ids(tokenizer, 500)
    assert decoded(tokenizer, ids) == [tokenizer.decode_target(row) for row in ids.tolist()]


def test_bytes_are_utf8_where_they_can_be():
    """All pairs of neighbours of a few bytes at the borders of UTF-8's ranges, three and four in a row."""
    tokenizer = Tokenizer.train([("ab", "ab")], TokenizerConfig(kind="char"))
    rng = np.random.default_rng(1)
    borders = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF]
    borders += [0xF0, 0xF1, 0xF4, 0xF5, 0xF8, 0xFF]
    names = tokenizer.target_pieces(range(tokenizer.vocabulary.target_size))
    tokens = np.array([names.index(f"<0x{byte:02X}>") for byte in borders], np.int32)
    ids = tokens[rng.integers(0, len(tokens), (2000, LENGTH))]
    expected = [tokenizer.decode_target(row) for row in ids.tolist()]
    assert decoded(tokenizer, ids) == expected
    assert any("\U00040000" <= character <= "\U0010ffff" for text in expected for character in text)


def test_a_text_ends_at_its_first_end_id(tokenizer):
    (ids,) = tokenizer.encode_target(["Ein Mann"])
    endless = (ids[:-1] * LENGTH)[:LENGTH]
    assert decoded(tokenizer, [(ids * LENGTH)[:LENGTH], endless]) == ["Ein Mann", tokenizer.decode_target(endless)]


def test_a_tokenizer_that_keeps_spaces_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a  b", "b  a"]),
        model_prefix=str(tmp_path / "model"),
        model_type="char",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    tokenizer = Tokenizer((tmp_path / "model.model").read_bytes())
    with pytest.raises(ValueError, match=r"^rewards need a tokenizer that removes leading spaces [^\n]*$"):
        PieceTable.of(tokenizer)


def test_whitespace_is_what_python_holds_for_it():
    points = np.arange(0x110000, dtype=np.int32)
    expected = [chr(point).isspace() for point in points]
    np.testing.assert_array_equal(is_whitespace(jnp.asarray(points)), expected)


def test_stripping():
    texts = ["", " ", "\t a \n", "a b", "  a\u3000b\u00a0", "ab"]
    rows = characters(texts, 8)
    assert strings(strip(rows)) == [text.strip() for text in texts]
    assert strings(strip_right(rows)) == [text.rstrip() for text in texts]
    assert strings(without_whitespace(rows)) == ["".join(text.split()) for text in texts]
