"""What is done to training examples anew in every epoch: noise on words, and sampled subwords. Imports nothing heavy.

All of it is a function of (seed, epoch, example), so that a run that continues sees what it would have seen; evaluation
and generation see none of it.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
    from seq2seq_jax.data.transforms.transform import Augment

PROBABILITIES = ("word_drop", "word_replace", "word_blank", "span_mask", "case", "typos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Noise on the words of one side, in the order of the fields. Special tokens and the EOS token stay as they are."""

    shuffle_window: int = 0
    """Words change places, each by at most this many (Lample et al. 2018: 3); 0 = none."""
    word_drop: float = 0.0
    """Probability that a word is left out; a text that would lose all of them keeps all."""
    word_replace: float = 0.0
    """Probability that a word is replaced by a token that begins a word, drawn uniformly (SwitchOut: Wang et al.
    2018, with a binomial number of words)."""
    word_blank: float = 0.0
    """Probability that the unknown token takes the place of a word."""
    span_mask: float = 0.0
    """Fraction of the words that are masked in spans, each of which becomes one unknown token (Lewis et al. 2020)."""
    span_words: float = 3.0
    """Words of a masked span, on average; at least 1."""
    case: float = 0.0
    """Probability that a word is written in another case: lower, upper, or with a capital."""
    typos: float = 0.0
    """Probability that a word has a typing error: two letters exchanged, one left out, one doubled, or one replaced by
    another of the word."""

    def __post_init__(self):
        check_values(self, "noise")
        for name in PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"noise.{name} must lie in [0, 1], and is {getattr(self, name)}.")
        if self.shuffle_window < 0:
            raise ValueError(f"noise.shuffle_window must be at least 0 words, not {self.shuffle_window}.")
        if self.span_words < 1.0:
            raise ValueError(f"noise.span_words must be at least 1, not {self.span_words}.")
        if self.span_mask > self.span_words / (1.0 + self.span_words):
            raise ValueError(
                f"noise.span_mask = {self.span_mask} cannot be reached with spans of {self.span_words} words, one word "
                f"between them: set it to at most {self.span_words / (1.0 + self.span_words):.3f}, or raise span_words."
            )

    @property
    def is_on(self) -> bool:
        """Whether it does anything."""
        return bool(self.shuffle_window) or any(getattr(self, name) > 0.0 for name in PROBABILITIES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is done to training examples, a function of (seed, epoch, example)."""

    source: NoiseConfig = NoiseConfig()
    """Noise on the source."""
    target: NoiseConfig = NoiseConfig()
    """Noise on the target: on labels and decoder inputs alike."""
    bpe_dropout: float = 0.0
    """Probability that a merge of byte pairs is left out (BPE-dropout: Provilkov et al. 2020, with 0.1), as
    SentencePiece does it; only for tokenizer.kind bpe. 0 = none."""
    unigram_sampling: float | None = None
    """Exponent of the probabilities from which the pieces of every word are sampled (Kudo 2018: 0.1 to 0.5); only for
    tokenizer.kind unigram. None = the most probable pieces."""
    sampled_side: Literal["both", "source", "target"] = "both"
    """Whose subwords are sampled."""

    def __post_init__(self):
        check_values(self, "augmentation")
        if not 0.0 <= self.bpe_dropout <= 1.0:
            raise ValueError(f"augmentation.bpe_dropout must lie in [0, 1], and is {self.bpe_dropout}.")
        if self.unigram_sampling is not None and self.unigram_sampling <= 0.0:
            raise ValueError(f"augmentation.unigram_sampling must be above 0, or None, and is {self.unigram_sampling}.")
        if self.sampled_side != "both" and not self.samples_subwords:
            raise ValueError(
                "augmentation.sampled_side has no effect without bpe_dropout or unigram_sampling: leave it both."
            )

    @property
    def samples_subwords(self) -> bool:
        """Whether words are cut otherwise in every epoch."""
        return self.bpe_dropout > 0.0 or self.unigram_sampling is not None

    @property
    def is_on(self) -> bool:
        """Whether it does anything."""
        return self.source.is_on or self.target.is_on or self.samples_subwords

    def check(self, tokenizer: "TokenizerConfig", *, place: str = "data.augmentation") -> None:
        """Refuse what the tokenizer has not what it takes for.

        Args:
            place: dotted name of this config, for messages.

        Raises:
            ValueError: with the field to change.
        """
        kinds = {"source": tokenizer.kind, "target": tokenizer.target_kind or tokenizer.kind}
        needed: list[tuple[str, str, tuple[str, ...]]] = []
        for side in ("source", "target"):
            if self.sampled_side in ("both", side):
                needed += [("bpe_dropout", side, ("bpe",))] if self.bpe_dropout else []
                needed += [("unigram_sampling", side, ("unigram",))] if self.unigram_sampling is not None else []
            noise: NoiseConfig = getattr(self, side)
            if noise.is_on:
                respelt = noise.case or noise.typos
                name = f"{side}.{'case' if noise.case else 'typos'}" if respelt else side
                needed.append((name, side, ("bpe", "unigram") if respelt else ("bpe", "unigram", "char", "words")))
            if noise.word_replace:
                # No character begins a word, and none takes the place of one.
                needed.append((f"{side}.word_replace", side, ("bpe", "unigram", "words")))
        for name, side, allowed in needed:
            if kinds[side] not in allowed:
                raise ValueError(
                    f"{place}.{name} needs a {side} tokenizer of kind {' or '.join(allowed)}, and it is {kinds[side]}. "
                    f"Change tokenizer.{'' if tokenizer.joint or side == 'source' else 'target_'}kind, or leave {name} "
                    "off."
                )

    def build(self, tokenizer: "Tokenizer") -> "tuple[Augment, ...]":
        """What does it with texts of a tokenizer, in order; noise comes first."""
        return tuple(self._built(tokenizer))

    def _built(self, tokenizer: "Tokenizer") -> "Iterator[Augment]":
        # The help of a command asks for this class, and needs no jax, which transforms do.
        from seq2seq_jax.data.transforms.noise import Noise
        from seq2seq_jax.data.transforms.subwords import BpeDropout, UnigramSampling

        for side in ("source", "target"):
            if getattr(self, side).is_on:
                yield Noise(getattr(self, side), tokenizer, side)
        for side in ("source", "target") if self.sampled_side == "both" else (self.sampled_side,):
            if self.bpe_dropout:
                yield BpeDropout(tokenizer, side, dropout=self.bpe_dropout)
            if self.unigram_sampling is not None:
                yield UnigramSampling(tokenizer, side, exponent=self.unigram_sampling)
