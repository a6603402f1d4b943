"""Word tokenisation, identical to that of the libraries that define the metrics."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from seq2seq_jax.hashing import mixed
from seq2seq_jax.rewards.text import NO_CHARACTER, Characters, compact, in_ranges, is_whitespace, shift, strip_right

NO_SYMBOL = np.uint32(0xFFFFFFFF)
"""The first number at positions after the last symbol; no symbol has this first number."""

Symbols = UInt32[Array, "*rows planes size"]
"""Sequences of comparable symbols, each of one number per plane: characters have one plane, their code points; words
have two, a hash of 63 bits. NO_SYMBOL after the end."""

_DIGITS = ((ord("0"), ord("9")),)
_UPPER_CASE = ((ord("A"), ord("Z")),)
_LOWER_CASE = ((ord("a"), ord("z")),)
# The class of the first rule of TokenizerRegexp: most ASCII punctuation, but no apostrophe, comma, hyphen, full stop.
_SYMBOLS = tuple((ord(low), ord(high)) for low, high in ("{~", "[`", " &", "(+", ":@", "//"))
# The replacements of Tokenizer13a, in their order. No pattern overlaps itself.
_REPLACEMENTS = (
    ("<skipped>", ""),
    ("-\n", ""),
    ("\n", " "),
    ("&quot;", '"'),
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
)
_LONGEST_PATTERN = max(len(pattern) for pattern, _ in _REPLACEMENTS)
_CAPITAL_I_WITH_DOT, _KELVIN_SIGN = 0x130, 0x212A

# Odd constants of the 32-bit mixers of xxHash and MurmurHash3.
_SEEDS = np.array(((0x9E3779B1, 0x85EBCA77), (0xC2B2AE3D, 0x27D4EB2F)), np.uint32)


def character_symbols(characters: Characters) -> Symbols:
    """Characters as symbols."""
    return characters.astype(jnp.uint32)[..., None, :]


def count(symbols: Symbols) -> Array:
    """Number of symbols of each sequence."""
    return jnp.sum(symbols[..., 0, :] != NO_SYMBOL, axis=-1, dtype=jnp.int32)


def words_13a(characters: Characters) -> Symbols:
    """The words of BLEU, after removing trailing whitespace as sacrebleu does.

    Source: sacrebleu 2.6.0, Tokenizer13a and TokenizerRegexp, after mteval-v13a.pl.
    """
    characters = strip_right(characters)
    is_rare = (characters == ord("&")) | (characters == ord("<")) | (characters == ord("\n"))
    characters = jax.lax.cond(jnp.any(is_rare), _replace_all, lambda characters: characters, characters)

    blank = is_whitespace(characters) | (characters == NO_CHARACTER)
    digit, symbol = in_ranges(characters, _DIGITS), in_ranges(characters, _SYMBOLS)
    mark = (characters == ord(".")) | (characters == ord(","))
    # Rule 2 matches pairs of a non-digit and a mark, from left to right: in a run of marks every other one is the
    # second of a pair, and whether these are the odd or the even ones depends on the character before the run.
    indices = jnp.arange(characters.shape[-1])
    before_run = jax.lax.cummax(jnp.where(mark, -1, indices), axis=characters.ndim - 1)
    digit_before = jax.lax.cummax(jnp.where(mark, -1, 2 * indices + digit), axis=characters.ndim - 1)
    is_second = (indices - before_run) % 2 != jnp.where(before_run < 0, 0, digit_before % 2)
    # Rule 3: the remaining marks stay with a digit that follows them. Rule 4: a hyphen after a digit.
    alone = symbol | (mark & (is_second | ~shift(digit, 1, False)))
    alone |= (characters == ord("-")) & shift(digit, -1, False)
    return _hashed(characters, ~blank, alone | shift(alone, -1, True))


def words_between_blanks(characters: Characters) -> Symbols:
    """The words of jiwer's word error rate: split at each space, and at two or more whitespace characters of any kind.

    Source: jiwer 4.0.0, wer_default.
    """
    blank = is_whitespace(characters)
    inked = ~blank & (characters != NO_CHARACTER)
    # A single tab or no-break space between two letters is part of a word.
    inside = inked | (blank & (characters != ord(" ")) & shift(inked, -1, False) & shift(inked, 1, False))
    return _hashed(characters, inside, jnp.zeros_like(inside))


def words_alphanumeric(characters: Characters) -> Symbols:
    """The words of ROUGE: runs of a-z and 0-9 in the lower-cased text.

    Source: rouge-score 0.1.2, tokenize.tokenize without stemmer.
    """
    lowered = jnp.where(in_ranges(characters, _UPPER_CASE), characters + ord("a") - ord("A"), characters)
    lowered = jnp.where(characters == _KELVIN_SIGN, ord("k"), lowered)
    # Lower-cased, this is an i followed by a combining dot, which ends the word.
    dotted = characters == _CAPITAL_I_WITH_DOT
    lowered = jnp.where(dotted, ord("i"), lowered)
    return _hashed(lowered, in_ranges(lowered, _LOWER_CASE + _DIGITS), shift(dotted, -1, False))


def _replace_all(characters: Characters) -> Characters:
    patterns = np.full((len(_REPLACEMENTS), _LONGEST_PATTERN), NO_CHARACTER, np.int32)
    for row, (pattern, _) in zip(patterns, _REPLACEMENTS, strict=True):
        row[: len(pattern)] = [ord(character) for character in pattern]
    replacements = np.array([ord(new) if new else NO_CHARACTER for _, new in _REPLACEMENTS], np.int32)

    def replace(characters, rule):
        pattern, replacement = rule
        found = jnp.ones(characters.shape, bool)
        for offset in range(_LONGEST_PATTERN):
            character = shift(characters, offset, NO_CHARACTER)
            found &= (pattern[offset] == NO_CHARACTER) | (character == pattern[offset])
        covered = jnp.zeros(characters.shape, bool)
        for offset in range(_LONGEST_PATTERN):
            covered |= shift(found, -offset, False) & (pattern[offset] != NO_CHARACTER)
        characters = jnp.where(found, replacement, characters)
        keep = (characters != NO_CHARACTER) & (~covered | found)
        return compact(characters, keep), None

    return jax.lax.scan(replace, characters, (patterns, replacements))[0]


def _hashed(characters: Characters, inside: Bool[Array, "*rows size"], cut: Bool[Array, "*rows size"]) -> Symbols:
    """Words as hashes.

    Args:
        characters: of the texts.
        inside: whether each character is part of a word.
        cut: whether a word ends before each character.
    """
    starts = inside & (cut | ~shift(inside, -1, False))

    def of_text(characters, inside, starts):
        size = characters.shape[0]
        indices = jnp.arange(size)
        word = jnp.cumsum(starts) - 1
        # A character's summand depends on the character and on its index in the word.
        first = jax.lax.cummax(jnp.where(starts, indices, 0))
        index = jnp.where(inside, word, size)
        planes = []
        for seeds in _SEEDS:
            index_in_word = mixed((indices - first).astype(jnp.uint32) ^ seeds[1])
            added = mixed(characters.astype(jnp.uint32) * seeds[0] + index_in_word)
            planes.append(jnp.zeros(size, jnp.uint32).at[index].add(added, mode="drop"))
        exists = indices <= word[-1]
        return jnp.where(exists, jnp.stack([planes[0] >> 1, planes[1]]), NO_SYMBOL)

    return jnp.vectorize(of_text, signature="(size),(size),(size)->(planes,size)")(characters, inside, starts)
