"""Text to token ids and back: one SentencePiece model for both sides, or one per side."""

import dataclasses
import hashlib
import io
import itertools
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import sentencepiece
from jaxtyping import Bool
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.files import write_whole
from seq2seq_jax.values import check_values

logger = logging.getLogger(__name__)

PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID = range(4)
NUM_BYTES = 256
SENTINEL = "<extra_id_{}>"
SPACE = "▁"
"""How SentencePiece writes a space in pieces."""
UNKNOWN = "▅"
"""What SentencePiece keeps to itself while it trains: it leaves out every line that has one."""
STAND_IN = "\U0010fffd"
"""A character for private use, in its place."""
# SentencePiece holds its training text in memory. Of more text than this it draws a sample of this many sentences,
# always the same: the sample's seed is a constant of the library.
MAX_TRAINING_SENTENCES = 4_000_000
# SentencePiece records its number of threads in the model, and unigram's sums depend on it: never the machine's own.
TRAINING_THREADS = 16

VOCABULARY_SIZES = (500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
"""What a vocabulary that follows the data is chosen from."""
MOST_COUNTED = 32_000_000
"""Characters of training text from which on the largest of them is chosen."""

LEAST_COVERAGE = 0.98
"""Of characters that SentencePiece takes."""

Kind = Literal["bpe", "unigram", "char", "words", "imported"]
IMPORTED = "imported"
"""Kind of a tokenizer of another project, which comes with an imported run."""
SENTENCEPIECE_KINDS = {"words": "word"}
"""Kinds that SentencePiece calls otherwise."""
BOUNDED_KINDS = ("char", "words")
"""Kinds that have as many pieces as the text, of which vocabulary_size is an upper bound."""
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""A piece that stands for a byte."""
CONTROL_PIECES = ("<pad>", "<unk>", "<s>", "</s>")
HELD = 8_000_000
"""Characters of training text that are kept to train once more where a vocabulary was too large for it."""

JOINT_FILE = "tokenizer.model"
SOURCE_FILE = "tokenizer.source.model"
TARGET_FILE = "tokenizer.target.model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text is cut into tokens. Runs of spaces become one, and those at the ends are dropped."""

    kind: Kind = "bpe"
    """Byte-pair merges, a unigram language model's pieces, single characters, or whole words, as spaces divide them
    (phonemes, slots, digits). imported: that of the run that training starts from, which was imported from another
    project; no other field has an effect."""
    vocabulary_size: int | None = 8000
    """Ids of each model, the four special ids and the 256 bytes counted; lowered, with a message, to as many as the
    text has pieces for. An upper bound for "char" and "words", where the most frequent ones are kept. None = it follows
    the amount of training text, 500 to 32,000."""
    joint: bool = True
    """One model, trained on both sides, so that source and target share their ids; otherwise one model per side."""
    target_kind: Kind | None = None
    """Kind of the target's own model, without joint; None = the same as the source's."""
    target_vocabulary_size: int | None = None
    """Ids of the target's own model, without joint; None = vocabulary_size."""
    special_tokens: tuple[str, ...] = ()
    """Pieces that text can spell and that are never divided, such as <user>, [state]; part of vocabulary_size."""
    byte_fallback: bool = True
    """A character without a piece becomes its UTF-8 bytes, so that any text survives. Otherwise it is unknown."""
    character_coverage: float = 1.0
    """Share of the training text's characters that get a piece, in [0.98, 1]; the rarest go without."""
    normalization: Literal["identity", "nfkc"] = "identity"
    """What happens to text first: nothing, or Unicode's NFKC, after which no output has full-width punctuation,
    fractions or superscripts ("，½²" is ",1⁄22")."""
    num_sentinels: int = 0
    """Sentinels <extra_id_0>, <extra_id_1>, ... (T5 has 100), pieces that text can spell; part of vocabulary_size."""
    training_examples: int | None = None
    """Training examples, from the first, that it is trained on; None = all."""

    def __post_init__(self):
        check_values(self, "tokenizer")
        if self.kind == IMPORTED:
            changed = [
                field.name
                for field in dataclasses.fields(self)
                if field.name != "kind" and getattr(self, field.name) != field.default
            ]
            if changed:
                raise ValueError(
                    f"{changed[0]} has no effect with kind = imported: the files of the other project say it all"
                )
        if self.target_kind == IMPORTED:
            raise ValueError("target_kind cannot be imported: an imported tokenizer has both sides")
        smallest = self.smallest
        if self.vocabulary_size is not None and self.vocabulary_size < smallest:
            bytes_counted = " and the 256 bytes of byte_fallback" if self.byte_fallback else ""
            bytes_counted += f" and {self.num_sentinels} sentinels" if self.num_sentinels else ""
            bytes_counted += f" and {len(self.special_tokens)} special tokens" if self.special_tokens else ""
            raise ValueError(
                f"vocabulary_size is {self.vocabulary_size}, which leaves no piece beside the four special ids"
                f"{bytes_counted}: set it to at least {smallest}"
            )
        if not LEAST_COVERAGE <= self.character_coverage <= 1:
            raise ValueError(
                f"character_coverage is {self.character_coverage}: set it to at least {LEAST_COVERAGE} and at most 1, "
                "such as 0.9995"
            )
        if self.joint and (self.target_kind is not None or self.target_vocabulary_size is not None):
            raise ValueError(
                "target_kind and target_vocabulary_size are those of the target's own model, and joint is True: set "
                "joint to False"
            )
        if self.target_vocabulary_size is not None and self.target_vocabulary_size < smallest:
            raise ValueError(
                f"target_vocabulary_size is {self.target_vocabulary_size}: set it to at least {smallest}, or to None"
            )
        _check_special_tokens(self.special_tokens)
        if self.num_sentinels < 0:
            raise ValueError(f"num_sentinels is {self.num_sentinels}: set it to 0 or more")
        if self.training_examples is not None and self.training_examples < 1:
            raise ValueError(f"training_examples is {self.training_examples}: set it to at least 1, or to None for all")

    @property
    def smallest(self) -> int:
        """The least ids that a model has: the special ones, bytes, sentinels, and one piece."""
        return EOS_ID + 2 + NUM_BYTES * self.byte_fallback + self.num_sentinels + len(self.special_tokens)

    @property
    def of_target(self) -> "TokenizerConfig":
        """The settings of the target's own model."""
        return dataclasses.replace(
            self,
            kind=self.target_kind or self.kind,
            vocabulary_size=self.target_vocabulary_size or self.vocabulary_size,
            target_kind=None,
            target_vocabulary_size=None,
        )


def _check_special_tokens(tokens: Sequence[str]) -> None:
    for token in tokens:
        if re.search(r"\s", token) or SPACE in token or UNKNOWN in token:
            raise ValueError(f"a special token has no spaces, and one is {token!r}: rename it")
        if token in CONTROL_PIECES or BYTE_PIECE.fullmatch(token) or re.fullmatch(r"<extra_id_\d+>", token):
            raise ValueError(f"{token} is a piece of every tokenizer, and cannot be a special token: rename it")
        if tokens.count(token) > 1:
            raise ValueError(f"special_tokens has {token} {tokens.count(token)} times: give each once")


class TooFewPieces(ValueError):
    """A text has fewer pieces than a vocabulary has ids.

    Attributes:
        available: ids that it admits.
    """

    def __init__(self, message: str, *, available: int):
        super().__init__(message)
        self.available = available


class TooManyCharacters(ValueError):
    """The characters of a text are more than a vocabulary has ids for.

    Attributes:
        required: ids that they need.
    """

    def __init__(self, message: str, *, required: int):
        super().__init__(message)
        self.required = required


class Described(NamedTuple):
    """What the ids of one side stand for."""

    texts: list[str]
    """The piece of each id, as `source_pieces` writes it."""
    scores: list[float]
    """Of each id: the logarithm of its probability, or what orders merges."""
    is_special: Bool[np.ndarray, " ids"]
    """Ids that stand for no text: control tokens, sentinels and special tokens."""
    unknown_id: int
    """The id of characters that no piece has."""


class Tokenizer:
    """A trained tokenizer. Every encoded example ends in the EOS token, so the empty text has one token."""

    def __init__(self, source_model: bytes, target_model: bytes | None = None):
        """Wrap serialised SentencePiece models.

        Args:
            source_model: the model of both sides, or of the source.
            target_model: the target's own model; None = joint.

        Raises:
            ValueError: a model cannot be read, or has other special ids than padding 0, unknown 1, start 2, end 3.
        """
        self._models = (source_model,) if target_model is None else (source_model, target_model)
        codecs = [_Codec(model) for model in self._models]
        self._source, self._target = codecs[0], codecs[-1]

    @classmethod
    def train(cls, examples: Iterable[tuple[str, ...]], config: TokenizerConfig) -> "Tokenizer":
        """Train on the training split, (source, target) texts or documents; the same text gives the same tokenizer.

        Args:
            examples: the texts of each; two where each side has a model of its own.

        Returns:
            The tokenizer.

        Raises:
            ValueError: there is no text, or it does not admit `vocabulary_size`; the message says what it admits.
        """
        if config.kind == IMPORTED:
            raise ValueError(
                "tokenizer.kind = imported is that of an imported run: start from one with --init-from, or choose bpe, "
                "unigram, char or words"
            )
        examples = itertools.islice(examples, config.training_examples)
        if config.vocabulary_size is None:
            examples, num_characters = _counted(examples, MOST_COUNTED)
            config = dataclasses.replace(config, vocabulary_size=size_for(num_characters, config))
            try:
                tokenizer = cls._of_examples(examples, config, is_exact=False)
            except TooManyCharacters as error:
                if not isinstance(examples, list):
                    raise
                # A script of thousands of characters: each has its piece, and the others come on top.
                config = dataclasses.replace(config, vocabulary_size=error.required + config.vocabulary_size)
                tokenizer = cls._of_examples(examples, config, is_exact=False)
            sizes = tokenizer.vocabulary
            logger.info(
                "The vocabulary has %s ids, as many as suit %s characters of training text; "
                "tokenizer.vocabulary_size sets another number.",
                f"{sizes.source_size:,}" if sizes.joint else f"{sizes.source_size:,} and {sizes.target_size:,}",
                f"{num_characters:,}" if num_characters < MOST_COUNTED else f"more than {MOST_COUNTED:,}",
            )
            return tokenizer
        return cls._of_examples(examples, config, is_exact=True)

    @classmethod
    def _of_examples(
        cls, examples: Iterable[tuple[str, ...]], config: TokenizerConfig, *, is_exact: bool
    ) -> "Tokenizer":
        if config.joint:
            held, num_characters = _counted(examples, HELD)
            if num_characters >= HELD:
                return cls(_train(itertools.chain.from_iterable(held), config, "text", is_exact=is_exact))
            return cls(_train_lowered(list(itertools.chain.from_iterable(held)), config, "text", is_exact=is_exact))
        sources, targets = [], []
        for source, target in examples:
            sources.append(source)
            targets.append(target)
        return cls(
            _train_lowered(sources, config, "source text", is_exact=is_exact),
            _train_lowered(targets, config.of_target, "target text", is_exact=is_exact),
        )

    def __reduce__(self):
        return type(self), self._models

    def describe_pieces(self, side: Literal["source", "target"]) -> Described:
        """What the ids of one side stand for."""
        pieces = ModelProto.FromString(self._models[0 if side == "source" else -1]).pieces
        special = (ModelProto.SentencePiece.CONTROL, ModelProto.SentencePiece.USER_DEFINED)
        return Described(
            [piece.piece for piece in pieces],
            [piece.score for piece in pieces],
            np.array([piece.type in special for piece in pieces]),
            UNKNOWN_ID,
        )

    def save(self, directory: str | os.PathLike) -> None:
        """Write `tokenizer.model`, or `tokenizer.source.model` and `tokenizer.target.model`, each whole or not."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        names = (JOINT_FILE,) if len(self._models) == 1 else (SOURCE_FILE, TARGET_FILE)
        for name, model in zip(names, self._models, strict=True):
            write_whole(directory / name, model)

    @classmethod
    def load(cls, directory: str | os.PathLike, *, fingerprint: str | None = None) -> "Tokenizer":
        """The tokenizer that `save` wrote to a directory.

        Args:
            fingerprint: that it must have; None = any.

        Raises:
            ValueError: there is none, it cannot be read, or it is another one.
        """
        directory = pathlib.Path(directory)
        if (directory / "tokenizer.imported.json").is_file():
            from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer

            return ImportedTokenizer.load(directory, fingerprint=fingerprint)
        for names in ((JOINT_FILE,), (SOURCE_FILE, TARGET_FILE)):
            if all((directory / name).is_file() for name in names):
                models = [(directory / name).read_bytes() for name in names]
                # Compared before SentencePiece reads it, which can end the process on a damaged model.
                if fingerprint is not None and _fingerprint(models) != fingerprint:
                    raise damaged_tokenizer(" or ".join(names), directory)
                return cls(*models)
        raise ValueError(
            f"no tokenizer in {directory}: expected {JOINT_FILE}, or {SOURCE_FILE} and {TARGET_FILE}; train one first"
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """Sizes and special ids, as a model needs them."""
        return Vocabulary(
            source_size=self._source.size,
            target_size=self._target.size,
            joint=len(self._models) == 1,
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            sentinel_ids=tuple(self._sentinel_ids()),
        )

    def _sentinel_ids(self) -> Iterator[int]:
        for number in itertools.count():
            token = self._source.piece_to_id(SENTINEL.format(number))
            if token == UNKNOWN_ID:
                return
            yield token

    @property
    def unknown_id(self) -> int | None:
        """The target id of characters that no piece has; None = there are none."""
        return UNKNOWN_ID

    @property
    def fingerprint(self) -> str:
        """Hex digest: equal fingerprints encode every text alike."""
        return _fingerprint(self._models)

    def encode_source(self, texts: list[str]) -> list[list[int]]:
        """Ids of each source text, ending in the EOS token; on all cores, without holding the interpreter."""
        return self._source.encode(texts, add_eos=True)

    def encode_target(self, texts: list[str]) -> list[list[int]]:
        """Ids of each target text, ending in the EOS token; on all cores, without holding the interpreter."""
        return self._target.encode(texts, add_eos=True)

    def encode_documents(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text without an EOS token, as in a source; on all cores, without holding the interpreter."""
        return self._source.encode(texts, add_eos=False)

    def decode_source(self, ids: Sequence[int]) -> str:
        """The text of source ids up to the first EOS token; padding and BOS tokens are skipped."""
        return self._source.decode(ids)

    def decode_target(self, ids: Sequence[int]) -> str:
        """The text of target ids up to the first EOS token; padding and BOS tokens are skipped."""
        return self._target.decode(ids)

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        """What each source id stands for: "▁" is a space, <0xC3> a byte, </s> the EOS token."""
        return self._source.pieces(ids)

    def source_id(self, piece: str) -> int | None:
        """The id of a piece of sources, as `source_pieces` writes it; None = there is no such piece."""
        return self._source.id_of(piece)

    def target_id(self, piece: str) -> int | None:
        """The id of a piece of targets, as `target_pieces` writes it; None = there is no such piece."""
        return self._target.id_of(piece)

    def target_pieces(self, ids: Sequence[int]) -> list[str]:
        """What each target id stands for, as in `source_pieces`."""
        return self._target.pieces(ids)

    def spellings(self, side: Literal["source", "target"]) -> list[str]:
        """The text of each id of a side as all tokenizers write it here: "▁" is a space, <0xC3> a byte."""
        size = getattr(self.vocabulary, f"{side}_size")
        return (self.source_pieces if side == "source" else self.target_pieces)(range(size))


def damaged_tokenizer(files: str, directory: pathlib.Path) -> ValueError:
    """What is raised where files are not those of a run."""
    return ValueError(
        f"{files} in {directory} was changed or damaged: it is not the tokenizer that the run was trained with. "
        "Restore it from a backup, or from a run with the same tokenizer."
    )


def _fingerprint(models: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(model).digest() for model in models)).hexdigest()


class _Codec:
    """A SentencePiece model at work.

    SentencePiece writes a space as "▁" (U+2581), so that it takes that character in a text for a space. Where text
    stays as it is, the character becomes its bytes here; and where no piece has a "▁", a space its own byte, which
    would be those of "▁" otherwise. Models that normalise text are as SentencePiece has them.
    """

    def __init__(self, model: bytes):
        self._processor = _processor(model)
        proto = ModelProto.FromString(model)
        self._is_exact = proto.normalizer_spec.name == "identity"
        self._has_space = self._processor.piece_to_id(SPACE) != UNKNOWN_ID
        self._has_words = proto.trainer_spec.model_type == TrainerSpec.WORD
        self.size = self._processor.get_piece_size()
        self.piece_to_id = self._processor.piece_to_id

    def encode(self, texts: list[str], *, add_eos: bool) -> list[list[int]]:
        spelt, space = self._bytes(SPACE), self._bytes(" ")
        if not self._is_exact:
            encoded = self._processor.encode(texts, add_eos=add_eos)
            return [_replaced(ids, spelt, space) for ids in encoded] if self._has_words else encoded
        stand_ins = {index: self._stand_in(text) for index, text in enumerate(texts) if SPACE in text}
        if stand_ins:
            texts = list(texts)
            for index, stand_in in stand_ins.items():
                texts[index] = texts[index].replace(SPACE, stand_in)
        encoded = self._processor.encode(texts, add_eos=add_eos)
        if not self._has_space:
            encoded = [
                # A word that has no piece is spelt with the space before it, at the beginning, too.
                _replaced(ids, spelt, space) if self._has_words or " " in text else ids
                for text, ids in zip(texts, encoded, strict=True)
            ]
        for index, stand_in in stand_ins.items():
            encoded[index] = _replaced(encoded[index], self._bytes(stand_in), self._bytes(SPACE))
        return encoded

    def _stand_in(self, text: str) -> str:
        """A private character that neither the text nor any piece has, so that it is spelt in bytes (or unknown)."""
        candidates = map(chr, range(ord(STAND_IN), 0, -1))
        return next(
            character
            for character in candidates
            if character not in text and self._processor.piece_to_id(character) == UNKNOWN_ID
        )

    def _bytes(self, text: str) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        # SentencePiece itself gives padding and BOS tokens no text.
        text = self._processor.decode(list(itertools.takewhile(lambda token: token != EOS_ID, map(int, ids))))
        return text.removeprefix(" ") if self._has_words else text

    def id_of(self, piece: str) -> int | None:
        found = self.piece_to_id(piece)
        return found if self.pieces([found]) == [piece] else None

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._processor.id_to_piece(int(token)) for token in ids]


def _replaced(ids: list[int], old: list[int], new: list[int]) -> list[int]:
    """Ids in which one sequence stands for another; unchanged where the model has no bytes."""
    if UNKNOWN_ID in old:
        return ids
    result, index = [], 0
    while index < len(ids):
        found = ids[index : index + len(old)] == old
        result += new if found else ids[index : index + 1]
        index += len(old) if found else 1
    return result


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except RuntimeError as error:
        raise ValueError("not a SentencePiece model, or a damaged one: train the tokenizer again") from error
    found = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    expected = (PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID)
    if found != expected:
        raise ValueError(
            f"expected a SentencePiece model whose padding, unknown, start and EOS tokens are {expected}, got {found}: "
            f"train the tokenizer again"
        )
    return processor


def _counted(examples: Iterable[tuple[str, ...]], most: int) -> tuple[Iterable[tuple[str, ...]], int]:
    """The examples again, and their characters, counted up to `most`; what comes after that is not held in memory."""
    remaining, held, count = iter(examples), [], 0
    for example in remaining:
        held.append(example)
        count += sum(map(len, example))
        if count >= most:
            return itertools.chain(held, remaining), most
    return held, count


def size_for(num_characters: int, config: TokenizerConfig) -> int:
    """The vocabulary for so much training text: the one of VOCABULARY_SIZES that is nearest to 4 √characters.

    That is 8,000 for Multi30k, 2,000 for 2,000 pairs of sentences, and 32,000 from some 270,000 pairs on. The bytes and
    sentinels come on top where there is little text.
    """
    if config.kind in BOUNDED_KINDS:
        # An upper bound: as many as there are characters or words.
        return VOCABULARY_SIZES[-1]
    wanted = max(1.0, 4.0 * math.sqrt(num_characters))
    nearest = min(VOCABULARY_SIZES, key=lambda size: abs(math.log(size / wanted)))
    return max(nearest, config.smallest + VOCABULARY_SIZES[0])


def _train_lowered(texts: list[str], config: TokenizerConfig, what: str, *, is_exact: bool) -> bytes:
    """Like `_train`; a vocabulary that is too large for the texts is made as large as they admit."""
    try:
        return _train(texts, config, what, is_exact=is_exact)
    except TooFewPieces as error:
        lowered = dataclasses.replace(config, vocabulary_size=error.available)
        model = _train(texts, lowered, what, is_exact=is_exact)
        logger.warning(
            "The vocabulary has %s ids instead of the %s of tokenizer.vocabulary_size: the %s has no more pieces.",
            f"{error.available:,}", f"{config.vocabulary_size:,}", what,
        )  # fmt: skip
        return model


def _train(texts: Iterable[str], config: TokenizerConfig, what: str, *, is_exact: bool) -> bytes:
    """A serialised SentencePiece model of the texts.

    Args:
        what: names them in errors.
        is_exact: whether it must have `vocabulary_size` pieces; otherwise it has fewer where the text has no more.
    """
    model = io.BytesIO()
    has_unknown = False

    def prepared() -> Iterator[str]:
        nonlocal has_unknown
        for text in texts:
            if UNKNOWN in text:
                has_unknown = True
                text = text.replace(UNKNOWN, STAND_IN)
            yield text

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=prepared(),
            model_writer=model,
            model_type=SENTENCEPIECE_KINDS.get(config.kind, config.kind),
            vocab_size=config.vocabulary_size,
            hard_vocab_limit=is_exact and config.kind not in BOUNDED_KINDS,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            # Never SentencePiece's own default, which is NFKC but also drops the joiners and direction marks that
            # Persian, Indic and Hebrew text is spelt with.
            normalization_rule_name=config.normalization,
            # A word at the start is the same piece as in the middle; a character is so without help.
            add_dummy_prefix=config.kind != "char",
            input_sentence_size=MAX_TRAINING_SENTENCES,
            shuffle_input_sentence=True,
            # The library's default would silently leave out documents of more than 4,192 bytes.
            max_sentence_length=2**30,
            num_threads=TRAINING_THREADS,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            user_defined_symbols=[
                *(SENTINEL.format(number) for number in range(config.num_sentinels)),
                *config.special_tokens,
            ],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), config, what) from error
    return _with_unknown(model.getvalue()) if has_unknown else model.getvalue()


def _with_unknown(model: bytes) -> bytes:
    """A model with the character for which `STAND_IN` stood while it was trained."""
    proto = ModelProto.FromString(model)
    for piece in proto.pieces:
        piece.piece = piece.piece.replace(STAND_IN, UNKNOWN)
    return proto.SerializeToString()


def _training_error(message: str, config: TokenizerConfig, what: str) -> Exception:
    """SentencePiece's message as one line that says which number to use."""
    if "sentences_.empty()" in message:
        return ValueError(f"there is no {what} to train a tokenizer on: expected a training split that is not empty")
    if required := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        coverage = " or lower character_coverage" if config.character_coverage == 1 else ""
        return TooManyCharacters(
            f"vocabulary_size is {config.vocabulary_size}, too small for the characters of the {what}: "
            f"set it to at least {required[1]}{coverage}",
            required=int(required[1]),
        )
    if largest := re.search(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        return TooFewPieces(
            f"vocabulary_size is {config.vocabulary_size}, more than the {what} has pieces for: "
            f"set it to at most {largest[1]}",
            available=int(largest[1]),
        )
    return RuntimeError(f"SentencePiece failed on the {what}: {message}")
