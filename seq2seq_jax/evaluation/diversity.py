"""How much the texts of a source differ from each other, and how good they are: pure functions of n-grams of words.

Counts are summed over the corpus, and sacreBLEU makes BLEU of them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ORDER = 4
"""Words of the longest n-grams, as in BLEU."""

Ngram = tuple[str, ...]


class Text(NamedTuple):
    """The n-grams of a text."""

    words: tuple[str, ...]
    ngrams: Counter[Ngram]
    """How often each n-gram of 1 to ORDER words occurs."""

    @classmethod
    def of(cls, words: Iterable[str]) -> "Text":
        """The text of these words."""
        words = tuple(words)
        return cls(
            words,
            Counter(words[i : i + n] for n in range(1, ORDER + 1) for i in range(len(words) - n + 1)),
        )

    def num_ngrams(self, order: int) -> int:
        """N-grams of that many words."""
        return max(len(self.words) - order + 1, 0)


Sources = Sequence[Sequence[Text]]
"""The texts of each source, one at least."""


class BleuCounts(NamedTuple):
    """What BLEU is computed from; counts of n-grams of 1 to ORDER words."""

    matches: list[int]
    totals: list[int]
    length: int
    """Words of the hypotheses."""
    reference_length: int
    """Words of the references, of several of a hypothesis of that whose length is closest."""

    def score(self, *, effective_order: bool = False) -> float:
        """BLEU in percent, by sacreBLEU, with exponential smoothing."""
        from sacrebleu.metrics import BLEU

        return BLEU.compute_bleu(
            list(self.matches),
            list(self.totals),
            self.length,
            self.reference_length,
            smooth_method="exp",
            effective_order=effective_order,
        ).score


def bleu_counts(hypothesis: Text, references: Sequence[Text]) -> BleuCounts:
    """Counts of a text against one reference or several."""
    clips = references[0].ngrams
    for reference in references[1:]:
        clips = clips | reference.ngrams
    return _clipped(hypothesis, clips, [len(each.words) for each in references])


def summed(counts: Iterable[BleuCounts]) -> BleuCounts:
    """Counts of a corpus."""
    matches, totals, length, reference_length = [0] * ORDER, [0] * ORDER, 0, 0
    for each in counts:
        matches = [total + more for total, more in zip(matches, each.matches, strict=True)]
        totals = [total + more for total, more in zip(totals, each.totals, strict=True)]
        length, reference_length = length + each.length, reference_length + each.reference_length
    return BleuCounts(matches, totals, length, reference_length)


def pairwise_bleu(sources: Sources) -> float:
    """Corpus BLEU, percent, of every text against every other text of its source: lower is more diverse.

    All ordered pairs count. 100 where no source has two texts: nothing differs.

    Source: Shen et al. 2019, arXiv:1902.07816, section 4.1.
    """
    matches, totals, length = [0] * ORDER, [0] * ORDER, 0
    for texts in sources:
        others = len(texts) - 1
        length += others * sum(len(text.words) for text in texts)
        for order in range(ORDER):
            totals[order] += others * sum(text.num_ngrams(order + 1) for text in texts)
        for ngram, counts in _counts_of_ngrams(texts).items():
            # Of sorted counts, each is the smaller one of its pairs with those after it.
            smaller = sum(count * after for after, count in enumerate(sorted(counts, reverse=True)))
            matches[len(ngram) - 1] += 2 * smaller
    return BleuCounts(matches, totals, length, length).score() if length else 100.0


def self_bleu(sources: Sources) -> float:
    """Corpus BLEU, percent, of every text with the other texts of its source as its references, of which it is none:
    lower is more diverse. 100 where no source has two texts.

    Source: Zhu et al. 2018, arXiv:1802.01886 (Texygen), whose program has each text among its own references.
    """
    counts = [each for texts in sources if len(texts) > 1 for each in _against_the_others(texts)]
    return summed(counts).score() if counts else 100.0


def distinct(sources: Sources, order: int) -> float:
    """Distinct n-grams of all texts divided by the number of their n-grams; 0 without n-grams.

    It falls as there is more text, so that only samples of the same size compare.

    Source: Li et al. 2016, arXiv:1510.03055, section 5.3.
    """
    texts = [text for texts in sources for text in texts]
    total = sum(text.num_ngrams(order) for text in texts)
    return len(_ngrams(texts, order)) / total if total else 0.0


def distinct_per_source(sources: Sources, order: int) -> float:
    """Mean over the sources of distinct n-grams of the texts of a source divided by the number of their n-grams."""
    return sum(distinct([texts], order) for texts in sources) / len(sources)


def entropy(sources: Sources, order: int) -> float:
    """Entropy, nats, of the n-grams of all texts by their frequencies.

    Source: Zhang et al. 2018, arXiv:1809.05972, equation 7.
    """
    counts: Counter[Ngram] = Counter()
    for texts in sources:
        for text in texts:
            counts.update({ngram: count for ngram, count in text.ngrams.items() if len(ngram) == order})
    total = counts.total()
    return -math.fsum(count / total * math.log(count / total) for count in counts.values())


def types(sources: Sources) -> frozenset[str]:
    """The distinct words of all texts."""
    return frozenset(word for texts in sources for text in texts for word in text.words)


def oracle(sources: Sources, references: Sources) -> list[int]:
    """Index of the best text of each source by sentence BLEU (effective order), of equal ones the first."""

    def best(texts: Sequence[Text], of_source: Sequence[Text]) -> int:
        scores = [bleu_counts(text, of_source).score(effective_order=True) for text in texts]
        return scores.index(max(scores))

    return [best(texts, of_source) for texts, of_source in zip(sources, references, strict=True)]


def oracle_bleu(sources: Sources, references: Sources) -> float:
    """Corpus BLEU, percent, of the best text of each source, see `oracle`."""
    chosen = oracle(sources, references)
    triples = zip(sources, references, chosen, strict=True)
    return summed(bleu_counts(texts[index], of_source) for texts, of_source, index in triples).score()


def mean_bleu(sources: Sources, references: Sources) -> float:
    """Corpus BLEU, percent, of all texts of all sources together: what a text that is taken by chance is worth."""
    pairs = zip(sources, references, strict=True)
    return summed(bleu_counts(text, of_source) for texts, of_source in pairs for text in texts).score()


def mean_length(sources: Sources) -> float:
    """Words per text."""
    lengths = [len(text.words) for texts in sources for text in texts]
    return sum(lengths) / len(lengths)


def _ngrams(texts: Iterable[Text], order: int) -> set[Ngram]:
    return {ngram for text in texts for ngram in text.ngrams if len(ngram) == order}


def _counts_of_ngrams(texts: Iterable[Text]) -> dict[Ngram, list[int]]:
    """N-gram -> how often each text that has it has it."""
    found: dict[Ngram, list[int]] = {}
    for text in texts:
        for ngram, count in text.ngrams.items():
            found.setdefault(ngram, []).append(count)
    return found


def _against_the_others(texts: Sequence[Text]) -> list[BleuCounts]:
    """Counts of each text against all others together."""
    # Of each n-gram the two highest counts: the highest of the others is one of them.
    highest = {ngram: sorted(counts)[-2:] for ngram, counts in _counts_of_ngrams(texts).items()}
    found = []
    for index, text in enumerate(texts):
        clips = {}
        for ngram, count in text.ngrams.items():
            *second, first = highest[ngram]
            clips[ngram] = (second[0] if second else 0) if count == first else first
        lengths = [len(other.words) for place, other in enumerate(texts) if place != index]
        found.append(_clipped(text, clips, lengths))
    return found


def _clipped(hypothesis: Text, clips: dict[Ngram, int], reference_lengths: Sequence[int]) -> BleuCounts:
    """Counts of a text whose matches are clipped.

    Args:
        clips: n-gram -> matches that it may have at most.
        reference_lengths: of all references; the shorter of two equally close ones counts.
    """
    matches = [0] * ORDER
    for ngram, count in hypothesis.ngrams.items():
        matches[len(ngram) - 1] += min(count, clips.get(ngram, 0))
    length = len(hypothesis.words)
    return BleuCounts(
        matches,
        [hypothesis.num_ngrams(order) for order in range(1, ORDER + 1)],
        length,
        min(reference_lengths, key=lambda other: (abs(other - length), other)),
    )
