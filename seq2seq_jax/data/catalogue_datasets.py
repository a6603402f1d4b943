"""Datasets of the tensorflow-datasets catalogue, opened. Configs do without this module, which is slow to import."""

import dataclasses
import hashlib
import importlib
import json
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from seq2seq_jax.data.catalogue import CatalogueDataset
from seq2seq_jax.data.prepared import (
    Examples,
    PreparedCorpus,
    first_line,
    prepare_once,
    quiet,
    read_examples,
)
from seq2seq_jax.data.store_files import remove_left_behind
from seq2seq_jax.paths import unicode_path

logger = logging.getLogger(__name__)

TEXT_MODULES = ("translate", "summarization", "text", "text_simplification", "question_answering")
"""Modules of the catalogue that define datasets of text."""


@quiet()
def open_dataset(
    dataset: CatalogueDataset, columns: Mapping[str, str], splits: Collection[str], *, read_only: bool
) -> PreparedCorpus:
    """Some text fields, prepared if they are not there yet.

    Args:
        dataset: which.
        columns: names of the columns that they become, and of the fields.
        splits: which of them.
        read_only: prepare nothing in `directory`, but where tensorflow-datasets keeps its datasets.

    Raises:
        ValueError: see `Catalogue.open`.
    """
    builder = _builder(dataset)
    if read_only and dataset.directory is not None and not builder.is_prepared():
        return open_dataset(dataclasses.replace(dataset, directory=None), columns, splits, read_only=False)
    features = builder.info.features
    named = features.items() if isinstance(features, tfds.features.FeaturesDict) else ()
    texts = sorted(name for name, feature in named if isinstance(feature, tfds.features.Text))
    for field in columns.values():
        if field not in texts:
            raise ValueError(
                f"expected {field!r} to be a text field of {dataset.name}; its text fields are "
                f"{', '.join(texts) or 'none'}: name one of these"
            )
    if not builder.is_prepared():
        _prepare(dataset, builder)
        builder = _builder(dataset)
    _check_numbers_of_examples(builder)
    slices = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    examples = {
        split: _examples(dataset, builder, split, piece)
        for split, piece in slices.items()
        if piece is not None and split in splits
    }

    def fingerprint(*named: str) -> str:
        # Names and sizes stand for the text, which may be too long to read at each start.
        content = {
            "dataset": builder.info.full_name,
            "bytes": int(builder.info.dataset_size),
            "fields": list(columns.values()),
            "splits": {split: [slices[split], len(examples[split])] for split in named},
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    return PreparedCorpus(
        examples,
        columns=columns,
        fingerprints={split: fingerprint(split) for split in examples},
        fingerprint=fingerprint(*examples),
        places=dict.fromkeys(examples, Path(builder.data_dir)),
    )


def _examples(dataset: CatalogueDataset, builder: tfds.core.DatasetBuilder, split: str, piece: str) -> Examples:
    try:
        return read_examples(builder, piece)
    except (KeyError, ValueError, NotImplementedError) as error:
        formats = [file_format.value for file_format in builder.info.available_file_formats()]
        if "array_record" not in formats:
            raise ValueError(
                f"expected {builder.data_dir} to hold array_record files; it holds {', '.join(formats)}: "
                "name another directory, to prepare the dataset there, or delete that one"
            ) from error
        raise ValueError(
            f"expected a split of {dataset.name} as {split}; got {piece!r}, and it has "
            f"{', '.join(builder.info.splits)}: name one of these, or a part of one, as in "
            f"train[:90%]{'' if split == 'train' else ', or None'}"
        ) from error


def _builder(dataset: CatalogueDataset) -> tfds.core.DatasetBuilder:
    namespace, _, rest = dataset.name.split("/")[0].partition(":")
    # A version, too, stands behind a colon.
    if rest and not re.fullmatch(r"[0-9*]+(\.[0-9*]+){2}", rest):
        raise ValueError(
            f"expected the name of a dataset at tensorflow.org/datasets; {dataset.name!r} is one of the community "
            f"namespace {namespace!r}, which would download and run code of others: prepare it yourself, and name its "
            "files with own_text or own_table"
        )
    # Without TensorFlow the catalogue's own search stops at a module that needs it, before it comes to these.
    for module in TEXT_MODULES:
        importlib.import_module(f"tensorflow_datasets.{module}")
    directory = None if dataset.directory is None else unicode_path(dataset.directory)
    try:
        return tfds.builder(dataset.name, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"expected the name of a dataset at tensorflow.org/datasets; there is no {dataset.name!r}: "
            "check the spelling"
        ) from error
    except (ValueError, AssertionError) as error:
        family = dataset.name.split("/")[0].split(":")[0]
        configurations = ", ".join(config.name for config in tfds.builder_cls(family).BUILDER_CONFIGS)
        raise ValueError(
            f"expected a configuration and version of {family} that the catalogue has; got "
            f"{dataset.name!r}: name one of the configurations {configurations or '(none)'}, and leave "
            "out the version"
        ) from error
    except Exception as error:
        # What the parsers of its files raise has many types.
        raise ValueError(
            f"expected {dataset.name} in {directory or 'the directory of tensorflow-datasets'}; its dataset_info.json "
            f"or features.json cannot be read ({first_line(error)}): delete the dataset, and it is prepared again"
        ) from error


def _prepare(dataset: CatalogueDataset, builder: tfds.core.DatasetBuilder) -> None:
    logger.info("downloading and preparing %s in %s", dataset.name, builder.data_dir)
    remove_left_behind(Path(builder.data_dir).parent.glob("incomplete.*"))
    try:
        prepare_once(builder)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, ImportError) and "tensorflow" in str(cause).lower()):
            cause = cause.__cause__
        if cause is None:
            raise
        raise ValueError(
            f"expected TensorFlow, which preparing {dataset.name} needs and reading does not; it is not "
            f"installed: install it for this once, or run `tfds build {dataset.name} "
            "--file_format=array_record` where it is, and name that directory"
        ) from error


def _check_numbers_of_examples(builder: tfds.core.DatasetBuilder) -> None:
    """Compare the examples that dataset_info.json counts in each file with those that the file holds.

    Raises:
        ValueError: they differ.
    """
    for split in builder.info.splits.values():
        for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
            # The mock of tensorflow-datasets has no files, and other formats are refused later.
            if "array_record" not in Path(path).name or not Path(path).is_file():
                continue
            try:
                found = ArrayRecordReader(str(path)).num_records()
            except Exception as error:
                raise ValueError(
                    f"{path} cannot be read ({first_line(error)}): delete {builder.data_dir}, and it is prepared again"
                ) from error
            if found != expected:
                raise ValueError(
                    f"{path} holds {found} examples, and dataset_info.json beside it counts {expected}: delete "
                    f"{builder.data_dir}, and it is prepared again"
                )
