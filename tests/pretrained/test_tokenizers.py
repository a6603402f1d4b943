"""Tokenizers as released models have them beside their weights."""

import importlib.util
import io
import json

import pytest
import sentencepiece
from made_checkpoints import BART, arrays, write

from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer
from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.tokenizers import read_tokenizer

needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="tokenizers is not installed (the extra `pretrained`)"
)

SIZE = 160
PLAIN = {name: value for name, value in BART.items() if not name.endswith("_chars")} | {"vocab_size": SIZE}
PEGASUS = PLAIN | {
    "model_type": "pegasus", "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
M2M100 = PLAIN | {
    "model_type": "m2m_100", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "model_type": "t5", "vocab_size": 384, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
    "tokenizer_class": "ByT5Tokenizer",
}  # fmt: skip


def opened(directory, config, **files):
    """The checkpoint of a config with these files."""
    write(directory, arrays(config), config)
    for name, content in files.items():
        (directory / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return Checkpoint.open(directory)


def model_of_pieces(**special):
    """A SentencePiece model, and the same at work."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a cat and a mat"] * 9), model_writer=model, vocab_size=30,
        hard_vocab_limit=False, minloglevel=2, **special,
    )  # fmt: skip
    return model.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_pieces_of_pegasus_come_behind_its_tokens_of_pretraining(tmp_path):
    model, processor = model_of_pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = read_tokenizer(opened(tmp_path, PEGASUS, **{"spiece.model": model}))
    [ids] = tokenizer.encode_source(["the cat £"])
    assert ids == [*(piece + 103 for piece in processor.encode("the cat £")), 1] and 105 in ids
    assert tokenizer.unknown_id == 105 and tokenizer.decode_target(tokenizer.encode_target(["a mat"])[0]) == "a mat"


@pytest.mark.parametrize("kind", ["special_tokens_map.json", "added_tokens.json"])
def test_languages_of_m2m_100_come_behind_its_list(tmp_path, kind):
    model, processor = model_of_pieces(bos_id=0, eos_id=2, unk_id=1, pad_id=-1)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(processor.id_to_piece, range(3, processor.get_piece_size()))]
    ids = {piece: index for index, piece in enumerate(pieces)}
    names = {
        "special_tokens_map.json": {"additional_special_tokens": ["__af__", {"content": "__en__"}]},
        "added_tokens.json": {"__af__": len(ids), "__en__": len(ids) + 1},
    }
    files = {"sentencepiece.bpe.model": model, "vocab.json": ids, kind: names[kind]}
    checkpoint = opened(tmp_path, M2M100, **files)
    tokenizer = read_tokenizer(checkpoint, source_language="__en__", target_language="__af__")
    [source], [target] = tokenizer.encode_source(["the"]), tokenizer.encode_target(["the"])
    assert (source[0], target[0]) == (len(ids) + 1, len(ids)) and source[1:] == target[1:]
    assert tokenizer.decode_target(target) == "the"
    with pytest.raises(ValueError, match=r"^[^\n]*has no token '__xx__'[^\n]*__en__ [^\n]*$"):
        read_tokenizer(checkpoint, source_language="__xx__")


def test_bytes_need_no_file(tmp_path):
    tokenizer = read_tokenizer(opened(tmp_path, T5))
    assert tokenizer.encode_source(["aé "]) == [[100, 198, 172, 35, 1]]
    # Half of a character is left out, as transformers does.
    assert tokenizer.decode_target([0, 100, 198, 172, 198, 300, 1, 100]) == "aé"
    assert tokenizer.source_pieces([100, 198, 35, 300]) == ["a", "<0xC3>", "▁", "<300>"]
    assert [tokenizer.source_id(piece) for piece in ("a", "<0xC3>", "▁", "é")] == [100, 198, 35, None]
    tokenizer.save(tmp_path / "saved")
    again = ImportedTokenizer.load(tmp_path / "saved")
    assert again.encode_source(["aé "]) == [[100, 198, 172, 35, 1]]


@needs_tokenizers
def test_tokenizer_json_counts_beside_a_model_of_sentencepiece_and_may_not_be_larger_than_the_table(tmp_path):
    import tokenizers

    def content(words):
        made = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?")
        )
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.add_special_tokens(["<mask>"])
        made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
        return made.to_str().encode()

    model, _ = model_of_pieces(pad_id=0, eos_id=1, bos_id=2, unk_id=3)
    words = ["<pad>", "<s>", "</s>", "?", *(f"w{index}" for index in range(4, SIZE))]
    files = {"tokenizer.model": model, "tokenizer.json": content(words)}
    # Like <mask> of bart-large-cnn, whose id is behind the table.
    tokenizer = read_tokenizer(opened(tmp_path / "fits", PLAIN, **files))
    assert tokenizer.encode_source([f"w4 w{SIZE - 1}"]) == [[4, SIZE - 1, 2]]
    with pytest.raises(ValueError, match=r"^[^\n]*has 161 ids, and the model 160\. Give the tokenizer of[^\n]*$"):
        read_tokenizer(opened(tmp_path / "larger", PLAIN, **files | {"tokenizer.json": content([*words, "more"])}))


@needs_tokenizers
def test_languages_of_mbart_stand_behind_eos_and_start_the_decoder(tmp_path):
    """transformers' MBartTokenizer: source X </s> en_XX; the decoder reads ro_RO Y and is to say Y </s>."""
    import tokenizers

    words = ["<s>", "<pad>", "</s>", "?", "a", "b", "en_XX", "ro_RO", "de_DE"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = [("</s>", 2), ("en_XX", 6)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s> en_XX", special_tokens=special)
    config = PLAIN | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 7}
    checkpoint = opened(tmp_path, config, **{"tokenizer.json": made.to_str().encode()})

    def given(**languages):
        tokenizer = read_tokenizer(checkpoint, **languages)
        tokenizer.save(tmp_path / "saved")
        tokenizer = ImportedTokenizer.load(tmp_path / "saved")
        [source], [target] = tokenizer.encode_source(["a b"]), tokenizer.encode_target(["b a"])
        assert tokenizer.decode_source(source) == "a b" and tokenizer.decode_target(target) == "b a"
        chosen = tokenizer.with_rows([1, 0, 2, 3, 8, 7, 6, 5, 4])
        assert chosen.decode_source(chosen.encode_source(["a b"])[0]) == "a b"
        assert [chosen.source_pieces([token])[0] for token in chosen.encode_source(["a"])[0]] == [
            "a", "</s>", words[source[-1]],
        ]  # fmt: skip
        return source, target, tokenizer.vocabulary.bos_id, tokenizer.vocabulary.first_ids

    assert given() == ([4, 5, 2, 6], [5, 4, 2], 7, ())
    assert given(source_language="de_DE", target_language="en_XX") == ([4, 5, 2, 8], [5, 4, 2], 6, ())
