"""Texts of a language model that is known: the synthetic task of adversarial training, without sources."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from seq2seq_jax.data.source import DEFAULT_CACHE_DIRECTORY, SPLITS, Corpus, PairSource
from seq2seq_jax.data.texts import pairs
from seq2seq_jax.effects import changes
from seq2seq_jax.evaluation.oracle import as_text, oracle_of
from seq2seq_jax.files import write_whole
from seq2seq_jax.paths import unicode_path

SOURCE = "."
"""The source of every text, which says nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OracleTexts(PairSource):
    """Texts of an oracle, an LSTM whose probabilities are known (`seq2seq_jax.evaluation.oracle`), as the numbers of
    its tokens; the source is "." each time. They are drawn once, and kept in cache_directory.

    Source: Yu et al. 2017 (SeqGAN), section 5: 10,000 texts of 20 tokens out of 5,000.
    """

    oracle: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """File of the oracle's arrays (.npz), such as the released one; None = one of its own with random parameters, of
    which the entropy is another."""
    oracle_seed: int = dataclasses.field(default=0, metadata=changes("nothing"))
    """Seed of the oracle's parameters; without a file."""
    num_tokens: int = 5_000
    """Tokens of the oracle."""
    length: int = 20
    """Tokens of a text."""
    draw_seed: int = 0
    """Seed of the texts."""
    train_examples: int = 10_000
    """Texts to train on."""
    validation_examples: int = 1_000
    """Texts to validate on; as many are generated."""
    test_examples: int = 10_000
    """Texts to test on."""
    max_source_length: int = 2
    """Source tokens in a row (EOS token included)."""
    max_target_length: int = 21
    """Target tokens in a row, and in the longest example (EOS token included)."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_tokens", "length", "train_examples", "validation_examples", "test_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, not {getattr(self, name)}.")
        if self.max_target_length <= self.length:
            raise ValueError(
                f"data.max_target_length = {self.max_target_length} leaves no room for {self.length} tokens and the "
                f"EOS token: set it to {self.length + 1}."
            )
        if self.oracle is not None and self.oracle_seed != 0:
            raise ValueError("data.oracle_seed has no effect with the file data.oracle: leave it 0.")

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Draw the texts of splits, or find them.

        Raises:
            ValueError: the oracle cannot be read.
        """
        sizes = {
            "train": self.train_examples,
            "validation": self.validation_examples,
            "test": self.test_examples,
        }
        oracle = oracle_of(self.oracle, self.oracle_seed, self.num_tokens)
        cache = DEFAULT_CACHE_DIRECTORY if "cache_directory" in read_only else self.cache_directory
        found = {}
        for index, split in enumerate(SPLITS):
            if split not in splits:
                continue
            facts = [oracle.fingerprint, self.length, self.draw_seed, index, sizes[split]]
            name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
            path = unicode_path(cache) / "oracle_texts" / f"{name}.txt"
            if not path.is_file():
                drawn = oracle.draw(sizes[split], length=self.length, seed=self.draw_seed * len(SPLITS) + index)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, "".join(f"{as_text(text)}\n" for text in drawn.tolist()))
            found[split] = functools.partial(_examples, path)
        return pairs(found)


def _examples(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield SOURCE, line.rstrip("\n")
