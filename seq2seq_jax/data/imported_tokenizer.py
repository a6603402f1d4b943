"""Tokenizers of other projects, whose files stay as they are: characters, tokenizer.json, SentencePiece and its ids.

`tokenizer.imported.json` in a run's directory says which ids begin a text and end it, and which file each side has; the
files themselves lie unchanged in `tokenizer/`.
"""

import abc
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.tokenizer import SPACE, Tokenizer, damaged_tokenizer
from seq2seq_jax.files import write_whole

IMPORTED_FILE = "tokenizer.imported.json"
FILES = "tokenizer"
"""Directory of the files."""
SIDES = ("source", "target")


class Codec(abc.ABC):
    """One side at work: text to ids without those that begin and end it, and back."""

    unknown_id: int | None = None
    """Of what it has no piece for."""

    @abc.abstractmethod
    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones have none."""

    @abc.abstractmethod
    def piece(self, token: int) -> str:
        """What an id stands for."""

    @abc.abstractmethod
    def token(self, piece: str) -> int | None:
        """The inverse of `piece`."""


class Characters(Codec):
    """One id per character."""

    def __init__(self, characters: str, *, num_special: int, unknown_id: int):
        """Args:
        characters: id -> character; those of special ids are placeholders.
        num_special: ids before the first character.
        unknown_id: of other characters.
        """
        self._characters = characters
        self._special = num_special
        self.unknown_id = unknown_id
        self._ids = {characters[index]: index for index in range(len(characters) - 1, num_special - 1, -1)}

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[self._ids.get(character, self.unknown_id) for character in text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._characters[token] for token in ids if self._special <= token < len(self._characters))

    def piece(self, token: int) -> str:
        if not self._special <= token < len(self._characters):
            return f"<{token}>"
        return SPACE if self._characters[token] == " " else self._characters[token]

    def token(self, piece: str) -> int | None:
        return self._ids.get(" " if piece == SPACE else piece)


class TokenizerJson(Codec):
    """The file tokenizer.json, by the library that wrote it."""

    def __init__(self, content: bytes):
        """Args:
        content: of the file.

        Raises:
            ValueError: the library is not installed, or the file is damaged.
        """
        if importlib.util.find_spec("tokenizers") is None:
            raise ValueError(
                "tokenizer.json needs the package tokenizers, which is not installed: pip install "
                "'seq2seq_jax[pretrained]'."
            )
        import tokenizers  # pyright: ignore[reportMissingImports]

        try:
            self.tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:
            raise ValueError(f"tokenizer.json cannot be read ({str(error).splitlines()[0][:100]}).") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        self.unknown_id = None if unknown is None else self.tokenizer.token_to_id(str(unknown))

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        known = [token for token in ids if self.tokenizer.id_to_token(token) is not None]
        return self.tokenizer.decode(known, skip_special_tokens=True)

    def piece(self, token: int) -> str:
        found = self.tokenizer.id_to_token(token)
        return f"<{token}>" if found is None else found

    def token(self, piece: str) -> int | None:
        return self.tokenizer.token_to_id(piece)

    def template(self) -> tuple[list[int], list[int]]:
        """Ids that the file puts before and behind a text."""
        bare = self.tokenizer.encode("a", add_special_tokens=False).ids
        whole = self.tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []


class SentencePieceIds(Codec):
    """A SentencePiece model, whose pieces have the ids of another list, or its own."""

    def __init__(self, model: bytes, *, ids: Mapping[str, int] | None, special: Sequence[int], unknown_id: int):
        """Args:
        model: serialised.
        ids: piece -> id; None = those of the model.
        special: ids without text.
        unknown_id: of pieces that are not in the list.

        Raises:
            ValueError: it cannot be read.
        """
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(model)
        except RuntimeError as error:
            raise ValueError("not a SentencePiece model, or a damaged one: copy it again") from error
        size = self._processor.get_piece_size()
        own = {self._processor.id_to_piece(index): index for index in range(size)}
        self._ids = dict(own if ids is None else ids)
        self._pieces = {index: piece for piece, index in self._ids.items()}
        self._special = frozenset(special)
        self.unknown_id = unknown_id

    def encode(self, texts: list[str]) -> list[list[int]]:
        found = self._processor.encode(texts, out_type=str)
        return [[self._ids.get(piece, self.unknown_id) for piece in pieces] for pieces in found]

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [self._pieces[token] for token in ids if token not in self._special and token in self._pieces]
        return self._processor.decode_pieces(pieces)

    def piece(self, token: int) -> str:
        return self._pieces.get(token, f"<{token}>")

    def token(self, piece: str) -> int | None:
        return self._ids.get(piece)


class ImportedTokenizer(Tokenizer):
    """The tokenizer of another project's model. Every encoded example ends in the EOS token."""

    def __init__(self, description: Mapping[str, Any], files: Mapping[str, bytes]):
        """Args:
        description: JSON values: `vocabulary`, and for each side `kind`, `first` (ids that begin a text) and what the
            kind needs.
        files: content of each file by name.

        Raises:
            ValueError: a file is missing or damaged, or a needed package is not installed.
        """
        self._description = dict(description)
        self._files = dict(files)
        vocabulary = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in description["vocabulary"].items()
        }
        self._vocabulary = Vocabulary(**vocabulary)
        self._codecs = {side: self._codec(description[side]) for side in SIDES}

    def __reduce__(self):
        return type(self), (self._description, self._files)

    def _codec(self, facts: Mapping[str, Any]) -> Codec:
        if facts["kind"] == "characters":
            return Characters(facts["characters"], num_special=facts["num_special"], unknown_id=facts["unknown_id"])
        for name in ("file", "ids_file"):
            if facts.get(name) is not None and facts[name] not in self._files:
                raise ValueError(f"expected the tokenizer's file {facts[name]}; there is none: restore it")
        if facts["kind"] == "tokenizers":
            return TokenizerJson(self._files[facts["file"]])
        ids = None if facts.get("ids_file") is None else json.loads(self._files[facts["ids_file"]])
        return SentencePieceIds(
            self._files[facts["file"]], ids=ids, special=facts["special"], unknown_id=facts["unknown_id"]
        )

    def with_vocabulary(self, vocabulary: Vocabulary) -> "ImportedTokenizer":
        """The same files with other sizes or special ids."""
        description = self._description | {"vocabulary": dataclasses.asdict(vocabulary)}
        return ImportedTokenizer(description, self._files)

    def save(self, directory: str | os.PathLike) -> None:
        """Write the description and the files, each whole or not."""
        directory = pathlib.Path(directory)
        (directory / FILES).mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            write_whole(directory / FILES / name, content)
        write_whole(directory / IMPORTED_FILE, json.dumps(self._description, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, directory: str | os.PathLike, *, fingerprint: str | None = None) -> "ImportedTokenizer":
        directory = pathlib.Path(directory)
        try:
            description = json.loads((directory / IMPORTED_FILE).read_text(encoding="utf-8"))
            files = {path.name: path.read_bytes() for path in sorted((directory / FILES).glob("*")) if path.is_file()}
            if fingerprint is not None and _fingerprint(description, files) != fingerprint:
                raise damaged_tokenizer(f"{IMPORTED_FILE} or a file of {FILES}/", directory)
            return cls(description, files)
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{directory / IMPORTED_FILE} cannot be read ({error}): restore it") from error

    @property
    def files(self) -> Mapping[str, bytes]:
        """Content of each file by name, unchanged."""
        return self._files

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def unknown_id(self) -> int | None:
        return self._codecs["target"].unknown_id

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self._description, self._files)

    def _encode(self, side: str, texts: list[str]) -> list[list[int]]:
        first, eos = self._description[side]["first"], self._vocabulary.eos_id
        return [[*first, *ids, eos] for ids in self._codecs[side].encode(texts)]

    def encode_source(self, texts: list[str]) -> list[list[int]]:
        return self._encode("source", texts)

    def encode_target(self, texts: list[str]) -> list[list[int]]:
        return self._encode("target", texts)

    def encode_documents(self, texts: list[str]) -> list[list[int]]:
        return self._codecs["source"].encode(texts)

    def _decode(self, side: str, ids: Sequence[int]) -> str:
        vocabulary = self._vocabulary
        before_end = itertools.takewhile(lambda token: token != vocabulary.eos_id, map(int, ids))
        silent = {vocabulary.pad_id, vocabulary.bos_id, *self._description[side]["first"]}
        return self._codecs[side].decode([token for token in before_end if token not in silent])

    def decode_source(self, ids: Sequence[int]) -> str:
        return self._decode("source", ids)

    def decode_target(self, ids: Sequence[int]) -> str:
        return self._decode("target", ids)

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._codecs["source"].piece(int(token)) for token in ids]

    def target_pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._codecs["target"].piece(int(token)) for token in ids]

    def target_id(self, piece: str) -> int | None:
        return self._codecs["target"].token(piece)


def _fingerprint(description: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(files):
        digest.update(name.encode() + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()
