"""Mixtures: several sources in one training, with weights, tags and augmentation each, packed together."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from seq2seq_jax.data.augmentation import AugmentationConfig
from seq2seq_jax.data.catalogue import Catalogue, CatalogueDocuments
from seq2seq_jax.data.code_switching import CodeSwitching
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.source import SPLITS, VALIDATION_SET, Corpus, DocumentSource, PairSource
from seq2seq_jax.data.synthesis import Synthetic
from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import DocumentFiles, ParallelText
from seq2seq_jax.effects import changes
from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    import seq2seq_jax.data.columns
    import seq2seq_jax.data.mixing
    import seq2seq_jax.data.tokenizer

OWN_FIELDS = frozenset(
    field.name for kind in (PairSource, DocumentSource) for field in dataclasses.fields(kind)
) - {"cache_directory", "verify"}  # fmt: skip
"""Fields of a source that are those of the mixture here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One source of a mixture."""

    name: str
    """Of the part, and of its validation set."""
    source: ParallelText | Table | Dates | Catalogue | Synthetic | CodeSwitching | DocumentFiles | CatalogueDocuments
    """Where its examples come from. Documents are source and target alike: to be copied, or with noise on the source
    to be restored. How they become rows is said by the mixture."""
    weights: tuple[float, ...] = (1.0,)
    """Copies of each example per epoch: floor(w) and one more of some, others in every epoch. Several weights are those
    of the first epoch, the second, and so on; the last one stays."""
    tag: str | None = None
    """A special token that stands before every source of the part, such as <bt> (Caswell et al. 2019) or <2de>."""
    augmentation: AugmentationConfig | None = None
    """What is done to its training examples; None = what data.augmentation says."""
    validates: bool = dataclasses.field(default=True, metadata=changes("nothing"))
    """Whether its validation examples, if it has any, are a validation set of its own; those of the first part are
    always the run's."""

    def __post_init__(self):
        check_values(self, f"the part {self.name}")
        where = f"data.parts has a part {self.name!r}"
        if "/" in self.name or self.name in SPLITS:
            raise ValueError(f"{where}: its name must have no / and be none of {', '.join(SPLITS)}. Rename it.")
        if not self.weights or min(self.weights) < 0.0:
            raise ValueError(f"{where} with the weights {self.weights}: give at least one, none of them negative.")
        for field in dataclasses.fields(self.source):
            if field.name in OWN_FIELDS and getattr(self.source, field.name) != field.default:
                raise ValueError(
                    f"{where} whose source sets {field.name}, which has no effect there: set data.{field.name}, or for "
                    "augmentation that of the part."
                )

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the source that make source and target."""
        return ("text",) if isinstance(self.source, DocumentSource) else ("source", "target")

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that its source has."""
        return tuple(split for split in SPLITS if split in self.source.available_splits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(PairSource):
    """Several sources of pairs, or of documents, in one training.

    Validation and test are those of the first part; the validation examples of another part are the validation set of
    its name.
    """

    parts: tuple[Part, ...]
    """The sources, in a fixed order."""
    temperature: float | None = None
    """The examples of part i in an epoch are proportional to (its size)^(1 / temperature), and as many in all as the
    parts have together (Arivazhagan et al. 2019: 5); weights multiply that. None = each example is there as often as
    the weight says."""

    def __post_init__(self):
        super().__post_init__()
        names = [part.name for part in self.parts]
        if not names:
            raise ValueError("data.parts of a mixture must be at least one part, and is empty: give some.")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"data.parts has the name {repeated[0]!r} twice: rename one.")
        if not any(part.weights[-1] for part in self.parts):
            raise ValueError("data.parts have weights of 0 in the end, so that nothing is trained on: raise one.")
        if self.temperature is not None and self.temperature < 1.0:
            raise ValueError(f"data.temperature must be at least 1, or None, and is {self.temperature}.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target", "part")

    def label_columns(self) -> "dict[str, seq2seq_jax.data.columns.Column]":
        from seq2seq_jax.data.columns import Label

        return {"part": Label(num_classes=len(self.parts))}

    @property
    def mixing(self) -> "seq2seq_jax.data.mixing.Mixing":
        from seq2seq_jax.data.mixing import Mixing

        return Mixing(weights=tuple(part.weights for part in self.parts), temperature=self.temperature)

    @property
    def augmentations(self) -> tuple[AugmentationConfig, ...]:
        return tuple(self.augmentation if part.augmentation is None else part.augmentation for part in self.parts)

    def check_tokenizer(self, tokenizer: "seq2seq_jax.data.tokenizer.TokenizerConfig") -> None:
        for part, augmentation in zip(self.parts, self.augmentations, strict=True):
            where = "data.augmentation" if part.augmentation is None else f"the augmentation of part {part.name}"
            augmentation.check(tokenizer, place=where)

    @property
    def validation_sets(self) -> tuple[str, ...]:
        """Names of the parts that are validation sets of their own."""
        return tuple(part.name for part in self.parts[1:] if part.validates and "validation" in part.splits)

    @property
    def all_splits(self) -> tuple[str, ...]:
        return (*SPLITS, *(f"{VALIDATION_SET}{name}" for name in self.validation_sets))

    def special_tokens(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                token
                for part in self.parts
                for token in (*((part.tag,) if part.tag is not None else ()), *part.source.special_tokens())
            )
        )

    def required_tokens(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.tag for part in self.parts if part.tag is not None))

    def without_tags(self) -> "Mixture":
        """The same parts, whose sources begin with no tag."""
        return dataclasses.replace(self, parts=tuple(dataclasses.replace(part, tag=None) for part in self.parts))

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Open the parts.

        Raises:
            ValueError: one cannot be opened; the message names it.
        """
        opened = []
        for index, part in enumerate(self.parts):
            wanted = {split for split in part.splits if split in splits and (index == 0 or split == "train")}
            if f"{VALIDATION_SET}{part.name}" in splits and part.name in self.validation_sets:
                wanted.add("validation")
            try:
                opened.append(part.source.open([split for split in SPLITS if split in wanted], read_only=read_only))
            except ValueError as error:
                raise ValueError(f"part {part.name} of the mixture: {error}") from error
        return MixedCorpus(self.parts, opened)


class MixedCorpus(Corpus):
    """The examples of all parts, one part after the other."""

    def __init__(self, parts: Sequence[Part], opened: Sequence[Corpus]):
        self._parts = list(zip(parts, opened, strict=True))
        # Split -> number and split of each part that it is made of.
        self._made_of: dict[str, list[tuple[int, str]]] = {}
        for index, corpus in enumerate(opened):
            for split in corpus.splits:
                name = split if index == 0 or split == "train" else f"{VALIDATION_SET}{parts[index].name}"
                self._made_of.setdefault(name, []).append((index, split))

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target", "part")

    @property
    def splits(self) -> dict[str, int]:
        return {
            name: sum(self._parts[index][1].splits[split] for index, split in made_of)
            for name, made_of in self._made_of.items()
        }

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(map(self.split_fingerprint, self._made_of)).encode()).hexdigest()

    def split_fingerprint(self, split: str) -> str:
        content = hashlib.sha256(split.encode())
        for index, own in self._made_of[split]:
            part, corpus = self._parts[index]
            facts = f"\n{index} {len(self._parts)} {part.tag} {part.reads} {corpus.split_fingerprint(own)}"
            content.update(facts.encode())
        return content.hexdigest()

    def examples(self, split: str) -> Iterator[tuple[Any, ...]]:
        if split not in self._made_of:
            raise ValueError(
                f"expected one of the splits {', '.join(self._made_of)}; got {split!r}: name one of these, or give a "
                "part of the mixture that split"
            )
        return self._examples(split)

    def _examples(self, split: str) -> Iterator[tuple[Any, ...]]:
        for index, own in self._made_of[split]:
            part, corpus = self._parts[index]
            before = "" if part.tag is None else f"{part.tag} "
            for texts in corpus.read(own, part.reads):
                yield before + texts[0], texts[-1], index
