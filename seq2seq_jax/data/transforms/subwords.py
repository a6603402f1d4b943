"""Sampled subwords: BPE-dropout by merges of our own, and pieces of a unigram model drawn by their probabilities.

SentencePiece's sampling draws from a generator of its library, whose state no checkpoint can hold: here the pieces of a
word are a function of the key of its text and its place. Without dropout they are those of SentencePiece.
"""

import bisect
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt64

from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.data.transforms.words import Pieces, Side, Words, uniforms
from seq2seq_jax.hashing import uniform_numbers

DRAWS_AT_ONCE = 8
MOST_CACHED = 2**20
"""Ways to cut words that are kept in memory; more begin anew."""
MOST_MERGES = 10**9
"""More than a word has."""


class Merges:
    """The merges of a BPE model."""

    def __init__(self, pieces: Pieces):
        self.pieces = pieces
        plain = ~(pieces.is_special | pieces.is_byte)
        self._ids = {text: index for index, text in enumerate(pieces.texts) if plain[index]}
        self._bytes = {text: index for index, text in enumerate(pieces.texts) if pieces.is_byte[index]}
        self.merges_in = np.array(
            [len(text) - 1 if plain[index] else 0 for index, text in enumerate(pieces.texts)], np.int64
        )
        """Merges that made each piece of its characters."""

    def segment(self, ids: Sequence[int], dropped: Sequence[int] = ()) -> tuple[list[int], int]:
        """A word cut anew: from its characters, with some merges left out.

        The best merge comes first, of equal ones the first in the word. One that is left out comes again only if a
        neighbour has changed.

        Args:
            ids: of the word; bytes and special tokens stay what they are.
            dropped: which merges are left out, by their number in the order in which they come, ascending.

        Returns:
            Its ids, and how many merges came.

        Source: SentencePiece 0.2, `bpe_model.cc`, `SampleEncode`.
        """
        texts = self.pieces.texts
        # None = what no merge touches.
        symbols: list[str | None] = []
        kept: list[int] = []
        for each in ids:
            if texts[each] in self._ids:
                symbols += texts[each]
                kept += [-1] * len(texts[each])
            else:
                symbols.append(None)
                kept.append(each)
        size = len(symbols)
        before, after = list(range(-1, size - 1)), [*range(1, size), -1]
        agenda: list[tuple[float, int, int, str]] = []

        def offer(left, right):
            if left < 0 or right < 0 or symbols[left] is None or symbols[right] is None:
                return
            merged = symbols[left] + symbols[right]
            found = self._ids.get(merged)
            if found is not None:
                heapq.heappush(agenda, (-self.pieces.scores[found], left, right, merged))

        for left in range(size - 1):
            offer(left, left + 1)
        number, skipped = 0, set(dropped)
        while agenda:
            _, left, right, merged = heapq.heappop(agenda)
            if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != merged:
                continue
            number += 1
            if number - 1 in skipped:
                continue
            symbols[left], symbols[right] = merged, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        result: list[int] = []
        for symbol, token in zip(symbols, kept, strict=True):
            if symbol is None:
                result.append(token)
            elif symbol:
                result += self._of_symbol(symbol)
        return result, number

    def _of_symbol(self, symbol: str) -> list[int]:
        found = self._ids.get(symbol)
        if found is not None:
            return [found]
        # A character that is part of pieces and has none of its own.
        spelt = [self._bytes.get(f"<0x{byte:02X}>") for byte in symbol.encode()]
        return [self.pieces.unknown_id] if None in spelt else spelt


class BpeDropout:
    """Every merge of one side's words is left out with a probability.

    Which merges are left out in a word is drawn as the gaps between them, so that a word that keeps all of them costs
    no loop; most do.

    Source: Provilkov et al. 2020, in the form that SentencePiece has.
    """

    def __init__(self, tokenizer: Tokenizer, side: Side, *, dropout: float):
        self.side = side
        self.dropout = dropout
        self._merges = Merges(Pieces(tokenizer, side))
        self._scale = math.log1p(-dropout) if dropout < 1.0 else -math.inf
        self._cut: dict[tuple[bytes, tuple[int, ...]], tuple[np.ndarray, int]] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_cut": {}}

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        """See `Augment`."""
        words = Words.of(examples[self.side], self._merges.pieces)
        return {**examples, self.side: self._sampled(words, words.keys(keys)).joined()}

    def _sampled(self, words: Words, keys: UInt64[np.ndarray, " words"]) -> Words:
        if not len(words.starts):
            return words
        merges_before = np.concatenate([[0], np.cumsum(self._merges.merges_in[words.values])])
        num_merges = merges_before[words.starts + words.lengths] - merges_before[words.starts]
        first_gaps = np.log(uniforms(keys, 1)[:, 0]) / self._scale
        (which,) = np.nonzero((first_gaps < num_merges) & ~words.is_protected)
        gaps = np.minimum(np.log(uniforms(keys[which], DRAWS_AT_ONCE)) / self._scale, MOST_MERGES).astype(np.int64)
        starts, ends = words.starts[which], words.starts[which] + words.lengths[which]
        cut = []
        # Everything is in one loop: with half a million of such words per second, a call would show.
        for start, end, own, key in zip(
            starts.tolist(), ends.tolist(), gaps.tolist(), keys[which].tolist(), strict=True
        ):
            ids = words.values[start:end]
            name, dropped, upcoming, number = ids.tobytes(), (), own[0], 1
            further = None
            while True:
                dropped = (*dropped, upcoming)
                found = self._cut.get((name, dropped))
                if found is None:
                    found = self._new_cut(ids, dropped)
                if number < DRAWS_AT_ONCE:
                    upcoming += 1 + own[number]
                    number += 1
                else:
                    further = further or uniform_numbers(key, DRAWS_AT_ONCE)
                    upcoming += 1 + int(min(math.log(next(further)) / self._scale, MOST_MERGES))
                if upcoming >= found[1]:
                    cut.append(found[0])
                    break
        return words.replaced(which, cut)

    def _new_cut(self, ids: np.ndarray, dropped: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """What `Merges.segment` gives, kept for the next time."""
        if len(self._cut) >= MOST_CACHED:
            self._cut.clear()
        segmented, number = self._merges.segment(ids.tolist(), dropped)
        self._cut[ids.tobytes(), dropped] = found = np.array(segmented, ids.dtype), number
        return found


class UnigramSampling:
    """The pieces of every word of one side, drawn with probabilities proportional to those of the model to an exponent.

    Source: Kudo 2018, section 3.1, with all segmentations of a word (forward filtering, backward sampling).
    """

    def __init__(self, tokenizer: Tokenizer, side: Side, *, exponent: float):
        self.side = side
        self.exponent = exponent
        self._pieces = pieces = Pieces(tokenizer, side)
        plain = ~(pieces.is_special | pieces.is_byte)
        self._ids = {text: index for index, text in enumerate(pieces.texts) if plain[index]}
        self._longest = max(map(len, self._ids), default=1)
        self._plain = plain
        self._lattices: dict[bytes, list] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_lattices": {}}

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        """See `Augment`."""
        words = Words.of(examples[self.side], self._pieces)
        word_keys = words.keys(keys)
        cut, which = [], []
        for word, own, key in zip(
            np.flatnonzero(~words.is_protected).tolist(),
            uniforms(word_keys[~words.is_protected], DRAWS_AT_ONCE).tolist(),
            word_keys[~words.is_protected].tolist(),
            strict=True,
        ):
            ids = words.ids(word)
            lattice = self._lattice(ids)
            if lattice is not None:
                which.append(word)
                cut.append(_drawn(lattice, itertools.chain(own, uniform_numbers(key, DRAWS_AT_ONCE))))
        return {**examples, self.side: words.replaced(np.array(which, np.int64), cut).joined()}

    def _lattice(self, ids: np.ndarray) -> list | None:
        """For every place between characters the pieces that end there: cumulative probabilities, where each begins,
        and its ids; None = there is one way to cut the word.
        """
        name = ids.tobytes()
        if name not in self._lattices:
            if len(self._lattices) >= MOST_CACHED:
                self._lattices.clear()
            self._lattices[name] = self._new_lattice(ids.tolist())
        return self._lattices[name]

    def _new_lattice(self, ids: list[int]) -> list | None:
        symbols: list[str] = []
        fixed: dict[int, int] = {}
        for each in ids:
            if self._plain[each]:
                symbols += self._pieces.texts[each]
            else:
                fixed[len(symbols)] = each
                symbols.append("\0")
        forward, ending, is_certain = [0.0], [[]], True
        for end in range(1, len(symbols) + 1):
            found: list[tuple[float, int, int]] = []
            if end - 1 in fixed:
                found.append((forward[end - 1], end - 1, fixed[end - 1]))
            else:
                for start in range(max(0, end - self._longest), end):
                    token = self._ids.get("".join(symbols[start:end]))
                    if token is not None and forward[start] > -math.inf:
                        found.append((forward[start] + self.exponent * self._pieces.scores[token], start, token))
            if not found:
                # A character that has no piece of its own, only as a part of others.
                forward.append(-math.inf)
                ending.append([])
                continue
            largest = max(score for score, _, _ in found)
            weights = [math.exp(score - largest) for score, _, _ in found]
            forward.append(largest + math.log(sum(weights)))
            cumulative = list(itertools.accumulate(weight / sum(weights) for weight in weights))
            ending.append([cumulative, [start for _, start, _ in found], [token for _, _, token in found]])
            is_certain = is_certain and len(found) == 1
        return None if is_certain or forward[-1] == -math.inf else ending


def _drawn(lattice: list, draws: Iterator[float]) -> list[int]:
    """A way through a lattice, drawn from its end."""
    place, tokens = len(lattice) - 1, []
    while place:
        cumulative, starts, ids = lattice[place]
        chosen = min(bisect.bisect_left(cumulative, next(draws)), len(ids) - 1)
        tokens.append(ids[chosen])
        place = starts[chosen]
    return tokens[::-1]
