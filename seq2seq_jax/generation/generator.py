"""Generation from text to text: sources are batched by length, each batch shape is compiled once, and order is kept."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.layout import source_batches
from seq2seq_jax.data.lines import is_blank
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.context import GenerationContext, GenerationResult, length_limits
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.parallel.mesh import JittedOnMesh, batch_sharding, batch_shards, global_batch, replicated
from seq2seq_jax.rewards.text import PieceTable

Result = TypeVar("Result")
Rows = TypeVar("Rows", TokenRows, Batch)


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One generated text.

    Attributes:
        text: detokenized text.
        score: the score that the search maximises: log-probability over the length penalty.
        log_probability: in nats, EOS token included.
        num_tokens: number of tokens, EOS token included.
    """

    text: str
    score: float
    log_probability: float
    num_tokens: int


class Generator:
    """Generates with one model; compiled programs are reused between calls."""

    def __init__(
        self,
        model: EncoderDecoder,
        tokenizer: Tokenizer,
        method: GenerationMethod,
        *,
        source: Tokens,
        mesh: Mesh,
    ):
        """Args:
        source: the column of sources: its maximum length (tokens, EOS token included), and which end of a longer one is
            cut off, with the EOS token as its last token; a longer one is refused where none is.

        Raises:
            ValueError: the method does not work with the model.
        """
        method.check(num_experts=model.config.num_experts)
        self.model = model
        self.tokenizer = tokenizer
        self.method = method
        self.source = source
        self.mesh = mesh
        self._program = JittedOnMesh(
            self._generate_batch,
            mesh,
            in_shardings=(None, batch_sharding(mesh), batch_sharding(mesh)),
            out_shardings=replicated(mesh),
        )

    @property
    def max_source_length(self) -> int:
        """Tokens of the longest source, EOS token included."""
        return self.source.max_length

    @property
    def truncate(self) -> bool:
        """Whether longer sources are cut."""
        return self.source.truncate is not None

    @functools.cached_property
    def _table(self) -> PieceTable:
        return PieceTable.of(self.tokenizer)

    def lower(self, params: Any, source: TokenRows) -> jax.stages.Lowered:
        """The lowered program, for sources or their shapes."""
        return self._program.lower(params, source, jax.ShapeDtypeStruct(source.tokens.shape[:1], np.int32))

    def too_long(self, texts: Iterable[str]) -> list[int]:
        """Indices of the texts that are longer than max_source_length."""
        encoded = self._encode(list(texts))
        return [index for index, ids in enumerate(encoded) if len(ids) > self.max_source_length]

    def generate(
        self,
        params: Any,
        texts: list[str],
        *,
        first_line: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The texts for each source, in order; for a blank source the empty text alone.

        Nothing is generated for a blank source: a model that never saw one makes something up.

        Args:
            first_line: number of the first text in the whole input, which what is drawn for it depends on.
            progress: called with (sources done, total sources) after each batch.

        Raises:
            ValueError: a text is longer than the model takes; the message names its line, counted from 1.
        """
        encoded = self.encode(texts, first_line=first_line)
        return self.generate_from_ids(params, encoded, blank=_blank(texts), first_line=first_line, progress=progress)

    def generate_from_ids(
        self,
        params: Any,
        sources: list[list[int]],
        *,
        blank: Collection[int] = (),
        first_line: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Like `generate`, for source ids that end in the EOS token and are no longer than the model takes.

        Args:
            blank: indices of those of blank texts.
            first_line: as for `generate`.
        """
        empty = [Hypothesis(text="", score=0.0, log_probability=0.0, num_tokens=1)]
        return self._each(params, sources, blank, self._hypotheses, empty, first_line=first_line, progress=progress)

    def best_tokens(
        self, params: Any, texts: list[str], *, progress: Callable[[int, int], None] | None = None
    ) -> list[list[int]]:
        """Target ids of the best text for each source, in order, EOS tokens included; otherwise like `generate`.

        Encoding the decoded text again may give other ids.
        """
        of_blank = [self.tokenizer.vocabulary.eos_id]
        return self._each(params, self.encode(texts), _blank(texts), _best_tokens, of_blank, progress=progress)

    def best_tokens_of(self, params: Any, encoded: list[list[int]]) -> list[list[int]]:
        """Like `best_tokens`, for source ids that end in the EOS token."""
        taken: dict[int, list[int]] = {}
        for indices, result in self._generate_all(params, encoded, np.arange(len(encoded), dtype=np.int32)):
            taken |= {int(index): _best_tokens(result, row) for row, index in enumerate(indices)}
        return [taken[index] for index in range(len(encoded))]

    def encode(self, texts: list[str], *, first_line: int = 1) -> list[list[int]]:
        """Source ids of each text, EOS token included; those of the empty text for a blank one.

        Args:
            first_line: number of the first text, for the message.

        Raises:
            ValueError: a text is longer than the model takes; the message names its line.
        """
        encoded = self._encode(texts)
        if self.truncate:
            return list(map(self.cut, encoded))
        for line, (text, ids) in enumerate(zip(texts, encoded, strict=True), first_line):
            if len(ids) > self.max_source_length:
                more = "more than " if len(text) > self._longest_text else ""
                raise ValueError(
                    f"line {line} has {more}{len(ids)} tokens, and the model takes {self.max_source_length} "
                    "(data.max_source_length, EOS token included). Split the line."
                )
        return encoded

    def cut(self, ids: list[int]) -> list[int]:
        """As many of source ids as the model takes, with the EOS token as the last; see `Tokens.truncate`."""
        return self.source.cut_ids(ids)

    def encode_targets(self, targets: list[str], *, num_sources: int, max_length: int, work: str) -> list[list[int]]:
        """Target ids of given targets, EOS tokens included.

        Args:
            num_sources: number of sources, each of which has one target.
            max_length: tokens that a target may have.
            work: what is done with them, for the message: "aligned".

        Raises:
            ValueError: the numbers differ, or a target is longer; the message names its line, counted from 1.
        """
        if len(targets) != num_sources:
            raise ValueError(
                f"expected one target per source, {num_sources} targets, and got {len(targets)}. Give one line of each "
                "for every pair."
            )
        encoded = self.tokenizer.encode_target(targets)
        for line, ids in enumerate(encoded, 1):
            if len(ids) > max_length:
                raise ValueError(
                    f"line {line} of the targets has {len(ids)} tokens, and the model takes {max_length} "
                    f"(data.max_target_length, EOS token included). Shorten the line; nothing was {work}."
                )
        return encoded

    @property
    def _longest_text(self) -> int:
        """Characters of which a text is encoded in one go: far more than have ever fitted the model's tokens."""
        return 64 * self.max_source_length

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Source ids of each text; of one far too long those of a part, since all take memory without bound."""
        texts = ["" if is_blank(text) else text for text in texts]
        # Of a text that is cut on the left, it is the end that counts.
        part = slice(-self._longest_text, None) if self.source.truncate == "left" else slice(self._longest_text)
        encoded = self.tokenizer.encode_source([text[part] for text in texts])
        for index, text in enumerate(texts):
            # Text that is mostly spaces may yet be short. The last tokens depend on where the text was cut.
            if len(text) > self._longest_text and len(encoded[index]) <= self.max_source_length + 16:
                [encoded[index]] = self.tokenizer.encode_source([text])
        return encoded

    def _each(
        self,
        params: Any,
        sources: list[list[int]],
        blank: Collection[int],
        take: Callable[[GenerationResult, int], Result],
        of_blank: Result,
        *,
        first_line: int = 1,
        progress: Callable[[int, int], None] | None,
    ) -> list[Result]:
        """`take(result, row)` of the result for each source, in order, and `of_blank` for a blank one."""
        searched = [index for index in range(len(sources)) if index not in blank]
        taken: dict[int, Result] = {}
        lines = np.array(searched, np.int32) + first_line - 1
        for indices, result in self._generate_all(params, [sources[index] for index in searched], lines):
            taken |= {searched[index]: take(result, row) for row, index in enumerate(indices)}
            if progress is not None:
                progress(len(sources) - len(searched) + len(taken), len(sources))
        return [taken.get(index, of_blank) for index in range(len(sources))]

    def _generate_all(
        self, params: Any, encoded: list[list[int]], lines: Int[np.ndarray, " texts"]
    ) -> Iterator[tuple[np.ndarray, GenerationResult]]:
        """Generate batch by batch; the next batch runs while the results of one are fetched."""
        batches = source_batches(
            encoded,
            vocabulary=self.tokenizer.vocabulary,
            source_tokens_per_batch=self.method.source_tokens_per_batch,
            max_length=self.max_source_length,
        )
        running = None
        for batch in batches:
            rows = pad_rows(batch.source, batch_shards(self.mesh))
            # Rows after those of texts are padding.
            of_rows = np.pad(lines[batch.indices], (0, len(rows.tokens) - len(batch.indices)))
            source, of_rows = global_batch((rows, of_rows), self.mesh, shard=(0, 1))
            started = batch.indices, self._program(params, source, of_rows)
            if running is not None:
                yield running[0], jax.device_get(running[1])
            running = started
        if running is not None:
            yield running[0], jax.device_get(running[1])

    def _generate_batch(self, params: Any, source: TokenRows, lines: Int[Array, "batch"]) -> GenerationResult:
        method = self.method
        apply = functools.partial(self.model.apply, {"params": params})
        limits, room = length_limits(
            source,
            ratio=method.maximum_length_ratio,
            extra=method.maximum_length_extra,
            position_limit=self.model.config.decoder.position_limit,
        )
        memory = apply(source, deterministic=True, method="encode")
        context = GenerationContext(
            step=lambda tokens, state: apply(tokens, state, method="step"),
            start=lambda number: apply(memory, max_length=room, beam_size=number, method="start"),
            limits=limits,
            max_length=room,
            vocabulary=self.model.vocabulary,
            lines=lines,
            piece_table=lambda: self._table,
        )
        return method.generate(context)

    def _hypotheses(self, result: GenerationResult, row: int) -> list[Hypothesis]:
        return [
            Hypothesis(
                text=self.tokenizer.decode_target(result.tokens[row, rank].tolist()),
                score=float(result.scores[row, rank]),
                log_probability=float(result.log_probabilities[row, rank]),
                num_tokens=int(result.lengths[row, rank]),
            )
            for rank in range(self.method.num_texts)
            if result.lengths[row, rank] > 0
        ]


def _blank(texts: list[str]) -> set[int]:
    """Indices of the texts of which nothing can be seen."""
    return {index for index, text in enumerate(texts) if is_blank(text)}


def _best_tokens(result: GenerationResult, row: int) -> list[int]:
    return result.tokens[row, 0, : result.lengths[row, 0]].tolist()


def pad_rows(rows: Rows, shards: int) -> Rows:
    """The rows, padded with empty rows to a multiple of `shards`."""
    missing = -jax.tree.leaves(rows)[0].shape[0] % shards
    return jax.tree.map(lambda array: np.pad(array, ((0, missing), (0, 0))), rows) if missing else rows
