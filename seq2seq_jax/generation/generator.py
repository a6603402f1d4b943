"""Generation from text to text: sources are batched by length, each batch shape is compiled once, and order is kept."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from seq2seq_jax.batch import Batch, DecodeState, FrameRows, SourceRows, TokenRows
from seq2seq_jax.data.columns import Frames, Tokens
from seq2seq_jax.data.layout import source_batches
from seq2seq_jax.data.splitting import TooLong, join_texts
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.constraints import LineArrays, LineTokens, TokenControls
from seq2seq_jax.generation.context import GenerationContext, GenerationResult, length_limits, output_limit
from seq2seq_jax.generation.controls import LineControls
from seq2seq_jax.generation.ctc import ctc_of, joint_start, joint_step
from seq2seq_jax.generation.ensemble import Ensemble
from seq2seq_jax.generation.frames import FrameSources
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.sources import FittedSources, SourceEncoder, SourceValues
from seq2seq_jax.model import EncoderDecoder, step_with_attention
from seq2seq_jax.parallel.mesh import JittedOnMesh, batch_sharding, batch_shards, global_batch, replicated
from seq2seq_jax.rewards.text import PieceTable

Result = TypeVar("Result")
Rows = TypeVar("Rows", TokenRows, FrameRows, Batch)


@dataclasses.dataclass(frozen=True, slots=True)
class Hypothesis:
    """One generated text.

    Attributes:
        text: detokenized text.
        score: the score that the search maximises: log-probability over the length penalty; of a text that was joined
            its log-probability.
        log_probability: in nats, EOS token included.
        num_tokens: number of tokens, EOS token included.
    """

    text: str
    score: float
    log_probability: float
    num_tokens: int


def _nobody(token: int) -> None:
    """Hears no token."""


EMPTY = Hypothesis(text="", score=0.0, log_probability=0.0, num_tokens=1)
"""What a blank source gives."""


class Generator:
    """Generates with one model, or an ensemble; compiled programs are reused between calls."""

    def __init__(
        self,
        model: EncoderDecoder | Ensemble,
        tokenizer: Tokenizer,
        method: GenerationMethod,
        *,
        source: Tokens | Frames,
        mesh: Mesh,
        tags: Sequence[str] = (),
    ):
        """Args:
        source: see `SourceEncoder`, and `FrameSources`.
        tags: see `SourceEncoder`.

        Raises:
            ValueError: the method does not work with the model, or its controls with the tokenizer.
        """
        method.check(num_experts=model.num_experts)
        if method.needs_ctc and not model.has_ctc:
            raise ValueError(
                f"{type(method).__name__} with CTC needs a model with model.ctc, and not an ensemble: choose another "
                "method (--generation), or set generation.ctc_weight to 0."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.method = method
        if isinstance(source, Frames):
            self.sources = FrameSources(source, seconds_per_position=model.seconds_per_position)
        else:
            self.sources = SourceEncoder(tokenizer, source, tags=tags)
        self.mesh = mesh
        self._controls = TokenControls.of(method.controls, tokenizer, shortest_limit=self.output_limit(1))
        self._compiled: set[tuple[tuple[int, ...], ...]] = set()
        self._program = self._jitted(self._generate_batch)
        self._hears_token: Callable[[int], None] = _nobody

    def _jitted(self, function: Callable[..., GenerationResult]) -> JittedOnMesh:
        return JittedOnMesh(
            function,
            self.mesh,
            in_shardings=(None, *[batch_sharding(self.mesh)] * 3),
            out_shardings=replicated(self.mesh),
        )

    @functools.cached_property
    def _streaming_program(self) -> JittedOnMesh:
        """The program that says each token as soon as it is there. It is not kept from one process to the next."""
        return self._jitted(functools.partial(self._generate_batch, hears_tokens=self._hear))

    def _hear(self, tokens: Any) -> None:
        """Takes the last token of the one hypothesis before the next one is computed."""
        [token] = np.asarray(tokens).tolist()
        if token != self.tokenizer.vocabulary.bos_id:
            self._hears_token(token)

    @property
    def max_source_length(self) -> int:
        """Tokens of the longest source, EOS token included."""
        return self.sources.max_length

    @functools.cached_property
    def _table(self) -> PieceTable:
        return PieceTable.of(self.tokenizer)

    def lower(self, params: Any, source: SourceRows, controls: LineArrays | None = None) -> jax.stages.Lowered:
        """The lowered program, for sources (and controls of their lines) or their shapes; its inputs are parameters,
        sources, numbers of their lines from 0, and controls.
        """
        return self._program.lower(
            params, source, jax.ShapeDtypeStruct(source.segment_ids.shape[:1], np.int32), controls
        )

    @property
    def _limits(self) -> dict[str, Any]:
        """What limits the length of outputs; see `length_limits`."""
        method = self.method
        return {
            "ratio": method.maximum_length_ratio,
            "extra": method.maximum_length_extra,
            "position_limit": self.model.position_limit,
            "maximum": method.controls.maximum_length,
        }

    def output_limit(self, source_length: int) -> int:
        """Tokens of an output at most, EOS token included, for a source of that many tokens."""
        return output_limit(source_length, **self._limits)

    def generate(
        self,
        params: Any,
        texts: Sequence[Any],
        *,
        too_long: TooLong | None = None,
        lines: Sequence[int] | None = None,
        controls: Sequence[LineControls] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The texts for each source, in order; for a blank source the empty text alone.

        Nothing is generated for a blank source: a model that never saw one makes something up.

        Args:
            too_long: see `SourceEncoder.fit`.
            lines: see `SourceEncoder.fit`.
            controls: requirements for the texts of each source; None = none.
            progress: called with (sources done, total sources) after each batch.

        Raises:
            ValueError: a text is longer than the model takes, with too_long refuse; or see `encode_controls`.
        """
        sources = self.sources.fit(texts, too_long=too_long, lines=lines)
        return self.generate_fitted(params, sources, controls=controls, progress=progress)

    def generate_fitted(
        self,
        params: Any,
        sources: FittedSources,
        *,
        controls: Sequence[LineControls] | None = None,
        shapes_of: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Like `generate`, for texts that are ids already.

        Args:
            shapes_of: see `source_batches`: fewer programs are compiled where numbers of sources vary.
        """
        batches = self.generate_batches(params, sources, controls=controls, shapes_of=shapes_of)
        return self._in_order(batches, len(sources), progress)

    def generate_batches(
        self,
        params: Any,
        sources: FittedSources,
        *,
        controls: Sequence[LineControls] | None = None,
        shapes_of: int = 0,
    ) -> Iterator[dict[int, list[Hypothesis]]]:
        """After each batch the texts for every source that is complete with it, by its index.

        Texts of the parts of a source are joined rank by rank; their log-probabilities are added.
        """
        line_tokens = None if controls is None else self.encode_controls(controls, sources)
        if blank := {index: [EMPTY] for index, parts in enumerate(sources.parts) if not parts}:
            yield blank
        rows = sources.rows
        waiting: dict[int, dict[int, list[Hypothesis]]] = {}
        ids = [sources.parts[text][part] for text, part in rows]
        for indices, result in self._generate_all(params, ids, sources.drawn_lines, line_tokens, shapes_of=shapes_of):
            complete = {}
            for row, index in enumerate(indices):
                text, part = rows[index]
                found = waiting.setdefault(text, {})
                found[part] = self._hypotheses(result, row)
                if len(found) == len(sources.parts[text]):
                    complete[text] = _joined([found[each] for each in sorted(found)])
                    del waiting[text]
            yield complete

    def generate_from_ids(
        self,
        params: Any,
        sources: Sequence[SourceValues],
        *,
        blank: Collection[int] = (),
        controls: Sequence[LineControls] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Like `generate`, for source ids that end in the EOS token and are no longer than the model takes.

        Args:
            blank: indices of those of blank texts.
            controls: see `generate`; those of blank texts count for nothing.
        """
        parts: list[list[SourceValues]] = [[] if index in blank else [ids] for index, ids in enumerate(sources)]
        fitted = FittedSources(parts, np.arange(1, len(sources) + 1), [])
        if controls is not None:
            controls = [LineControls() if index in blank else each for index, each in enumerate(controls)]
        return self.generate_fitted(params, fitted, controls=controls, progress=progress)

    @property
    def can_stream(self) -> bool:
        """Whether tokens are known one after the other, on one device."""
        return self.method.num_hypotheses == 1 and self.mesh.size == 1

    def generate_one(
        self, params: Any, ids: Sequence[int], *, line: int, on_token: Callable[[int], None] | None = None
    ) -> Hypothesis:
        """The first text for one source, by a program that is the same for sources of any length.

        Args:
            ids: of the source, EOS token included, no more than the model takes.
            line: number of the source, from 1, which what is drawn depends on.
            on_token: takes each token but the last, in another thread, as soon as it is there; where the method cannot
                stream it is not called.
        """
        row = np.full((1, self.max_source_length), self.tokenizer.vocabulary.pad_id, np.int32)
        row[0, : len(ids)] = ids
        places = np.arange(row.shape[1], dtype=np.int32)[None]
        inside = places < len(ids)
        source = TokenRows(
            tokens=row,
            segment_ids=inside.astype(np.int32),
            positions=np.where(inside, places, 0),
            max_segments=1,
        )
        shards = batch_shards(self.mesh)
        lines = np.zeros(shards, np.int32)
        lines[0] = line - 1
        streams = on_token is not None and self.can_stream
        program = self._streaming_program if streams else self._program
        self._hears_token = on_token or _nobody
        try:
            inputs = global_batch((pad_rows(source, shards), lines, None), self.mesh, shard=(0, 1))
            result = jax.device_get(program(params, *inputs))
        finally:
            self._hears_token = _nobody
        return self._hypotheses(result, 0)[0]

    def best_tokens(
        self, params: Any, texts: Sequence[Any], *, progress: Callable[[int, int], None] | None = None
    ) -> list[list[int]]:
        """Target ids of the best text for each source, in order, EOS tokens included; otherwise like `generate`.

        Encoding the decoded text again may give other ids.
        """
        blank = {
            index: [self.tokenizer.vocabulary.eos_id] for index, text in enumerate(texts) if self.sources.is_blank(text)
        }
        searched = [index for index in range(len(texts)) if index not in blank]
        encoded = self.sources.encode(texts)

        def batches() -> Iterator[dict[int, list[int]]]:
            yield blank
            for indices, result in self._generate_all(
                params, [encoded[index] for index in searched], np.array(searched, np.int32)
            ):
                yield {searched[index]: _best_tokens(result, row) for row, index in enumerate(indices)}

        return self._in_order(batches(), len(texts), progress)

    def best_tokens_of(self, params: Any, encoded: Sequence[SourceValues]) -> list[list[int]]:
        """Like `best_tokens`, for source ids that end in the EOS token."""
        taken: dict[int, list[int]] = {}
        for indices, result in self._generate_all(params, encoded, np.arange(len(encoded), dtype=np.int32)):
            taken |= {int(index): _best_tokens(result, row) for row, index in enumerate(indices)}
        return [taken[index] for index in range(len(encoded))]

    def encode_controls(self, controls: Sequence[LineControls], sources: FittedSources) -> list[LineTokens]:
        """Token ids of the requirements for each row of sources.

        Raises:
            ValueError: phrases that the method cannot take; requirements for a blank source or one that was split;
                or see `LineTokens.of`. The message names the line.
        """
        if any(line.phrases for line in controls):
            self.method.check_phrases()
        found = []
        for line, parts, number in zip(controls, sources.parts, map(int, sources.lines), strict=True):
            if len(parts) != 1 and (line.prefix or line.phrases):
                reason = "is too long and was split" if parts else "is blank, so that nothing is generated for it"
                raise ValueError(
                    f"line {number} {reason}, and has a prefix or phrases: leave them out, or give "
                    f"{'shorter text' if parts else 'a source'}"
                )
            for part in parts:
                limit = self.output_limit(len(part))
                found.append(LineTokens.of(line, self._controls, self.tokenizer, limit=limit, number=number))
        return found

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

    @staticmethod
    def _in_order(
        batches: Iterator[dict[int, Result]], number: int, progress: Callable[[int, int], None] | None
    ) -> list[Result]:
        """What batches give for each of a number of sources, in order."""
        found: dict[int, Result] = {}
        for batch in batches:
            found |= batch
            if progress is not None and batch:
                progress(len(found), number)
        return [found[index] for index in range(number)]

    def _generate_all(
        self,
        params: Any,
        encoded: Sequence[SourceValues],
        lines: Int[np.ndarray, " texts"],
        line_tokens: list[LineTokens] | None = None,
        *,
        shapes_of: int = 0,
    ) -> Iterator[tuple[np.ndarray, GenerationResult]]:
        """Generate batch by batch; the next batch runs while the results of one are fetched.

        Nothing waits for a program that must be compiled first.
        """
        batches = source_batches(
            encoded,
            column=self.sources.column,
            vocabulary=self.tokenizer.vocabulary,
            source_tokens_per_batch=self.method.source_tokens_per_batch,
            max_length=self.max_source_length,
            shapes_of=shapes_of,
        )
        # Arrays of all texts, so that batches of one length have one shape.
        of_texts = lines, None if line_tokens is None else LineArrays.of(line_tokens)
        running = None
        for batch in batches:
            rows = pad_rows(batch.source, batch_shards(self.mesh))
            inputs = rows, *_with_padding(of_texts, batch.indices, len(rows.segment_ids))
            shapes = tuple(leaf.shape for leaf in jax.tree.leaves(inputs))
            if running is not None and shapes not in self._compiled:
                yield running[0], jax.device_get(running[1])
                running = None
            started = batch.indices, self._program(params, *global_batch(inputs, self.mesh, shard=(0, 1)))
            self._compiled.add(shapes)
            if running is not None:
                yield running[0], jax.device_get(running[1])
            running = started
        if running is not None:
            yield running[0], jax.device_get(running[1])

    def _generate_batch(
        self,
        params: Any,
        source: SourceRows,
        lines: Int[Array, "batch"],
        controls: LineArrays | None,
        *,
        hears_tokens: Callable[[Any], None] | None = None,
    ) -> GenerationResult:
        method = self.method
        apply = functools.partial(self.model.apply, {"params": params})
        limits, room = length_limits(source, **self._limits)
        memory = apply(source, deterministic=True, method="encode")

        def step(tokens: Int[Array, "hypotheses"], state: DecodeState) -> tuple[Any, DecodeState]:
            if hears_tokens is not None:
                jax.debug.callback(hears_tokens, tokens, ordered=True)
            return apply(tokens, state, method="step")

        def start(number: int) -> DecodeState:
            return apply(memory, max_length=room, beam_size=number, method="start")

        vocabulary = self.model.vocabulary
        found = ctc_of(apply, memory, source.mask, blank=vocabulary.pad_id) if method.needs_ctc else None
        weight = getattr(method, "ctc_weight", 0.0)
        context = GenerationContext(
            step=joint_step(step, weight=weight, vocabulary=vocabulary) if weight else step,
            start=(lambda number: joint_start(start, found, number, blank=vocabulary.pad_id)) if weight else start,
            limits=limits,
            max_length=room,
            vocabulary=self.model.vocabulary,
            lines=lines,
            piece_table=lambda: self._table,
            processor=self._controls.processor(source, limits, controls),
            attending_step=functools.partial(step_with_attention, self.model, params)
            if method.controls.coverage_penalty
            else None,
            ctc=lambda: found,
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


def _joined(parts: list[list[Hypothesis]]) -> list[Hypothesis]:
    """The texts of a source from those of its parts: the best with the best, and so on, while all have one."""
    if len(parts) == 1:
        return parts[0]
    joined = []
    for of_rank in zip(*parts, strict=False):
        total = sum(each.log_probability for each in of_rank)
        joined.append(
            Hypothesis(
                text=join_texts([each.text for each in of_rank]),
                score=total,
                log_probability=total,
                num_tokens=sum(each.num_tokens for each in of_rank),
            )
        )
    return joined


def _best_tokens(result: GenerationResult, row: int) -> list[int]:
    return result.tokens[row, 0, : result.lengths[row, 0]].tolist()


def _with_padding(arrays: Any, indices: Int[np.ndarray, " texts"], number: int) -> Any:
    """Rows of a tree of arrays, then zeros up to a number of rows, which are those of no text."""

    def of_leaf(leaf: np.ndarray) -> np.ndarray:
        return np.pad(leaf[indices], [(0, number - len(indices)), *[(0, 0)] * (leaf.ndim - 1)])

    return jax.tree.map(of_leaf, arrays)


def pad_rows(rows: Rows, shards: int) -> Rows:
    """The rows, padded with empty rows to a multiple of `shards`."""
    missing = -jax.tree.leaves(rows)[0].shape[0] % shards
    return (
        jax.tree.map(lambda array: np.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1))), rows)
        if missing
        else rows
    )
