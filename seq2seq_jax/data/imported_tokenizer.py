"""Tokenizers of other projects, whose files stay as they are: characters, words, bytes, tokenizer.json, SentencePiece.

`tokenizer.imported.json` in a run's directory says which ids begin a text and end it, and which file each side has; the
files themselves lie unchanged in `tokenizer/`.
"""

import abc
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.spelling import Speller
from seq2seq_jax.data.tokenizer import BYTE_PIECE, NUM_BYTES, SPACE, Described, Tokenizer, damaged_tokenizer
from seq2seq_jax.files import write_whole

IMPORTED_FILE = "tokenizer.imported.json"
FILES = "tokenizer"
"""Directory of the files."""
SIDES = ("source", "target")


def _characters_of_bytes() -> dict[str, int]:
    """Character -> the byte that it stands for in byte-level pieces, as GPT-2 has chosen them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + index): value for index, value in enumerate(others)}


BYTE_OF_CHARACTER = _characters_of_bytes()


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

    @property
    @abc.abstractmethod
    def num_ids(self) -> int:
        """One more than the largest id of a piece that text is encoded with."""

    @abc.abstractmethod
    def piece(self, token: int) -> str:
        """What an id stands for."""

    @abc.abstractmethod
    def token(self, piece: str) -> int | None:
        """The inverse of `piece`."""

    def spelling(self, token: int) -> str:
        """The text of an id as all tokenizers write it here, see `Tokenizer.spellings`."""
        return self.piece(token)


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

    @property
    def num_ids(self) -> int:
        return len(self._characters)

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


class Words(Codec):
    """One id per word between spaces."""

    def __init__(self, words: Sequence[str], *, num_special: int, unknown_id: int):
        """Args:
        words: id -> word; those of special ids are placeholders.
        num_special: ids before the first word.
        unknown_id: of other words.
        """
        self._words = list(words)
        self._special = num_special
        self.unknown_id = unknown_id
        self._ids = {word: index for index, word in enumerate(words) if index >= num_special}

    @property
    def num_ids(self) -> int:
        return len(self._words)

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[self._ids.get(word, self.unknown_id) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in ids if self._special <= token < len(self._words))

    def piece(self, token: int) -> str:
        return SPACE + self._words[token] if self._special <= token < len(self._words) else f"<{token}>"

    def token(self, piece: str) -> int | None:
        return self._ids.get(piece.removeprefix(SPACE))


class Bytes(Codec):
    """One id per byte of UTF-8."""

    def __init__(self, *, num_special: int):
        """Args:
        num_special: ids before that of the first byte.
        """
        self._special = num_special

    @property
    def num_ids(self) -> int:
        return self._special + NUM_BYTES

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[byte + self._special for byte in text.encode()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        own = bytes(token - self._special for token in ids if self._special <= token < self.num_ids)
        return own.decode(errors="ignore")

    def piece(self, token: int) -> str:
        if not self._special <= token < self.num_ids:
            return f"<{token}>"
        byte = token - self._special
        if not (chr(byte).isascii() and chr(byte).isprintable()):
            return f"<0x{byte:02X}>"
        return SPACE if chr(byte) == " " else chr(byte)

    def token(self, piece: str) -> int | None:
        byte = BYTE_PIECE.fullmatch(piece)
        if byte is not None:
            return int(byte[1], 16) + self._special
        text = " " if piece == SPACE else piece
        return ord(text) + self._special if len(text) == 1 and text.isascii() else None


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
        self._added = set(self.tokenizer.get_added_tokens_decoder())
        facts = json.loads(content)
        self._is_of_bytes = '"ByteLevel"' in json.dumps([facts.get("decoder"), facts.get("pre_tokenizer")])
        is_word_piece = facts["model"].get("type") == "WordPiece"
        self._continuing = facts["model"].get("continuing_subword_prefix", "##") if is_word_piece else None
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        self.unknown_id = None if unknown is None else self.tokenizer.token_to_id(str(unknown))

    @property
    def num_ids(self) -> int:
        # Tokens that were added stand in no text as a rule, and some models have no rows for them.
        ids = self.tokenizer.get_vocab(with_added_tokens=False).values()
        return max((token for token in ids if token not in self._added), default=-1) + 1

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

    def spelling(self, token: int) -> str:
        piece = self.piece(token)
        if token in self._added or self.tokenizer.id_to_token(token) is None:
            return piece
        if self._continuing is not None:
            continues = piece.startswith(self._continuing)
            return piece.removeprefix(self._continuing) if continues else SPACE + piece
        if not self._is_of_bytes:
            return piece
        values = bytes(BYTE_OF_CHARACTER[character] for character in piece)
        try:
            return values.decode().replace(" ", SPACE)
        except UnicodeDecodeError:
            return "".join(f"<0x{value:02X}>" for value in values)

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

    def __init__(
        self,
        model: bytes,
        *,
        ids: Mapping[str, int] | None,
        special: Sequence[int],
        unknown_id: int,
        offset: int = 0,
    ):
        """Args:
        model: serialised.
        ids: piece -> id; None = those of the model.
        special: ids without text.
        unknown_id: of pieces that are not in the list.
        offset: what is added to the model's own ids, but for those of its control tokens.

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
        own = {
            self._processor.id_to_piece(index): index if self._processor.is_control(index) else index + offset
            for index in range(size)
        }
        self._ids = dict(own if ids is None else ids)
        self._pieces = {index: piece for piece, index in self._ids.items()}
        self._special = frozenset(special)
        self.unknown_id = unknown_id

    @property
    def num_ids(self) -> int:
        return max(self._pieces) + 1

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


class Chosen(Codec):
    """Some of the ids of another codec, numbered anew."""

    def __init__(self, codec: Codec, ids: Sequence[int], *, unknown_id: int | None):
        """Args:
        ids: new id -> id of the codec, or -1 for one that stands for nothing.
        unknown_id: the codec's id of what it has no piece for.
        """
        self._codec = codec
        self._old = list(ids)
        self._new = {old: new for new, old in enumerate(ids) if old >= 0}
        self.unknown_id = self._new.get(unknown_id)
        self._spelled: dict[int, tuple[int, ...]] = {}

    @property
    def num_ids(self) -> int:
        return len(self._old)

    @functools.cached_property
    def _speller(self) -> Speller:
        return Speller([self.spelling(token) for token in range(len(self._old))])

    def _without_piece(self, old: int) -> tuple[int, ...]:
        """What stands for an id that was not chosen: pieces that spell it, or the unknown one."""
        if old not in self._spelled:
            found = self._speller.spell(self._codec.spelling(old))
            self._spelled[old] = found or (() if self.unknown_id is None else (self.unknown_id,))
        return self._spelled[old]

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [
            [new for old in ids for new in ((self._new[old],) if old in self._new else self._without_piece(old))]
            for ids in self._codec.encode(texts)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return self._codec.decode([self._old[token] for token in ids if self._old[token] >= 0])

    def piece(self, token: int) -> str:
        return f"<{token}>" if self._old[token] < 0 else self._codec.piece(self._old[token])

    def token(self, piece: str) -> int | None:
        found = self._codec.token(piece)
        return None if found is None else self._new.get(found)

    def spelling(self, token: int) -> str:
        return "" if self._old[token] < 0 else self._codec.spelling(self._old[token])


class ImportedTokenizer(Tokenizer):
    """The tokenizer of another project's model. Every encoded example ends in the EOS token."""

    def __init__(self, description: Mapping[str, Any], files: Mapping[str, bytes]):
        """Args:
        description: JSON values: `vocabulary`, and for each side `kind`, `first` (ids that begin a text) and what the
            kind needs; and `rows` where the ids are some of those of the files (new id -> id there, or -1).
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
        if "rows" in description:
            self._codecs = {
                side: Chosen(codec, description["rows"], unknown_id=codec.unknown_id)
                for side, codec in self._codecs.items()
            }

    def __reduce__(self):
        return type(self), (self._description, self._files)

    def _codec(self, facts: Mapping[str, Any]) -> Codec:
        if facts["kind"] == "characters":
            return Characters(facts["characters"], num_special=facts["num_special"], unknown_id=facts["unknown_id"])
        if facts["kind"] == "words":
            return Words(facts["words"], num_special=facts["num_special"], unknown_id=facts["unknown_id"])
        if facts["kind"] == "bytes":
            return Bytes(num_special=facts["num_special"])
        for name in ("file", "ids_file"):
            if facts.get(name) is not None and facts[name] not in self._files:
                raise ValueError(f"expected the tokenizer's file {facts[name]}; there is none: restore it")
        if facts["kind"] == "tokenizers":
            return TokenizerJson(self._files[facts["file"]])
        ids = None if facts.get("ids_file") is None else json.loads(self._files[facts["ids_file"]])
        return SentencePieceIds(
            self._files[facts["file"]],
            ids=ids,
            special=facts["special"],
            unknown_id=facts["unknown_id"],
            offset=facts.get("offset", 0),
        )

    def with_vocabulary(self, vocabulary: Vocabulary) -> "ImportedTokenizer":
        """The same files with other sizes or special ids."""
        description = self._description | {"vocabulary": dataclasses.asdict(vocabulary)}
        return ImportedTokenizer(description, self._files)

    def with_rows(self, rows: Sequence[int]) -> "ImportedTokenizer":
        """The same files with some of their ids, numbered anew; both sides must share them.

        Args:
            rows: new id -> id of this tokenizer, or -1 for one that stands for nothing.
        """
        assert "rows" not in self._description and self._vocabulary.joint
        new = {old: index for index, old in enumerate(rows) if old >= 0}
        found = self._vocabulary
        vocabulary = dataclasses.replace(
            found,
            source_size=len(rows),
            target_size=len(rows),
            pad_id=new[found.pad_id],
            bos_id=new[found.bos_id],
            eos_id=new[found.eos_id],
            source_eos_id=None if found.source_eos_id is None else new[found.source_eos_id],
            sentinel_ids=tuple(new[token] for token in found.sentinel_ids),
            never_ids=(
                *(new[token] for token in found.never_ids if token in new),
                *(index for index, old in enumerate(rows) if old < 0),
            ),
            first_ids=tuple(new[token] for token in found.first_ids),
        )
        sides = {
            side: self._description[side]
            | {name: [new[token] for token in tokens] for name, tokens in self._around(side).items()}
            for side in SIDES
        }
        description = self._description | sides | {"vocabulary": dataclasses.asdict(vocabulary), "rows": list(rows)}
        return ImportedTokenizer(description, self._files)

    def always_needed(self) -> set[int]:
        """Ids that a choice of some has to hold: special ones, and bytes."""
        found = self._vocabulary
        special = {found.pad_id, found.bos_id, found.eos_id, found.source_eos_id, *found.sentinel_ids, *found.first_ids}
        special |= {token for side in SIDES for tokens in self._around(side).values() for token in tokens}
        special |= {codec.unknown_id for codec in self._codecs.values()}
        bytes_of = {
            token
            for token, text in enumerate(self.spellings("target"))
            if BYTE_PIECE.fullmatch(text) or text == SPACE or (len(text) == 1 and text.isascii())
        }
        return {token for token in special if token is not None} | bytes_of

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

    def num_ids(self, side: Literal["source", "target"]) -> int:
        """See `Codec.num_ids`; the vocabulary of a model may be larger."""
        return self._codecs[side].num_ids

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

    def describe_pieces(self, side: Literal["source", "target"]) -> Described:
        raise ValueError(
            "data.augmentation takes texts apart into words and pieces, which is not built for the tokenizers of other "
            "projects: leave its noise, bpe_dropout and unigram_sampling out, or train a tokenizer (--tokenizer.kind)."
        )

    def _around(self, side: str) -> dict[str, list[int]]:
        """Ids before a text, and those between it and the one that ends its side."""
        return {name: self._description[side].get(name, []) for name in ("first", "last")}

    def _encode(self, side: str, texts: list[str]) -> list[list[int]]:
        around, end = self._around(side), self._vocabulary.end_id(side)
        return [[*around["first"], *ids, *around["last"], end] for ids in self._codecs[side].encode(texts)]

    def encode_source(self, texts: list[str]) -> list[list[int]]:
        return self._encode("source", texts)

    def encode_target(self, texts: list[str]) -> list[list[int]]:
        return self._encode("target", texts)

    def encode_documents(self, texts: list[str]) -> list[list[int]]:
        return self._codecs["source"].encode(texts)

    def _decode(self, side: str, ids: Sequence[int]) -> str:
        vocabulary = self._vocabulary
        before_end = itertools.takewhile(lambda token: token != vocabulary.end_id(side), map(int, ids))
        silent = {vocabulary.pad_id, vocabulary.bos_id}.union(*self._around(side).values())
        return self._codecs[side].decode([token for token in before_end if token not in silent])

    def decode_source(self, ids: Sequence[int]) -> str:
        return self._decode("source", ids)

    def decode_target(self, ids: Sequence[int]) -> str:
        return self._decode("target", ids)

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._codecs["source"].piece(int(token)) for token in ids]

    def target_pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._codecs["target"].piece(int(token)) for token in ids]

    def source_id(self, piece: str) -> int | None:
        return self._codecs["source"].token(piece)

    def target_id(self, piece: str) -> int | None:
        return self._codecs["target"].token(piece)

    def spellings(self, side: Literal["source", "target"]) -> list[str]:
        return [self._codecs[side].spelling(token) for token in range(getattr(self._vocabulary, f"{side}_size"))]


def _fingerprint(description: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(files):
        digest.update(name.encode() + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()
