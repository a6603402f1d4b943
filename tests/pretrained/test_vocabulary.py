"""Rows of tables for another tokenizer, and tokenizers with some of their pieces: by hand."""

import importlib.util
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from made_tokenizers import TARGET, characters

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer
from seq2seq_jax.data.spelling import Speller
from seq2seq_jax.data.transforms.words import Pieces
from seq2seq_jax.pretrained.transforms import ChosenRows, Reshaped, Table
from seq2seq_jax.pretrained.vocabulary import new_rows, rows_by_piece, rows_of_tokenizer

OLD = ["<pad>", "</s>", "▁un", "▁u", "n", "do", "d", "o", "<0xC3>", "<0xA9>"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("do", (5,)), ("▁undo", (2, 5)), ("▁und", (2, 6)), ("ondo", (7, 4, 5)), ("é", (8, 9)), ("oé", (7, 8, 9)),
        ("ü", (8,)), ("x", ()), ("xd", (6,)), ("", ()),
    ],
)  # fmt: skip
def test_the_longest_pieces_from_the_left_spell_a_text(text, ids):
    assert Speller(OLD).spell(text) == ids


def test_the_first_of_equal_pieces_counts_and_those_without_text_do_not():
    assert Speller(["", "a", "a", "b"]).spell("ab") == (1, 3)


def test_new_rows_are_old_ones_or_means_or_noise_like_them():
    rows = rows_by_piece(OLD, ["<s>", "do", "▁undo", "§"], same={0: 1})
    assert rows == [(1,), (5,), (2, 5), ()]
    table = jnp.asarray(np.random.default_rng(0).normal(3.0, 0.1, (10, 4)), jnp.float32)
    found = np.asarray(new_rows(table, rows, seed=0))
    np.testing.assert_array_equal(found[0], table[1])
    np.testing.assert_array_equal(found[1], table[5])
    np.testing.assert_allclose(found[2], (table[2] + table[5]) / 2, rtol=1e-6)
    assert np.abs(found[3] - 3.0).max() < 1.0 and np.std(found[3] - np.mean(table, axis=0)) > 0.01
    np.testing.assert_array_equal(found, new_rows(table, rows, seed=0))
    assert np.any(np.asarray(new_rows(table, rows, seed=1))[3] != found[3])
    # Biases of logits have rows alone.
    np.testing.assert_allclose(new_rows(table[:, 0], rows[:3], seed=0), found[:3, 0], rtol=1e-6)


def test_special_tokens_belong_together_by_what_they_are_for():
    old = characters()
    new = characters(letters=("____dcbe ", TARGET), pad_id=2, bos_id=0, eos_id=1)
    rows = rows_of_tokenizer(old, new, "source", "source")
    #       bos  eos  pad  unknown  d   c     b     e  space
    assert rows[:4] == [(1,), (2,), (0,), (3,)]
    assert rows[4:] == [(7,), (6,), (5,), (), (8,)]


def test_a_source_may_end_otherwise_than_a_target():
    tokenizer = characters(source_eos_id=3)
    assert tokenizer.encode_source(["ab"]) == [[1, 4, 5, 3]]
    assert tokenizer.encode_target(["xy"]) == [[4, 5, 2]]
    assert tokenizer.decode_source([1, 4, 5, 3, 6]) == "ab" and tokenizer.decode_target([4, 2, 5]) == "x"
    assert tokenizer.vocabulary.end_id("source") == 3 and tokenizer.vocabulary.end_id("target") == 2


def test_texts_are_not_taken_apart_into_the_words_of_another_projects_tokenizer():
    with pytest.raises(ValueError, match=r"^data\.augmentation [^\n]* is not built for the tokenizers of[^\n]*$"):
        Pieces(characters(), "source")


def test_chosen_ids_encode_and_decode_alike_and_the_others_are_spelled_or_unknown(tmp_path):
    tokenizer = characters()
    rows = [0, 1, 2, 3, 5, 7, 8, -1, -1]
    chosen = tokenizer.with_rows(rows)
    assert chosen.vocabulary.target_size == 9 and chosen.vocabulary.never_ids == (7, 8)
    #                          first b  d  space end; a and c are gone
    assert chosen.encode_source(["bd b"]) == [[1, 4, 5, 6, 4, 2]]
    assert chosen.encode_source(["abc"]) == [[1, 3, 4, 3, 2]]
    assert chosen.decode_source([1, 4, 6, 5, 2]) == "b d"
    chosen.save(tmp_path)
    again = ImportedTokenizer.load(tmp_path, fingerprint=chosen.fingerprint)
    assert again.encode_source(["bd b"]) == chosen.encode_source(["bd b"])
    assert again.fingerprint != tokenizer.fingerprint


@pytest.fixture(scope="module")
def pieces():
    """A SentencePiece model with bytes, for both sides."""
    model = io.BytesIO()
    text = ["the cat sat on the mat", "the undone cat", "a cat and a mat undo the cat"] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=300, model_type="bpe", byte_fallback=True,
        pad_id=3, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    vocabulary = Vocabulary(source_size=size, target_size=size, joint=True, pad_id=3, bos_id=1, eos_id=2)
    side = {
        "kind": "sentencepiece", "file": "model", "ids_file": None, "special": [1, 2, 3], "unknown_id": 0, "first": [],
    }  # fmt: skip
    return ImportedTokenizer(
        {"format": 1, "vocabulary": dict(vars(vocabulary)), "source": side, "target": side},
        {"model": model.getvalue()},
    )


def test_pieces_that_were_not_chosen_are_spelled_by_those_that_were(pieces):
    needed = pieces.always_needed()
    # Special tokens, 256 bytes and single characters.
    assert {0, 1, 2, 3} < needed and len(needed) >= 260
    used = {token for text in pieces.encode_source(["the cat"]) for token in text}
    chosen = pieces.with_rows(sorted(used | needed))
    assert len(chosen.encode_source(["the cat"])[0]) == len(pieces.encode_source(["the cat"])[0])
    for text in ("the cat", "the undone mat", "ünd £"):
        [ids] = chosen.encode_target([text])
        assert max(ids) < chosen.vocabulary.target_size and chosen.decode_target(ids) == text


def test_chosen_rows_go_out_again_with_those_that_were_left_out():
    whole = np.arange(12.0).reshape(6, 2)
    transform = ChosenRows(Table(), (4, 1, -1), 6, lambda: whole)
    shapes = [(3, 2)]
    assert transform.stored_shape(shapes) == (6, 2)
    own = transform.own(whole, 0, shapes)
    np.testing.assert_array_equal(own, [[8, 9], [2, 3], [0, 0]])
    np.testing.assert_array_equal(transform.stored([own]), whole)
    changed = transform.stored([own + 100])
    np.testing.assert_array_equal(changed[[4, 1]], [[108, 109], [102, 103]])
    np.testing.assert_array_equal(changed[[0, 2, 3, 5]], whole[[0, 2, 3, 5]])
    bias = ChosenRows(Reshaped(1), (4, 1, -1), 6, lambda: whole[None, :, 0])
    assert bias.stored_shape([(3,)]) == (1, 6)
    np.testing.assert_array_equal(bias.own(whole[None, :, 0], 0, [(3,)]), [8, 2, 0])
    np.testing.assert_array_equal(bias.stored([np.array([8.0, 2.0, 0.0])]), whole[None, :, 0])


@pytest.mark.skipif(importlib.util.find_spec("tokenizers") is None, reason="needs the extra `pretrained`")
def test_spellings_of_all_kinds_of_pieces_are_written_alike():
    from seq2seq_jax.data.imported_tokenizer import TokenizerJson

    def codec(model, **parts):
        added = [
            {"id": 0, "content": "[UNK]", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
        ]  # fmt: skip
        facts = {"version": "1.0", "added_tokens": added, "model": model} | parts
        return TokenizerJson(json.dumps(facts).encode())

    words = codec({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 9, "vocab": {"[UNK]": 0, "the": 1, "##re": 2}})  # fmt: skip
    assert [words.spelling(token) for token in range(4)] == ["[UNK]", "▁the", "re", "<3>"]
    bytes_of = codec(
        {"type": "BPE", "merges": [], "vocab": {"[UNK]": 0, "Ġthe": 1, "re": 2, "Ã": 3, "Ã©": 4, "Ċ": 5}},
        decoder={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    )
    assert [bytes_of.spelling(token) for token in range(6)] == ["[UNK]", "▁the", "re", "<0xC3>", "é", "\n"]
