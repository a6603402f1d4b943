"""Texts to words, each as the library that defines the metric cuts them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from seq2seq_jax.hashing import mixed
from seq2seq_jax.rewards.text import NO_CHARACTER, Characters, compact, in_ranges, is_whitespace, shift, strip_right

NO_SYMBOL = np.uint32(0xFFFFFFFF)
"""What the first number of the places after the last symbol is; no symbol's first number is."""

Symbols = UInt32[Array, "*rows planes size"]
"""Sequences of symbols that can be compared, each symbol one number of every plane: characters have one plane, their
code points, and words two, a hash of 63 bits. NO_SYMBOL after the end."""

_DIGITS = ((ord("0"), ord("9")),)
_UPPER_CASE = ((ord("A"), ord("Z")),)
_LOWER_CASE = ((ord("a"), ord("z")),)
# The class of the first rule of TokenizerRegexp: most ASCII punctuation, but no apostrophe, comma, hyphen, full stop.
_SYMBOLS = tuple((ord(low), ord(high)) for low, high in ("{~", "[`", " &", "(+", ":@", "//"))
# What Tokenizer13a replaces, in its order. No pattern overlaps itself.
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
    """Characters to be compared."""
    return characters.astype(jnp.uint32)[..., None, :]


def count(symbols: Symbols) -> Array:
    """Symbols of each sequence."""
    return jnp.sum(symbols[..., 0, :] != NO_SYMBOL, axis=-1, dtype=jnp.int32)


def words_13a(characters: Characters) -> Symbols:
    """The words that BLEU is made of, trailing blanks removed first as sacrebleu does.

    Source: sacrebleu 2.6.0, Tokenizer13a and TokenizerRegexp, after mteval-v13a.pl.
    """
    characters = strip_right(characters)
    is_rare = (characters == ord("&")) | (characters == ord("<")) | (characters == ord("\n"))
    characters = jax.lax.cond(jnp.any(is_rare), _replace_all, lambda characters: characters, characters)

    blank = is_whitespace(characters) | (characters == NO_CHARACTER)
    digit, symbol = in_ranges(characters, _DIGITS), in_ranges(characters, _SYMBOLS)
    mark = (characters == ord(".")) | (characters == ord(","))
    # Rule 2 finds pairs of a character that is no digit and a mark, from left to right: in a run of marks each second
    # one is a pair's second, and whether it is the odd or the even ones depends on what stands before the run.
    places = jnp.arange(characters.shape[-1])
    before_run = jax.lax.cummax(jnp.where(mark, -1, places), axis=characters.ndim - 1)
    digit_before = jax.lax.cummax(jnp.where(mark, -1, 2 * places + digit), axis=characters.ndim - 1)
    is_second = (places - before_run) % 2 != jnp.where(before_run < 0, 0, digit_before % 2)
    # Rule 3: the marks left over stay with a digit that follows them. Rule 4: a hyphen after a digit.
    alone = symbol | (mark & (is_second | ~shift(digit, 1, False)))
    alone |= (characters == ord("-")) & shift(digit, -1, False)
    return _hashed(characters, ~blank, alone | shift(alone, -1, True))


def words_between_blanks(characters: Characters) -> Symbols:
    """The words that jiwer counts errors of: cut at each space, and at two or more blanks of any kind.

    Source: jiwer 4.0.0, wer_default.
    """
    blank = is_whitespace(characters)
    inked = ~blank & (characters != NO_CHARACTER)
    # A single tab or no-break space between two letters is a letter of a word.
    inside = inked | (blank & (characters != ord(" ")) & shift(inked, -1, False) & shift(inked, 1, False))
    return _hashed(characters, inside, jnp.zeros_like(inside))


def words_alphanumeric(characters: Characters) -> Symbols:
    """The words that ROUGE is made of: runs of a-z and 0-9 in the lower-cased text.

    Source: rouge-score 0.1.2, tokenize.tokenize without stemmer.
    """
    lowered = jnp.where(in_ranges(characters, _UPPER_CASE), characters + ord("a") - ord("A"), characters)
    lowered = jnp.where(characters == _KELVIN_SIGN, ord("k"), lowered)
    # Lower-cased, this is an i and a combining dot, and the dot ends the word.
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
        inside: whether each belongs to a word.
        cut: whether a word ends before each.
    """
    starts = inside & (cut | ~shift(inside, -1, False))

    def of_text(characters, inside, starts):
        size = characters.shape[0]
        places = jnp.arange(size)
        word = jnp.cumsum(starts) - 1
        # What a character adds depends on itself and on its place in the word.
        first = jax.lax.cummax(jnp.where(starts, places, 0))
        index = jnp.where(inside, word, size)
        planes = []
        for seeds in _SEEDS:
            place_in_word = mixed((places - first).astype(jnp.uint32) ^ seeds[1])
            added = mixed(characters.astype(jnp.uint32) * seeds[0] + place_in_word)
            planes.append(jnp.zeros(size, jnp.uint32).at[index].add(added, mode="drop"))
        exists = places <= word[-1]
        return jnp.where(exists, jnp.stack([planes[0] >> 1, planes[1]]), NO_SYMBOL)

    return jnp.vectorize(of_text, signature="(size),(size),(size)->(planes,size)")(characters, inside, starts)
