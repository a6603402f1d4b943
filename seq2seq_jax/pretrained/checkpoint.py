"""A checkpoint of another project: its config and its files, and what they are here."""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.pretrained.family import OUTPUT, SOURCE, TARGET, TOKEN_PATHS, Described, Family
from seq2seq_jax.pretrained.registry import family_of
from seq2seq_jax.pretrained.safetensors_files import StoredTensor, TensorFiles, describe_names, will_need
from seq2seq_jax.pretrained.table import Entry, Place, check_tensors, flat, load, places
from seq2seq_jax.pretrained.transforms import ChosenRows, Table

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"

SPECIAL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "suppress_tokens",
)
"""Fields that a config or the file of generation settings may have."""

TINY = {"num_layers": 1, "model_dim": 8, "num_heads": 1, "hidden_dim": 8}
"""A stack in the place of the one that a checkpoint of a part lacks."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        ValueError: there is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}. Give the directory of a model with its config.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: expected a JSON object. Copy it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, and holds a {type(found).__name__}. Copy it again.")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint, of which the headers alone have been read.

    Attributes:
        directory: where it lies.
        config: its config.json.
        family: its architecture.
        files: its tensors.
        described: what its config says.
        names: name in the table -> name in the files.
        tables: path of each table of embeddings or output -> names under which the files hold it.
        unused: names in the files of tensors that are no parameters.
        rows: id here -> id in the files, or -1 for one that stands for nothing; None = the same ids.
    """

    directory: Path
    config: Mapping[str, Any]
    family: Family
    files: TensorFiles
    described: Described
    names: Mapping[str, str]
    tables: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]
    rows: tuple[int, ...] | None = None

    @classmethod
    def open(cls, directory: Path, *, ignore_fields: Collection[str] = ()) -> "Checkpoint":
        """Read config and headers, and check that they describe the same model.

        Args:
            ignore_fields: fields of the config that may be ignored although they are not known.

        Raises:
            ValueError: with what is wrong.
        """
        origin = str(directory / CONFIG_FILE)
        config = read_json(directory / CONFIG_FILE)
        family = family_of(config.get("model_type"), origin=origin)
        files = TensorFiles.open(directory)
        names: dict[str, str] = {}
        for name in files.tensors:
            own = family.own_name(name)
            if own in names:
                raise ValueError(f"{directory} has {names[own]} and {name}, which are one tensor. Leave one out.")
            names[own] = name
        values = family.values(config, allowed=ignore_fields, origin=origin)
        if (directory / GENERATION_FILE).is_file():
            # Where newer versions write what configs had.
            generation = read_json(directory / GENERATION_FILE)
            said = {
                name
                for name in SPECIAL
                if name in family.read and config.get(name) is None and generation.get(name) is not None
            }
            values |= {name: generation[name] for name in said}
        try:
            described = family.describe(values, names.keys(), origin=origin)
        except (ValueError, TypeError, KeyError) as error:
            described_error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(
                described_error if described_error.startswith(origin) else f"{origin}: {described_error}"
            ) from error
        unused = tuple(file for name, file in names.items() if family.is_unused(name, described))
        tables = _tables(family, values, names, files.tensors, origin=str(directory))
        found = cls(
            directory=directory,
            config=config,
            family=family,
            files=files,
            described=described,
            names=names,
            tables=tables,
            unused=unused,
        )
        found._check()
        return found

    def _check(self) -> None:
        of_parameters = {
            name: self.files.tensors[file]
            for name, file in self.names.items()
            if file not in self.unused and not any(name in names[1:] for names in self.tables.values())
        }
        check_tensors(of_parameters, self.places, self.shapes, origin=str(self.directory))

    def with_rows(self, rows: Sequence[int]) -> "Checkpoint":
        """The same with other ids, in all tables of tokens.

        Args:
            rows: new id -> id in the files, or -1 for one that stands for nothing.
        """
        return dataclasses.replace(self, rows=tuple(rows))

    @property
    def vocabulary_size(self) -> int:
        """Rows of the tables of tokens."""
        return self.described.vocabulary_size if self.rows is None else len(self.rows)

    @property
    def tied_embeddings(self) -> str:
        """The value of `ModelConfig.tied_embeddings`, by the bytes of the tables."""
        if SOURCE in self.tables or SOURCE not in self.family.tied:
            return "none" if OUTPUT in self.tables else "decoder"
        return "inputs" if OUTPUT in self.tables else "all"

    def model(self, precision: Precision = "float32") -> ModelConfig:
        """The model; of a checkpoint of a part, that part beside a tiny one of the other side.

        Args:
            precision: see `ModelConfig`.
        """
        described, part = self.described, self.family.part
        scaled = "both" if described.is_scaled else "none"
        tied = self.tied_embeddings
        if part != "encoder_decoder":
            scaled = {"encoder": "source", "decoder": "target"}[part] if described.is_scaled else "none"
            tied = "none" if part == "encoder" or OUTPUT in self.tables else "decoder"
        return ModelConfig(
            encoder=described.encoder or TransformerEncoderConfig(**TINY),
            decoder=described.decoder or TransformerDecoderConfig(**TINY),
            tied_embeddings=tied,
            scaled_embeddings=scaled,
            precision=precision,
            **described.model,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """Sizes and special ids, as the config has them; those of a tokenizer may say more."""
        values, size = self.described.values, self.vocabulary_size

        def one(name: str, otherwise: int) -> int:
            value = values.get(name)
            value = value[0] if isinstance(value, list) and value else value
            return otherwise if value is None else value

        eos = one("eos_token_id", 0)
        forced = values.get("forced_bos_token_id")
        return Vocabulary(
            source_size=self.described.source_vocabulary_size or size,
            target_size=size,
            joint=self.described.source_vocabulary_size is None,
            pad_id=one("pad_token_id", 0),
            bos_id=one("decoder_start_token_id", one("bos_token_id", eos)),
            eos_id=eos,
            never_ids=tuple(values.get("suppress_tokens") or ()),
            first_ids=() if forced is None else (forced,),
            source_eos_id=values.get("source_eos_token_id"),
        )

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        """Shapes of the parameters of `model`, by path."""
        model = self.model().build(self.vocabulary)
        return unboxed_shapes(model)

    @functools.cached_property
    def places(self) -> dict[str, Place]:
        """Name in the table -> where it belongs."""
        rows = [Entry(names[0], (path,), Table()) for path, names in self.tables.items()]
        rows += self.family.table(self.described)
        if self.rows is not None:
            rows = with_chosen_rows(rows, self.rows, self.described.vocabulary_size)
        return places(rows, self.shapes)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the parameters that it holds."""
        return tuple(dict.fromkeys(path for place in self.places.values() for path in place.entry.paths))

    def load(
        self,
        layouts: Mapping[str, Any] | None = None,
        *,
        paths: Collection[str] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, jax.Array]:
        """The parameters that it holds, by path.

        Args:
            layouts: shapes, dtypes and shardings by path; None = of `model`, on the default device.
            paths: of the parameters that are wanted; None = all.
            progress: called with (parameters done, all).
        """
        tensors = {name: self.files.tensors[file] for name, file in self.names.items()}
        layouts = self.shapes | dict(layouts or {})
        return load(tensors, self.places, layouts, paths=paths, progress=progress)


def with_chosen_rows(
    table: Iterable[Entry],
    rows: Sequence[int],
    size: int,
    *,
    kept: Mapping[str, Callable[[], np.ndarray]] | None = None,
) -> list[Entry]:
    """A table of which parameters of the vocabulary have some rows.

    Args:
        rows: id here -> id in the files, or -1.
        size: rows in the files.
        kept: name of an entry -> its stored tensor, where not all of its rows are here.
    """

    def chosen(entry: Entry) -> Entry:
        transform = ChosenRows(entry.transform, tuple(rows), size, (kept or {}).get(entry.name))
        return dataclasses.replace(entry, transform=transform)

    return [chosen(entry) if set(entry.paths) & set(TOKEN_PATHS) else entry for entry in table]


def unboxed_shapes(model: Any) -> dict[str, Any]:
    """Shapes of a model's parameters by path, without shardings."""
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), model.smallest_batch)["params"])
    leaves = flat(boxed)
    return {path: getattr(leaf, "value", leaf) for path, leaf in leaves.items()}


def _tables(
    family: Family,
    values: Mapping[str, Any],
    names: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
    *,
    origin: str,
) -> dict[str, tuple[str, ...]]:
    """Path of each table that is one of its own -> the names that hold it, by the bytes in the files.

    Raises:
        ValueError: there is no table, names of one table hold different ones, or the config says otherwise.
    """
    there = {path: [name for name in known if name in names] for path, known in family.tied.items()}
    present = [name for found in there.values() for name in found]
    if not present:
        raise ValueError(f"{origin} has no table of embeddings: expected {next(iter(family.tied.values()))[0]}.")

    def equal(first: str, second: str) -> bool:
        a, b = tensors[names[first]], tensors[names[second]]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and _have_equal_bytes(a, b)

    for path, found in there.items():
        if found and not all(equal(found[0], name) for name in found[1:]):
            raise ValueError(f"{origin} has different tables as {describe_names(found)}, which are one. Correct it.")
    flag = values.get("tie_word_embeddings")
    main = next(path for path in (TARGET, SOURCE, OUTPUT) if there.get(path))
    first = TARGET if TARGET in family.tied else main
    tables = {first: list(there[main])}
    for path, found in there.items():
        if not found or path == main:
            continue
        is_output = path == OUTPUT
        if equal(there[main][0], found[0]) and not (is_output and flag is False):
            tables[first] += found
            continue
        if is_output and flag is True and family.flag_decides_tie:
            raise ValueError(
                f"{origin}: config.json has tie_word_embeddings = true, and {found[0]} differs from {there[main][0]}. "
                "Set it to false, or leave that tensor out."
            )
        tables[path] = list(found)
    if flag is False and OUTPUT in family.tied and OUTPUT not in tables and not there[OUTPUT]:
        raise ValueError(
            f"{origin}: config.json has tie_word_embeddings = false, and there is no {family.tied[OUTPUT][0]}. Copy "
            "all of the files, or correct the config."
        )
    return {path: tuple(found) for path, found in tables.items()}


ROWS_COMPARED = 1_024
"""Rows of two tables that are compared at once, so that different ones are hardly read for that."""


def _have_equal_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    a, b = first.open(), second.open()
    for start in range(0, len(a), ROWS_COMPARED):
        rows = [table[start : start + ROWS_COMPARED] for table in (a, b)]
        for each in rows:
            will_need(each)
        if not np.array_equal(*(each.view(np.uint8) for each in rows)):
            return False
    return True
