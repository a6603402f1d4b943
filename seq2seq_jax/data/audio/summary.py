"""What there is of speech in a split: seconds, speakers, and texts that are too long for their sounds."""

import dataclasses

import numpy as np

from seq2seq_jax.data.audio.source import NAME, SPEAKER, SpeechSource
from seq2seq_jax.data.source import Corpus
from seq2seq_jax.data.store import Store

MOST_NAMED = 5
"""Examples that are named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundSummary:
    """The sounds of a split."""

    seconds: float
    """Of all examples."""
    shortest: float
    """Seconds of an example."""
    longest: float
    """Seconds of an example."""
    speakers: int
    """Number of different ones."""
    seconds_per_position: float
    """Of a row."""
    without_path: int
    """Examples whose texts CTC cannot spell in as few positions."""
    named_without_path: tuple[str, ...]
    """What the first of them are called."""


def sounds_of(store: Store, corpus: Corpus, split: str, data: SpeechSource) -> SoundSummary:
    """The sounds of a split."""
    lengths, target = store.columns["source"].lengths, store.columns["target"]
    values = np.asarray(target.values)
    # A repeated token needs a blank before it; the EOS token, the last of an example, is none of a path.
    repeats = np.concatenate([[0], np.cumsum(values[1:] == values[:-1])]) if len(values) else np.zeros(1, int)
    begins, ends = target.offsets[:-1].astype(np.int64), target.offsets[1:].astype(np.int64) - 1
    needed = ends - begins + np.where(ends > begins, repeats[np.maximum(ends - 1, 0)] - repeats[begins], 0)
    short = np.flatnonzero(-(-lengths // data.stride) < needed)
    facts = list(corpus.read(split, (SPEAKER, NAME)))
    seconds = lengths / data.values_per_second
    return SoundSummary(
        seconds=float(seconds.sum()),
        shortest=float(seconds.min()),
        longest=float(seconds.max()),
        speakers=len({speaker for speaker, _ in facts}),
        seconds_per_position=data.stride / data.values_per_second,
        without_path=len(short),
        named_without_path=tuple(facts[index][1] for index in short[:MOST_NAMED]),
    )
