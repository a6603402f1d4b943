"""The tokenizer that lies beside a checkpoint of another project, with its files unchanged."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer, TokenizerJson
from seq2seq_jax.data.tokenizer import JOINT_FILE, Tokenizer
from seq2seq_jax.pretrained.checkpoint import Checkpoint, read_json

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "source.spm")
VOCABULARY_FILE = "vocab.json"
SPECIAL_CHARACTERS = 4
"""Placeholders before the characters in a config: padding, start, end, unknown."""


def read_tokenizer(
    checkpoint: Checkpoint, *, source_language: str | None = None, target_language: str | None = None
) -> Tokenizer:
    """The tokenizer of an encoder–decoder.

    Args:
        source_language: the token that begins sources, such as eng_Latn; None = what the files say.
        target_language: the token that begins targets.

    Raises:
        ValueError: there is none that is known, or it has more ids than the model.
    """
    directory, vocabulary = checkpoint.directory, checkpoint.vocabulary
    if (directory / JOINT_FILE).is_file():
        # Of this project, with its own special ids.
        tokenizer = Tokenizer.load(directory)
    elif "grapheme_chars" in checkpoint.config and "phoneme_chars" in checkpoint.config:
        tokenizer = _of_characters(checkpoint, vocabulary)
    elif (directory / TOKENIZER_JSON).is_file():
        tokenizer = _of_json(directory, vocabulary, source_language, target_language)
    else:
        tokenizer = _of_sentencepiece(checkpoint, vocabulary, source_language, target_language)
    found, size = tokenizer.vocabulary, checkpoint.described.vocabulary_size
    if max(found.source_size, found.target_size) > size:
        raise ValueError(
            f"the tokenizer in {directory} has {max(found.source_size, found.target_size):,} ids, and the model "
            f"{size:,}. Give the tokenizer of this model."
        )
    return tokenizer


def _described(vocabulary: Vocabulary, sides: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": 1, "vocabulary": dataclasses.asdict(vocabulary), **sides}


def _of_characters(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Tokenizer:
    unknown = SPECIAL_CHARACTERS - 1
    start = checkpoint.described.values["bos_token_id"]
    # Its targets begin with the token that begins its sources, after the decoder's start token, which is the same.
    vocabulary = dataclasses.replace(vocabulary, never_ids=(unknown,), first_ids=(start,))
    shared = {"kind": "characters", "num_special": SPECIAL_CHARACTERS, "unknown_id": unknown}
    sides = {
        "source": {**shared, "characters": checkpoint.config["grapheme_chars"], "first": [start]},
        "target": {**shared, "characters": checkpoint.config["phoneme_chars"], "first": [start]},
    }
    return ImportedTokenizer(_described(vocabulary, sides), {})


def _of_json(directory: Path, vocabulary: Vocabulary, source: str | None, target: str | None) -> Tokenizer:
    content = (directory / TOKENIZER_JSON).read_bytes()
    codec = TokenizerJson(content)
    before, behind = codec.template()
    if source is not None:
        before, behind = [_language(codec.token(source), source, directory)], [vocabulary.eos_id]
    if behind != [vocabulary.eos_id]:
        raise ValueError(
            f"{directory / TOKENIZER_JSON} ends texts with the ids {behind}, and the model's EOS token is "
            f"{vocabulary.eos_id}: sources that end otherwise are not built. --source_language may say how they begin."
        )
    # A text's own first tokens come back as labels where the model is made to generate them.
    first = vocabulary.first_ids
    if target is not None:
        first = (_language(codec.token(target), target, directory),)
    vocabulary = dataclasses.replace(vocabulary, first_ids=first)
    sides = {
        "source": {"kind": "tokenizers", "file": TOKENIZER_JSON, "first": before},
        "target": {"kind": "tokenizers", "file": TOKENIZER_JSON, "first": list(first)},
    }
    return ImportedTokenizer(_described(vocabulary, sides), {TOKENIZER_JSON: content})


def _of_sentencepiece(
    checkpoint: Checkpoint, vocabulary: Vocabulary, source: str | None, target: str | None
) -> Tokenizer:
    directory = checkpoint.directory
    name = next((name for name in SENTENCEPIECE if (directory / name).is_file()), None)
    if name is None:
        raise ValueError(
            f"{directory} has no tokenizer that is known: expected {TOKENIZER_JSON}, {', '.join(SENTENCEPIECE)} or "
            "characters in config.json. Copy its files, too."
        )
    files = {name: (directory / name).read_bytes()}
    sides: dict[str, Any] = {"source": name, "target": name}
    if name == "source.spm":
        sides["target"] = "target.spm"
        files["target.spm"] = _content(directory / "target.spm")
    ids, ids_file = {}, None
    if (directory / VOCABULARY_FILE).is_file():
        ids_file = VOCABULARY_FILE
        files[VOCABULARY_FILE] = _content(directory / VOCABULARY_FILE)
        ids = read_json(directory / VOCABULARY_FILE)
    elif name == "sentencepiece.bpe.model":
        raise ValueError(
            f"{directory} has {name} without {VOCABULARY_FILE} or {TOKENIZER_JSON}, which say its ids. Copy one of "
            "them, too."
        )
    unknown = ids.get("<unk>", 2 if ids_file is None else 3)
    first: dict[str, list[int]] = {"source": [], "target": list(vocabulary.first_ids)}
    for side, language in (("source", source), ("target", target)):
        if language is not None:
            first[side] = [_language(ids.get(language), language, directory)]
    special = [*{vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id, unknown, *first["source"], *first["target"]}]
    vocabulary = dataclasses.replace(vocabulary, first_ids=tuple(first["target"]))
    described = {
        side: {
            "kind": "sentencepiece",
            "file": file,
            "ids_file": ids_file,
            "special": special,
            "unknown_id": unknown,
            "first": first[side],
        }
        for side, file in sides.items()
    }
    return ImportedTokenizer(_described(vocabulary, described), files)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path.parent} lacks {path.name}, which its tokenizer needs. Copy it, too.")
    return path.read_bytes()


def _language(token: int | None, name: str, directory: Path) -> int:
    if token is None:
        raise ValueError(f"the tokenizer in {directory} has no token {name!r}. Give one that it has, such as eng_Latn.")
    return token
