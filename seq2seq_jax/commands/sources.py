"""What commands that generate read: a source per line, or a field of the examples that lines hold."""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from seq2seq_jax.data.lines import Input
from seq2seq_jax.generation.controls import LineControls

if TYPE_CHECKING:
    import seq2seq_jax.data.audio.inputs
    import seq2seq_jax.run.inference

FIRST_GROUP_BATCHES, LAST_GROUP_BATCHES = 4, 256
"""Characters of the first and of the largest group of sources, for each token of a batch. Groups grow, so that the
first results come soon, and few batches have the rest of a group in them."""
SIZE_OF_SOUND = 1024
"""What a sound counts as in a group, whose length is not known before it is read."""
MOST_LINES_OF_GROUP = 2**15
"""Of short lines, a group has no more than these: it is what memory is needed for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What a text is generated from.

    Attributes:
        text: a text.
        number: of its line, which what is drawn for it depends on; None = as it comes.
        fields: other fields of the example that it stands in, if it stands in one.
        controls: requirements for its texts; None = no source has any.
        load: reads the sound that has the text as its name; None = the text is the source.
    """

    text: str
    number: int | None = None
    fields: dict[str, Any] | None = None
    controls: LineControls | None = None
    load: "Callable[[], seq2seq_jax.data.audio.inputs.Sound] | None" = None

    @property
    def given(self) -> Any:
        """What is generated from: the text, or the sound, read anew."""
        return self.text if self.load is None else self.load()


def max_line_bytes(run: "seq2seq_jax.run.inference.Inference", max_source_length: int | None = None) -> int:
    """Bytes of the longest line that is read as a source: more than fit the tokens that the model takes.

    Args:
        max_source_length: these tokens; None = as in training.
    """
    return max(2**20, 64 * (max_source_length or run.experiment.max_source_length))


def read_sources(
    given: Input,
    field: str | None,
    run: "seq2seq_jax.run.inference.Inference",
    *,
    line_field: str | None = None,
) -> Iterator[Source]:
    """The sources of an input: its lines, or a field of the examples that its lines hold.

    Args:
        field: name of the field, or a text with the names of several in braces; "" = lines as they are; None = lines,
            unless they look like a table.
        run: the field that it was trained on is suggested.
        line_field: name of the field with the number of the line.

    Raises:
        ValueError: the input looks like a table and no field is named, or it is none and one is; and as the lines do.
    """
    from seq2seq_jax.data.tables import READERS
    from seq2seq_jax.data.templates import Template

    lines = given.lines()
    if field == "":
        return map(Source, lines)
    first = next(lines, None)
    if first is None:
        return iter(())
    kind, names = _kind(given.name, first)
    lines = _with_first(first, lines)
    if field is None:
        if kind is not None:
            data = run.experiment.data
            trained_on = data.field_of(run.experiment.task.source_column)
            is_there = trained_on is not None and {*Template.parse(trained_on).names} <= {*names}
            name = trained_on if is_there else (names or ["NAME"])[0]
            raise ValueError(
                f"{given.name} looks like {'JSON lines' if kind == '.jsonl' else 'a table'}"
                f"{' with the fields ' + ', '.join(names) if names else ''}. Say which field holds the source, as in "
                f"--field {shlex.quote(name)}, or --field '' if every line is a source as it is."
            )
        return map(Source, lines)
    read, names = READERS[kind or ".tsv"], Template.parse(field).names
    examples = read(lines, given.name, (field,), whole=True, separator=run.experiment.data.list_separator)
    return (_of_example(text, example, names, line_field) for text, example in examples)


def _of_example(text: str, example: dict[str, Any], names: Sequence[str], line_field: str | None) -> Source:
    fields = {name: value for name, value in example.items() if name not in names}
    if line_field is None:
        return Source(text, fields=fields)
    number = example.get(line_field)
    try:
        number = int(number) if isinstance(number, int | str) and not isinstance(number, bool) else None
    except ValueError:
        number = None
    if number is None or not 1 <= number < 2**31:
        raise ValueError(
            f"expected the number of a line, 1 or more, as --line-field {line_field}; got "
            f"{example.get(line_field, 'no such field')!r}: correct the line, or name another field."
        )
    return Source(text, number=number, fields=fields)


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _kind(name: str, first: str) -> tuple[str | None, list[str]]:
    """What kind of table an input is by its name and its first line, and the names of the fields; None = none."""
    from seq2seq_jax.data.tables import fields_of, suffix_of

    if suffix_of(name) == ".jsonl" or fields_of(first):
        return ".jsonl", fields_of(first)
    if suffix_of(name) == ".tsv" and "\t" in first:
        return ".tsv", first.split("\t")
    return None, []


def refuse_names(source: Source, taken: Collection[str], *, writer: str) -> Source:
    """The source, whose other fields a record has beside its own.

    Args:
        taken: names of the record's own fields.
        writer: of the record, for the message.

    Raises:
        ValueError: two of them have the same name.
    """
    if same := set(taken) & (source.fields or {}).keys():
        raise ValueError(
            f"the input has a field {min(same)!r} beside the source, and {writer} writes one of that name. Rename it."
        )
    return source


def describe_all_long(*, num_long: int, num_parts: int, num_sources: int, max_length: int) -> str:
    """A line on all sources that were longer than the model takes, and what was done with them.

    Args:
        num_parts: that they became.
    """
    if num_parts > num_long:
        return (
            f"split {num_long:,} of {num_sources:,} lines in {num_parts:,} parts of at most {max_length:,} tokens, "
            "which the model takes, and joined their outputs"
        )
    return f"cut {num_long:,} of {num_sources:,} lines to the {max_length:,} tokens that the model takes"


def grouped(
    sources: Iterator[Source], more_has_come: Callable[[], bool], *, target_tokens_per_batch: int
) -> Iterator[list[Source]]:
    """Sources in groups that are generated from together, each as soon as it is full or nothing more has come.

    Which group a source of a file is in depends on the text alone.

    Args:
        target_tokens_per_batch: of a batch, which groups hold several of.
    """
    room = FIRST_GROUP_BATCHES * target_tokens_per_batch
    group, size = [], 0
    for source in sources:
        group.append(source)
        size += len(source.text) + 1 if source.load is None else SIZE_OF_SOUND
        if size >= room or len(group) == MOST_LINES_OF_GROUP or not more_has_come():
            yield group
            group, size, room = [], 0, min(2 * room, LAST_GROUP_BATCHES * target_tokens_per_batch)
    if group:
        yield group
