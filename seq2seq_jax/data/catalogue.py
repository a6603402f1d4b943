"""Any text dataset of the tensorflow-datasets catalogue, by name."""

import dataclasses
from collections.abc import Collection

from seq2seq_jax.data.source import SPLITS, Corpus, DocumentSource, PairSource
from seq2seq_jax.effects import changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogueDataset:
    """A dataset of the catalogue at tensorflow.org/datasets, and which parts of it are used."""

    name: str = dataclasses.field(metadata=changes("nothing"))
    """The dataset, with its configuration and version if it has several ("wmt14_translate/de-en", "c4/en")."""
    directory: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Where datasets are prepared and found; None = where tensorflow-datasets keeps them (~/tensorflow_datasets)."""
    train: str = dataclasses.field(default="train", metadata=changes("nothing"))
    """Training split, or a part of it ("train[2000:]")."""
    validation: str | None = dataclasses.field(default="validation", metadata=changes("nothing"))
    """Validation split, or a part of one ("train[:2000]"); None = there is none."""
    test: str | None = dataclasses.field(default="test", metadata=changes("nothing"))
    """Test split, or a part of one; None = there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue(CatalogueDataset, PairSource):
    """Two text fields of a dataset of the catalogue at tensorflow.org/datasets, downloaded and prepared if absent.

    A dataset whose download is an archive needs TensorFlow installed to unpack it, once, and so does one with a split
    of more than a gigabyte; reading never does. Pairs come as they are, those with an empty side too.
    """

    source: str = dataclasses.field(metadata=changes("nothing"))
    """Name of the source field ("en")."""
    target: str = dataclasses.field(metadata=changes("nothing"))
    """Name of the target field ("de")."""

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Download and prepare the dataset if it is not there yet, and open it.

        Raises:
            ValueError: the catalogue has no such dataset or configuration, the dataset has no such text field or
                split, it is there in another format than array_record, or preparing it needs TensorFlow.
        """
        from seq2seq_jax.data.catalogue_datasets import open_dataset

        columns = {"source": self.source, "target": self.target}
        return open_dataset(self, columns, splits, read_only="directory" in read_only)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogueDocuments(CatalogueDataset, DocumentSource):
    """A text field of a dataset of the catalogue, prepared as for `Catalogue`; each example is a document.

    A field of whole articles or web pages as a rule ("c4/en"), but any text will do.
    """

    field: str = dataclasses.field(default="text", metadata=changes("nothing"))
    """Name of the field."""

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Download and prepare the dataset if it is not there yet, and open it.

        Raises:
            ValueError: see `Catalogue.open`.
        """
        from seq2seq_jax.data.catalogue_datasets import open_dataset

        return open_dataset(self, {"text": self.field}, splits, read_only="directory" in read_only)
