"""Noise on words: dropped, replaced, blanked out, masked in spans, shuffled, written in another case or with errors."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from seq2seq_jax.data.augmentation import NoiseConfig
from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.data.tokenizer import SPACE, Tokenizer
from seq2seq_jax.data.transforms.words import Pieces, Side, Words, uniforms

SHUFFLE, DROP, REPLACE, REPLACEMENT, BLANK, SPAN, CASE, TYPO, KIND, PLACE = range(10)
"""Which of the random numbers of a word decides what."""


class Noise:
    """Noise on one side of examples; see `NoiseConfig`.

    Source: Lample et al. 2018, section 3.3 (drop, shuffle); Wang et al. 2018 (replace); Xie et al. 2017 (blank); Lewis
    et al. 2020, section 2.2 (spans); Belinkov and Bisk 2018 (typing errors).
    """

    def __init__(self, config: NoiseConfig, tokenizer: Tokenizer, side: Side):
        self.config = config
        self.side = side
        self._tokenizer = tokenizer
        self._pieces = Pieces(tokenizer, side)
        is_word = self._pieces.begins_word & ~self._pieces.is_special
        if self._pieces.space_id >= 0:
            is_word[self._pieces.space_id] = False
        self._replacements = np.flatnonzero(is_word if is_word.any() else ~self._pieces.is_special)

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        """See `Augment`."""
        words = Words.of(examples[self.side], self._pieces)
        draws = uniforms(words.keys(keys), 10)
        words = self._noisy(words, draws)
        return {**examples, self.side: words.joined()}

    def _noisy(self, words: Words, draws: Float[np.ndarray, "words 10"]) -> Words:
        config, free = self.config, ~words.is_protected
        if config.shuffle_window:
            words = shuffled_words(words, draws[:, SHUFFLE], window=config.shuffle_window)
        gone = free & (draws[:, DROP] <= config.word_drop)
        if config.word_drop:
            # Of a text whose words would all go, none goes.
            left = np.bincount(words.examples, weights=free & ~gone, minlength=words.num_examples)
            gone &= left[words.examples] > 0
        free = free & ~gone
        if config.word_replace:
            (which,) = np.nonzero(free & (draws[:, REPLACE] <= config.word_replace))
            numbers = np.minimum(draws[which, REPLACEMENT] * len(self._replacements), len(self._replacements) - 1)
            words = words.replaced(which, self._replacements[numbers.astype(np.int64)][:, None])
        if config.case or config.typos:
            words = self._respelt(words, draws, free)
        if config.word_blank:
            (which,) = np.nonzero(free & (draws[:, BLANK] <= config.word_blank))
            words = words.replaced(which, np.full((len(which), 1), self._pieces.unknown_id))
        if config.span_mask:
            # Spans are of the words that are left.
            (which,) = np.nonzero(free)
            masked = masked_words(words.examples[which], draws[which, SPAN], config)
            first = masked.copy()
            first[1:] &= ~(masked[:-1] & (np.diff(words.examples[which]) == 0))
            gone[which[masked & ~first]] = True
            words = words.replaced(which[first], np.full((int(first.sum()), 1), self._pieces.unknown_id))
        return dataclasses.replace(words, lengths=np.where(gone, 0, words.lengths))

    def _respelt(self, words: Words, draws: Float[np.ndarray, "words 10"], free: Bool[np.ndarray, " words"]) -> Words:
        """Words with another case and errors, cut into pieces anew."""
        # How a word with an unknown character is spelt is not known.
        free = free & ~words.contain(self._pieces.unknown_id)
        cased = free & (draws[:, CASE] <= self.config.case)
        mistyped = free & (draws[:, TYPO] <= self.config.typos)
        (which,) = np.nonzero(cased | mistyped)
        texts = []
        for word in which.tolist():
            text = self._pieces.text_of(words.ids(word).tolist()).removeprefix(SPACE)
            if cased[word]:
                text = in_another_case(text, draws[word, KIND])
            if mistyped[word]:
                text = with_typo(text, draws[word, KIND], draws[word, PLACE])
            texts.append(text)
        encode = self._tokenizer.encode_source if self.side == "source" else self._tokenizer.encode_target
        # What has no text left, as the one letter of a word that is left out, stays.
        kept = [index for index, text in enumerate(texts) if text.strip()]
        return words.replaced(which[kept], [ids[:-1] for ids in encode([texts[index] for index in kept])])


def shuffled_words(words: Words, draws: Float[np.ndarray, " words"], *, window: int) -> Words:
    """Words in another order, none more than `window` places from where it was; protected ones stay in place.

    Args:
        draws: in (0, 1].
    """
    (slots,) = np.nonzero(~words.is_protected)
    examples = words.examples[slots]
    first = np.searchsorted(examples, examples, side="left")
    scores = np.arange(len(slots)) - first + draws[slots] * (window + 1)
    order = slots[np.lexsort((scores, examples))]
    starts, lengths = words.starts.copy(), words.lengths.copy()
    starts[slots], lengths[slots] = words.starts[order], words.lengths[order]
    return dataclasses.replace(words, starts=starts, lengths=lengths)


def masked_words(
    examples: Int[np.ndarray, " words"], draws: Float[np.ndarray, " words"], config: NoiseConfig
) -> Bool[np.ndarray, " words"]:
    """Which words are masked: a Markov chain along each text, in which a word is masked with probability `span_mask`,
    and spans have `span_words` words on average where the text does not end.

    Args:
        examples: the text of each word, ascending.
    """
    rate, stay = config.span_mask, 1.0 - 1.0 / config.span_words
    enter = rate / (config.span_words * (1.0 - rate))
    first = np.searchsorted(examples, examples, side="left")
    places = np.arange(len(examples)) - first
    masked = np.zeros(len(examples), bool)
    masked[places == 0] = draws[places == 0] <= rate
    for place in range(1, int(places.max(initial=0)) + 1):
        (here,) = np.nonzero(places == place)
        masked[here] = draws[here] <= np.where(masked[here - 1], stay, enter)
    return masked


def in_another_case(text: str, draw: float) -> str:
    """A word in lower case, upper case or with a capital: one of those that it is not written in.

    Args:
        draw: in (0, 1], chooses.
    """
    candidates = [
        form
        for form in dict.fromkeys((text.lower(), text.upper(), text[:1].upper() + text[1:].lower()))
        if form != text
    ]
    return candidates[min(int(draw * len(candidates)), len(candidates) - 1)] if candidates else text


def with_typo(text: str, kind: float, place: float) -> str:
    """A word with two letters exchanged, one left out, one doubled, or one replaced by another of the word.

    Args:
        kind, place: in (0, 1], choose.
    """
    if len(text) < 2:
        return text
    index = min(int(place * (len(text) - 1)), len(text) - 2)
    before, one, two, after = text[:index], text[index], text[index + 1], text[index + 2 :]
    changed = (two + one, two, one + one + two, two + two)
    return before + changed[min(int(kind * len(changed)), len(changed) - 1)] + after
