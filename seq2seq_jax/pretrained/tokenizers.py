"""The tokenizer that lies beside a checkpoint of another project, with its files unchanged."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.imported_tokenizer import ImportedTokenizer, TokenizerJson
from seq2seq_jax.data.tokenizer import JOINT_FILE, Tokenizer
from seq2seq_jax.pretrained.checkpoint import CONFIG_FILE, Checkpoint, read_json

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "source.spm")
VOCABULARY_FILE = "vocab.json"
LLAMA_MODEL = "tokenizer.model"
"""SentencePiece model of decoders, beside which no list of ids stands."""
SPECIAL_CHARACTERS = 4
"""Placeholders before the characters in a config: padding, start, end, unknown."""
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
OF_BYTES = "ByT5Tokenizer"
"""Class of transformers whose tokenizers need no file."""
SPECIAL_BEFORE_BYTES = 3
"""Ids before the first byte there: pad, EOS and unknown token."""


def read_tokenizer(
    checkpoint: Checkpoint, *, source_language: str | None = None, target_language: str | None = None
) -> Tokenizer:
    """The tokenizer of an encoder–decoder.

    Args:
        source_language: the token that begins sources, such as eng_Latn, or ends them (mBART's of 25 languages); None =
            what the files say.
        target_language: the token that begins targets.

    Raises:
        ValueError: there is none that is known, or it has more ids than the model.
    """
    directory, vocabulary = checkpoint.directory, checkpoint.vocabulary
    if (directory / JOINT_FILE).is_file() and not (directory / TOKENIZER_JSON).is_file():
        # Of this project, with its own special ids; beside tokenizer.json it is that of a Gemma.
        tokenizer = Tokenizer.load(directory)
    elif "grapheme_chars" in checkpoint.config and "phoneme_chars" in checkpoint.config:
        tokenizer = _of_characters(checkpoint, vocabulary)
    elif "graphemes" in checkpoint.config and "phonemes" in checkpoint.config:
        tokenizer = _of_letters_and_phonemes(checkpoint, vocabulary)
    elif (directory / TOKENIZER_JSON).is_file():
        has_frames = checkpoint.described.model.get("front_end") is not None
        of_json = _of_frames if has_frames else _of_json
        tokenizer = of_json(directory, vocabulary, source_language, target_language)
    elif _tokenizer_class(checkpoint) == OF_BYTES:
        side = {"kind": "bytes", "num_special": SPECIAL_BEFORE_BYTES, "first": []}
        tokenizer = ImportedTokenizer(_described(vocabulary, {"source": side, "target": side}), {})
    else:
        tokenizer = _of_sentencepiece(checkpoint, vocabulary, source_language, target_language)
    for side in ("source", "target"):
        is_imported = isinstance(tokenizer, ImportedTokenizer)
        has = tokenizer.num_ids(side) if is_imported else getattr(tokenizer.vocabulary, f"{side}_size")
        _check_size(has, getattr(vocabulary, f"{side}_size"), directory)
    return tokenizer


def _check_size(has: int, size: int, directory: Path) -> None:
    if has > size:
        raise ValueError(
            f"the tokenizer in {directory} has {has:,} ids, and the model {size:,}. Give the tokenizer of this model."
        )


def _tokenizer_class(checkpoint: Checkpoint) -> object:
    path = checkpoint.directory / TOKENIZER_CONFIG
    return (read_json(path) if path.is_file() else checkpoint.config).get("tokenizer_class")


def read_pieces(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of any checkpoint, of which only the pieces and what special tokens are for count.

    Raises:
        ValueError: see `read_tokenizer`.
    """
    if checkpoint.family.part == "encoder_decoder":
        tokenizer = read_tokenizer(checkpoint)
    else:
        tokenizer = join_tokenizers(checkpoint, checkpoint)
    size = checkpoint.described.vocabulary_size
    source_size = checkpoint.described.source_vocabulary_size or size
    found = dataclasses.replace(tokenizer.vocabulary, source_size=source_size, target_size=size)
    return tokenizer.with_vocabulary(found) if isinstance(tokenizer, ImportedTokenizer) else tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Side:
    """The tokenizer of a part of a model.

    Attributes:
        facts: `kind`, `first` and what else its description has.
        files: content by name.
        first: ids before a text.
        bos_id, eos_id, pad_id: None = it has none.
    """

    facts: Mapping[str, Any]
    files: Mapping[str, bytes]
    first: tuple[int, ...]
    bos_id: int | None
    eos_id: int
    pad_id: int | None


def join_tokenizers(encoder: Checkpoint, decoder: Checkpoint, *, multiple: int = 1) -> ImportedTokenizer:
    """The tokenizer of an encoder for sources, and that of a decoder for targets; one for both if it is one model.

    The pad token of a decoder that has none of its own, such as GPT-2 (or whose config says -1, as the first Llama's),
    is the id behind those of its table.

    Args:
        multiple: of which the sizes of the vocabulary shall be one.

    Raises:
        ValueError: one is missing or of another kind.
    """
    source, target = _side(encoder, "source"), _side(decoder, "target")
    pad = target.pad_id
    if pad is None or pad < 0 or pad == target.eos_id:
        pad = decoder.described.vocabulary_size
    bos = target.eos_id if target.bos_id is None else target.bos_id
    sizes = encoder.described.vocabulary_size, max(decoder.described.vocabulary_size, pad + 1)
    source_size, target_size = (-(-size // multiple) * multiple for size in sizes)
    vocabulary = Vocabulary(
        source_size=source_size,
        target_size=target_size,
        joint=encoder is decoder,
        pad_id=pad,
        bos_id=bos,
        eos_id=target.eos_id,
        source_eos_id=None if source.eos_id == target.eos_id else source.eos_id,
        never_ids=tuple(range(decoder.described.vocabulary_size, target_size)),
    )
    sides = {
        # Labels begin with the text: what comes before it is the decoder's first input.
        "source": {**source.facts, "first": list(source.first)},
        "target": {**target.facts, "first": []},
    }
    tokenizer = ImportedTokenizer(_described(vocabulary, sides), {**source.files, **target.files})
    for side, checkpoint in (("source", encoder), ("target", decoder)):
        _check_size(tokenizer.num_ids(side), checkpoint.described.vocabulary_size, checkpoint.directory)
    return tokenizer


def _side(checkpoint: Checkpoint, side: str) -> _Side:
    """The tokenizer of an encoder or a decoder."""
    directory, values = checkpoint.directory, checkpoint.described.values

    def one(name: str) -> int | None:
        value = values.get(name)
        return value[0] if isinstance(value, list) and value else value

    if (directory / TOKENIZER_JSON).is_file():
        content = _content(directory / TOKENIZER_JSON)
        before, behind = TokenizerJson(content).template()
        eos = behind[0] if len(behind) == 1 else one("eos_token_id")
        if eos is None or len(behind) > 1:
            raise ValueError(
                f"{directory / TOKENIZER_JSON} ends texts with the ids {behind}, and config.json has no eos_token_id; "
                "expected one token that ends texts. Correct either."
            )
        name = f"{side}.{TOKENIZER_JSON}"
        bos = before[0] if before else one("bos_token_id")
        facts: dict[str, Any] = {"kind": "tokenizers", "file": name}
        files = {name: content}
    elif (directory / LLAMA_MODEL).is_file():
        name = f"{side}.{LLAMA_MODEL}"
        bos, eos, before = one("bos_token_id"), one("eos_token_id"), []
        if bos is None or eos is None:
            raise ValueError(f"{directory / CONFIG_FILE} lacks bos_token_id or eos_token_id. Add them.")
        facts = {"kind": "sentencepiece", "file": name, "ids_file": None, "special": [bos, eos], "unknown_id": 0}
        files = {name: _content(directory / LLAMA_MODEL)}
    else:
        raise ValueError(f"{directory} has no tokenizer that is known: expected {TOKENIZER_JSON}. Copy it, too.")
    return _Side(facts=facts, files=files, first=tuple(before), bos_id=bos, eos_id=eos, pad_id=one("pad_token_id"))


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


def _of_letters_and_phonemes(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Tokenizer:
    """That of g2p-en, whose lists begin with pad, unknown and EOS token, and pad, unknown, BOS and EOS token."""
    unknown, letters, phonemes = 1, checkpoint.config["graphemes"], checkpoint.config["phonemes"]
    vocabulary = dataclasses.replace(vocabulary, never_ids=(unknown,))
    before = [letter if len(letter) == 1 else "\0" for letter in letters]
    sides = {
        "source": {
            "kind": "characters",
            "characters": "".join(before),
            "num_special": 3,
            "unknown_id": unknown,
            "first": [],
        },
        "target": {"kind": "words", "words": phonemes, "num_special": 4, "unknown_id": unknown, "first": []},
    }
    return ImportedTokenizer(_described(vocabulary, sides), {})


def _of_json(directory: Path, vocabulary: Vocabulary, source: str | None, target: str | None) -> Tokenizer:
    content = (directory / TOKENIZER_JSON).read_bytes()
    codec = TokenizerJson(content)
    before, behind = codec.template()
    eos = vocabulary.eos_id
    has_language_behind = behind[:1] == [eos] and len(behind) == 2
    if source is not None:
        language = _language(codec.token(source), source, directory)
        before, behind = ([], [eos, language]) if has_language_behind else ([language], [eos])
    if behind != [eos] and not has_language_behind:
        raise ValueError(
            f"{directory / TOKENIZER_JSON} ends texts with the ids {behind}, and the model's EOS token is "
            f"{eos}: sources that end otherwise are not built. --source_language may say how they begin."
        )
    # A text's own first tokens come back as labels where the model is made to generate them.
    first = vocabulary.first_ids
    start = None if target is None else _language(codec.token(target), target, directory)
    if has_language_behind:
        # mBART's of 25 languages, whose decoder starts with the target's.
        bos = vocabulary.bos_id if start is None else start
        vocabulary = dataclasses.replace(vocabulary, source_eos_id=behind[1], bos_id=bos)
    elif start is not None:
        first = (start,)
    vocabulary = dataclasses.replace(vocabulary, first_ids=first)
    sides = {
        "source": {"kind": "tokenizers", "file": TOKENIZER_JSON, "first": before, "last": behind[:-1]},
        "target": {"kind": "tokenizers", "file": TOKENIZER_JSON, "first": list(first)},
    }
    return ImportedTokenizer(_described(vocabulary, sides), {TOKENIZER_JSON: content})


def _of_frames(directory: Path, vocabulary: Vocabulary, source: str | None, target: str | None) -> Tokenizer:
    """That of Whisper, whose targets begin with what its template has behind the decoder's start token: a language
    (--target_language '<|de|>') and the task in models of several languages, and that there are no timestamps.
    """
    if source is not None:
        raise ValueError("--source_language has no effect where sources are frames: leave it out.")
    content = _content(directory / TOKENIZER_JSON)
    codec = TokenizerJson(content)
    before, behind = codec.template()
    if before[:1] != [vocabulary.bos_id] or behind != [vocabulary.eos_id]:
        raise ValueError(
            f"{directory / TOKENIZER_JSON} begins texts with the ids {before} and ends them with {behind}; expected "
            f"that the first is the model's start token {vocabulary.bos_id}, and the last its EOS token "
            f"{vocabulary.eos_id}. Give the tokenizer of this model."
        )
    first = before[1:]
    if target is not None:
        task = codec.token("<|transcribe|>")
        first = [_language(codec.token(target), target, directory), *([] if task is None else [task]), *before[-1:]]
    vocabulary = dataclasses.replace(vocabulary, first_ids=tuple(first))
    sides = {
        "source": {"kind": "tokenizers", "file": TOKENIZER_JSON, "first": []},
        "target": {"kind": "tokenizers", "file": TOKENIZER_JSON, "first": first},
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
    offset = checkpoint.family.piece_offset if ids_file is None else 0
    unknown = ids.get("<unk>", 2 + offset if ids_file is None else 3)
    languages = _added_tokens(directory, ids)
    first: dict[str, list[int]] = {"source": [], "target": list(vocabulary.first_ids)}
    for side, language in (("source", source), ("target", target)):
        if language is not None:
            first[side] = [_language(languages.get(language), language, directory)]
    special = [*{vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id, unknown, *first["source"], *first["target"]}]
    vocabulary = dataclasses.replace(vocabulary, first_ids=tuple(first["target"]))
    described = {
        side: {
            "kind": "sentencepiece",
            "file": file,
            "ids_file": ids_file,
            "special": special,
            "unknown_id": unknown,
            "offset": offset,
            "first": first[side],
        }
        for side, file in sides.items()
    }
    return ImportedTokenizer(_described(vocabulary, described), files)


def _added_tokens(directory: Path, ids: Mapping[str, int]) -> dict[str, int]:
    """The ids of a list, and behind them those of special tokens that it lacks, such as M2M-100's languages."""
    added: dict[str, int] = {}
    if (directory / ADDED_TOKENS_FILE).is_file():
        added = read_json(directory / ADDED_TOKENS_FILE)
    elif ids and (directory / SPECIAL_TOKENS_FILE).is_file():
        special = read_json(directory / SPECIAL_TOKENS_FILE).get("additional_special_tokens") or []
        names = [each["content"] if isinstance(each, dict) else each for each in special]
        lacking = [name for name in dict.fromkeys(names) if name not in ids]
        added = {name: len(ids) + index for index, name in enumerate(lacking)}
    return {**added, **ids}


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path.parent} lacks {path.name}, which its tokenizer needs. Copy it, too.")
    return path.read_bytes()


def _language(token: int | None, name: str, directory: Path) -> int:
    if token is None:
        raise ValueError(
            f"the tokenizer in {directory} has no token {name!r}. Give one that it has, such as eng_Latn (NLLB) or "
            f"__en__ (M2M-100, whose languages stand in {SPECIAL_TOKENS_FILE})."
        )
    return token
