"""What every architecture of another project has: fields of a config, names of tensors, and what they make here."""

import abc
import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.pretrained.fields import Only, read_fields
from seq2seq_jax.pretrained.table import Entry
from seq2seq_jax.pretrained.transforms import Joined, Matrix, Reshaped, Table

Part = Literal["encoder_decoder", "encoder", "decoder"]
"""What a checkpoint holds."""

SOURCE, TARGET, OUTPUT = "source_embedding/table", "target_embedding/table", "output/table"
"""Paths of the tables of embeddings and of the output."""
TOKEN_PATHS = (SOURCE, TARGET, OUTPUT, "logit_bias")
"""Paths of the parameters whose first dim is the vocabulary."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What a config says, once it is read.

    Attributes:
        values: of its fields.
        stacks: settings of the encoder and of the decoder, whichever there are.
        model: settings of the model that are neither's.
        vocabulary_size: rows of the tables.
        source_vocabulary_size: rows of the source's table, where it has a vocabulary of its own; None = they share one.
        is_scaled: whether embeddings are multiplied by the square root of the width.
    """

    values: Mapping[str, Any]
    encoder: TransformerEncoderConfig | RecurrentEncoderConfig | None = None
    decoder: TransformerDecoderConfig | RecurrentDecoderConfig | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vocabulary_size: int
    source_vocabulary_size: int | None = None
    is_scaled: bool = False


class Family(abc.ABC):
    """One architecture."""

    model_type: ClassVar[str]
    """Value of the field model_type of its configs."""
    part: ClassVar[Part]
    """What its checkpoints hold."""
    architecture: ClassVar[str]
    """Class of transformers that its checkpoints are of."""
    read: ClassVar[Mapping[str, Any]]
    """Fields that are read, with defaults."""
    only: ClassVar[Mapping[str, Only]] = {}
    """Fields that may have some values alone."""
    ignored: ClassVar[Mapping[str, str]] = {}
    """Fields that are ignored, with the reason."""
    prefixes: ClassVar[tuple[str, ...]] = ("",)
    """What the names of all tensors may begin with before those of the table."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Patterns of names of tensors that are no parameters of the model: heads, buffers. They are kept for export."""
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Path of a table -> names under which a file may hold it, the preferred one first. Which of them are one is
    decided by their bytes."""

    piece_offset: ClassVar[int] = 0
    """What is added to the ids of a SentencePiece model's pieces, but for those of pad and EOS token."""

    flag_decides_tie: ClassVar[bool] = True
    """Whether tie_word_embeddings = true and another output table contradict each other."""

    def values(self, config: Mapping[str, Any], *, allowed: Collection[str] = (), origin: str) -> dict[str, Any]:
        """The values of the fields that are read. See `read_fields`."""
        return read_fields(config, read=self.read, only=self.only, ignored=self.ignored, allowed=allowed, origin=origin)

    @abc.abstractmethod
    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        """What a config and the names of the tensors describe.

        Raises:
            ValueError: something that is not built.
        """

    @abc.abstractmethod
    def table(self, described: Described) -> tuple[Entry, ...]:
        """Names of all tensors but the tables of embeddings and output."""

    def config_of(self, model: ModelConfig, vocabulary: Any, *, longest: int) -> dict[str, Any]:
        """The fields of a config of a model that was trained here.

        Args:
            longest: positions that the model is used with.

        Raises:
            ValueError: the family has no such model; the message says what stands in the way.
        """
        raise ValueError(f"{self.model_type} is not exported from a model that was trained here")

    def own_name(self, name: str) -> str:
        """The name in the table of a tensor that a file has under this name, without the prefix or in an older form."""
        for prefix in self.prefixes:
            if prefix and name.startswith(prefix):
                return name.removeprefix(prefix)
        return name

    def optional_names(self, model: ModelConfig) -> tuple[str, ...]:
        """Names that `describe` looks for, of parameters that not every model has, of one that was trained here."""
        return ()

    def own_tensors(self, model: ModelConfig, config: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by name that a file has beside the parameters of a model that was trained here."""
        return {}

    def is_unused(self, name: str, described: Described) -> bool:
        """Whether a tensor is no parameter of the model."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)


def linear(name: str, path: str, *, bias: bool, inputs: int = 1) -> list[Entry]:
    """Rows of a linear layer, NAME.weight and NAME.bias."""
    rows = [Entry(f"{name}.weight", (f"{path}/kernel",), Matrix(inputs))]
    return [*rows, Entry(f"{name}.bias", (f"{path}/bias",), Reshaped())] if bias else rows


def convolution(name: str, paths: Sequence[str], *, inputs: int = 1) -> list[Entry]:
    """Rows of GPT-2's Conv1D, [inputs, outputs], which may hold several layers beside each other."""
    kernels, biases = (tuple(f"{path}/{part}" for path in paths) for part in ("kernel", "bias"))
    return [Entry(f"{name}.weight", kernels, Joined(inputs)), Entry(f"{name}.bias", biases, Joined(0))]


def norm(name: str, path: str, *, bias: bool = True) -> list[Entry]:
    """Rows of a normalisation, NAME.weight and NAME.bias."""
    rows = [Entry(f"{name}.weight", (f"{path}/scale",), Reshaped())]
    return [*rows, Entry(f"{name}.bias", (f"{path}/bias",), Reshaped())] if bias else rows


def table_row(name: str, path: str) -> Entry:
    """The row of a table that is stored as it is."""
    return Entry(name, (path,), Table())


def attention(
    names: Mapping[str, str],
    path: str,
    *,
    biases: Collection[str],
) -> list[Entry]:
    """Rows of an attention layer.

    Args:
        names: of the linear layers of query, key, value and output.
        biases: projections that have one.
    """
    return [
        row
        for part, name in names.items()
        for row in linear(name, f"{path}/{part}", bias=part in biases, inputs=2 if part == "output" else 1)
    ]
