"""python -m seq2seq_jax.benchmark.gpu: what launch/gpu_benchmark.sh measures of this project alone, and its summary."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary
from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.memory import peak_memory
from seq2seq_jax.benchmark.training_step import TrainingStep
from seq2seq_jax.benchmark.workload import full_rows
from seq2seq_jax.compilation.memory import MemoryUse
from seq2seq_jax.compilation.programs import system_without_data
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.data.packing import BatchPlan, BatchRows, RowShape
from seq2seq_jax.experiment import Experiment, load_config_by_name, override
from seq2seq_jax.modules.dot_product_attention import dot_product_attention
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.modules.fused_attention import LONGEST_MASKED, fused_attention, obstacle, read_places
from seq2seq_jax.modules.segments import Segments
from seq2seq_jax.objectives.estimators import LeaveOneOut
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.parallel.chips import peak_flops
from seq2seq_jax.parallel.mesh import JittedOnMesh
from seq2seq_jax.parallel.mesh_config import MeshConfig

PROGRAM = "python -m seq2seq_jax.benchmark.gpu"
DESCRIPTION = """\
Measure one part of what launch/gpu_benchmark.sh measures, on full or made-up rows, so that no data is needed; or, with
--summary DIR, show the measurements of all parts that have left a file there. Exit status 1: a part's check failed.
"""

MEAN_LENGTH, LENGTH_SPREAD, RATIO_SPREAD = 27.0, 0.64, 0.2
"""Of sentences like WMT 2014's: log-normal with this mean (tokens, about that of its training text in pieces of a joint
vocabulary of 32 to 37 thousand) and this standard deviation of the logarithm; a target is its source times a
log-normal factor."""

VALUE_TOLERANCE, GRADIENT_TOLERANCE = 2e-2, 4e-2
"""Largest difference of fused attention from the mask in float32, over the largest value: bfloat16 has 8 bits."""

PartName = Literal["attention", "t5_large", "transformer_big", "packing", "policy_gradient"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuArguments:
    """Command line of a part."""

    part: PartName | None = None
    """What is measured."""
    toy: bool = False
    """Small models and batches, to see that the part runs; its measurements say nothing."""
    rounds: int = 7
    """Turns (5 at least)."""
    json: str | None = None
    """File for the measurements, as JSON."""
    summary: str | None = None
    """Directory of such files: show them together, and write DIR/summary.json."""
    topology: str | None = None
    """A GPU that need not be here, such as h100:1: only compile the part's programs for it, and report memory and
    seconds (needs jax's CUDA plugin)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that a part found.

    Attributes:
        value: None = not measured.
        target: what issue or paper asks for, in words; empty = nothing.
        note: what goes with it.
    """

    name: str
    value: float | None
    unit: str
    target: str = ""
    note: str = ""


def with_stacks(experiment: Experiment, *, vocabulary: int, **changed: Any) -> Experiment:
    """The experiment with both stacks, and the vocabulary, changed."""
    model = experiment.model
    return dataclasses.replace(
        experiment,
        tokenizer=dataclasses.replace(experiment.tokenizer, vocabulary_size=vocabulary),
        model=dataclasses.replace(
            model,
            encoder=dataclasses.replace(model.encoder, **changed),
            decoder=dataclasses.replace(model.decoder, **changed),
        ),
    )


TOY = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "head_dim": 16, "hidden_dim": 64}


IN_A_LOOP = {"scan_layers": True, "remat": "save_products"}
"""Stacks for parts that compile several programs: a loop over layers compiles in a fifth of the time, and what is not
saved in it need not be copied to and from arrays of all layers."""


class Steps:
    """Training steps of an experiment on batches that are given, each shape a contender of its own."""

    def __init__(self, experiment: Experiment):
        self.system = system_without_data(experiment, jax.devices()[:1])
        self._step = TrainingStep(self.system.build_update(), self.system.initial_state())

    def time(self, batches: Mapping[Any, Batch], *, rounds: int, calls: int) -> dict[Any, harness.Timing]:
        """Seconds of a step on each batch, in turns."""
        return harness.take_turns(
            {name: self.contender(batch) for name, batch in batches.items()}, rounds=rounds, calls=calls, warm_up=1
        )

    def contender(self, batch: Batch) -> Callable[[], object]:
        """A step on the batch, as something to be timed."""
        placed = self.system.place(batch)
        return lambda: self._step(placed)


TrainingSteps = dict[Any, tuple[Experiment, Batch]]
"""What a part times, by name: steps of an experiment on a batch."""


def vocabulary_of(experiment: Experiment) -> Vocabulary:
    """The vocabulary of an experiment without its data."""
    return system_without_data(experiment, jax.devices()[:1]).model.vocabulary


def full_step(experiment: Experiment, *, rows: int, source: int, target: int) -> TrainingSteps:
    """A step on full rows."""
    shape = RowShape(rows=rows, source_length=source, target_length=target)
    return {"full": (experiment, full_rows(shape, vocabulary_of(experiment), seed=0))}


def measure_full(steps: TrainingSteps, *, rounds: int, calls: int, least: float) -> list[Figure]:
    """Speed of a step on full rows, and MFU, of which `least` is asked."""
    [(experiment, batch)] = steps.values()
    (rows, source), target = batch.source.tokens.shape, batch.target.tokens.shape[1]
    timing = Steps(experiment).time({"full": batch}, rounds=rounds, calls=calls)["full"]
    seconds = timing.spread.median
    flops = rows * TRAINING * experiment.model.forward_flops(source, target, vocabulary=vocabulary_of(experiment))
    peak = peak_flops(jax.devices()[0], jnp.bfloat16, reached=flops / seconds)
    note = f"{rows} x ({source} + {target}) tokens, first call {timing.first_call:.0f} s"
    held = peak_memory()["device_peak_bytes"]
    utilization = None if peak is None else 100 * flops / seconds / peak
    return [
        Figure(name="step", value=1e3 * seconds, unit="ms", note=note),
        Figure(name="target tokens", value=rows * target / seconds, unit="/s"),
        Figure(name="pairs", value=rows / seconds, unit="/s"),
        Figure(name="MFU", value=utilization, unit="%", target=f"at least {least:.0f}"),
        Figure(name="peak memory", value=None if held is None else held / 1e9, unit="GB"),
    ]


def t5_large_steps(*, toy: bool) -> TrainingSteps:
    """T5-large's size, 512 + 128 tokens."""
    experiment = load_config_by_name("c4_span_corruption/t5_large")
    if toy:
        return full_step(with_stacks(experiment, vocabulary=500, **TOY), rows=2, source=16, target=8)
    experiment = with_stacks(experiment, vocabulary=32_128, remat="save_products")
    return full_step(experiment, rows=64, source=512, target=128)


def t5_large(*, toy: bool, rounds: int) -> list[Figure]:
    """Training steps of T5-large's size."""
    return measure_full(t5_large_steps(toy=toy), rounds=rounds, calls=1 if toy else 3, least=50)


def transformer_big_steps(*, toy: bool) -> TrainingSteps:
    """Transformer-big, 128 + 128 tokens."""
    experiment = load_config_by_name("wmt14_de_en/transformer_big")
    if toy:
        return full_step(with_stacks(experiment, vocabulary=500, **TOY), rows=2, source=64, target=64)
    return full_step(experiment, rows=256, source=128, target=128)


def transformer_big(*, toy: bool, rounds: int) -> list[Figure]:
    """Training steps of Transformer-big."""
    return measure_full(transformer_big_steps(toy=toy), rounds=rounds, calls=1 if toy else 3, least=45)


def sentence_lengths(number: int, *, longest: int, seed: int) -> Int[np.ndarray, "sides examples"]:
    """Tokens of made-up sources and targets, like WMT's."""
    random = np.random.default_rng(seed)
    center = np.log(MEAN_LENGTH) - LENGTH_SPREAD**2 / 2
    source = random.lognormal(center, LENGTH_SPREAD, number)
    target = source * random.lognormal(0.0, RATIO_SPREAD, number)
    return np.clip(np.rint([source, target]), 2, longest).astype(np.int64)


def rows_of(rows: BatchRows, lengths: Int[np.ndarray, "sides examples"], vocabulary: int) -> Batch:
    """The batch of some rows of a plan, of random tokens."""
    random = np.random.default_rng(0)

    def side(lengths: Int[np.ndarray, " examples"], row_length: int) -> TokenRows:
        ids, positions = np.zeros((2, len(rows.counts), row_length), np.int32)
        for row, examples in enumerate(rows.rows):
            own = lengths[examples]
            ids[row, : own.sum()] = np.repeat(np.arange(1, len(own) + 1), own)
            positions[row, : own.sum()] = np.concatenate([np.arange(length) for length in own] or [own])
        tokens = np.where(ids > 0, random.integers(4, vocabulary, ids.shape), 0).astype(np.int32)
        return TokenRows(tokens=tokens, segment_ids=ids, positions=positions, max_segments=rows.max_examples)

    return Batch(source=side(lengths[0], rows.source_length), target=side(lengths[1], rows.target_length))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackingPlan:
    """Packed rows, and one pair per row, of the same made-up sentences.

    Attributes:
        steps: one of each kind, by name.
        batches: batches of an epoch of each kind.
        tokens: target tokens of an epoch.
    """

    steps: TrainingSteps
    batches: dict[str, int]
    tokens: int


def plan_packing(*, toy: bool) -> PackingPlan:
    """Rows of 128 tokens per side, 32,768 target positions per batch."""
    experiment = load_config_by_name("wmt14_de_en/transformer_big")
    row, places, vocabulary = 128, 256 * 128, experiment.tokenizer.vocabulary_size
    if toy:
        row, places, vocabulary = 64, 4 * 64, 500
    experiment = with_stacks(experiment, vocabulary=vocabulary, **IN_A_LOOP, **(TOY if toy else {}))
    # It has to divide the length of a row.
    objective = dataclasses.replace(experiment.objective, loss_chunk=row // 2)
    experiment = dataclasses.replace(experiment, objective=objective)
    lengths = sentence_lengths(places // 2, longest=row, seed=0)
    steps, counts = {}, {}
    for name, most in (("packed", 16), ("padded", 1)):
        plan = BatchPlan(
            *lengths,
            examples=np.arange(lengths.shape[1]),
            shapes=(RowShape(rows=places // row, source_length=row, target_length=row, max_examples=most),),
            packing=most > 1,
            window=lengths.shape[1],
            seed=0,
        )
        epoch = list(plan.epoch())
        counts[name] = len(epoch)
        steps[name] = experiment, rows_of(epoch[0], lengths, vocabulary)
    return PackingPlan(steps=steps, batches=counts, tokens=int(lengths[1].sum()))


def packing(*, toy: bool, rounds: int) -> list[Figure]:
    """Packed rows beside one pair per row, all as long as the longest: target tokens per second."""
    plan = plan_packing(toy=toy)
    experiment, _ = plan.steps["packed"]
    timings = Steps(experiment).time({name: batch for name, (_, batch) in plan.steps.items()}, rounds=rounds, calls=1)
    epochs = {name: [count * seconds for seconds in timings[name].seconds] for name, count in plan.batches.items()}
    figures = [
        Figure(name=f"{name}: target tokens", value=plan.tokens / harness.Spread.of(seconds).median, unit="/s")
        for name, seconds in epochs.items()
    ]
    ratio = harness.paired_ratio(epochs["padded"], epochs["packed"]).median
    return [*figures, Figure(name="packed / padded", value=ratio, unit="x", target="at least 1.8")]


def policy_gradient_steps(*, toy: bool) -> TrainingSteps:
    """A policy-gradient step of Transformer-big, 5 samples of 128 tokens for each of 64 sources, and one of maximum
    likelihood on the same pairs.
    """
    rows, length, samples = (2, 16, 2) if toy else (64, 128, 5)
    experiment = load_config_by_name("wmt14_de_en/transformer_big")
    vocabulary = 500 if toy else experiment.tokenizer.vocabulary_size
    experiment = with_stacks(experiment, vocabulary=vocabulary, **IN_A_LOOP, **(TOY if toy else {}))
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(
            experiment.data,
            packing=False,
            max_source_length=length,
            max_target_length=length,
            max_examples_per_row=None,
        ),
        objective=dataclasses.replace(experiment.objective, loss_chunk=length // 2),
        training=dataclasses.replace(experiment.training, target_tokens_per_batch=rows * length),
    )
    sampled = PolicyGradientConfig(
        estimator=LeaveOneOut(),
        samples_per_source=samples,
        maximum_length_ratio=(length - 1) / length,
        maximum_length_extra=1,
    )
    batch = full_rows(
        RowShape(rows=rows, source_length=length, target_length=length), vocabulary_of(experiment), seed=0
    )
    return {
        "maximum likelihood": (experiment, batch),
        "policy gradient": (dataclasses.replace(experiment, objective=sampled), batch),
    }


def policy_gradient(*, toy: bool, rounds: int) -> list[Figure]:
    """A policy-gradient step beside one of maximum likelihood.

    The parameters are random, so that no sample ends before its limit and every row is full.
    """
    steps = policy_gradient_steps(toy=toy)
    experiment, batch = steps["policy gradient"]
    samples, target_tokens = experiment.objective.samples_per_source, batch.target.tokens.size
    contenders = {name: Steps(experiment).contender(batch) for name, (experiment, batch) in steps.items()}
    timings = harness.take_turns(contenders, rounds=rounds, warm_up=1)
    tokens = {"maximum likelihood": target_tokens, "policy gradient": samples * target_tokens}
    cost = harness.paired_ratio(*(timings[name].seconds for name in reversed(tokens)))
    return [
        *(
            Figure(
                name=f"{name}: step",
                value=1e3 * timings[name].spread.median,
                unit="ms",
                note=f"{tokens[name]:,} target tokens, first call {timings[name].first_call:.0f} s",
            )
            for name in tokens
        ),
        Figure(
            name=f"cost of a token, {samples} samples / maximum likelihood",
            value=cost.median / samples,
            unit="x",
            target="at most 2.5",
        ),
    ]


def masked_attention(
    queries: Float[Array, "batch target heads head_dim"],
    keys: Float[Array, "batch source heads head_dim"],
    values: Float[Array, "batch source heads head_dim"],
    segments: Segments,
    *,
    bias: Float[Array, "1 heads target source"] | None,
) -> Float[Array, "batch target heads head_dim"]:
    """What fused attention has to agree with: a mask on all scores, in float32."""
    queries, keys, values = (x.astype(jnp.float32) for x in (queries, keys, values))
    with jax.default_matmul_precision("highest"):
        context, _ = dot_product_attention(
            queries, keys, values, segments.mask(), bias=bias, dropout=0.0, dropout_key=None, precision="float32"
        )
    return jnp.where(read_places(segments)[0][:, :, None, None], context, 0.0)


def segments_of_rows(lengths: list[list[int]], row: int) -> Int[np.ndarray, "batch length"]:
    """Segment ids of rows whose segments are so long."""
    ids = np.zeros((len(lengths), row), np.int32)
    for index, own in enumerate(lengths):
        ids[index, : sum(own)] = np.repeat(np.arange(1, len(own) + 1), own)
    return ids


QUERIES_OF, KEYS_OF = [[20, 30, 5], [1, 63], [], [40]], [[10, 5, 40, 2], [60, 4], [], [64]]
"""64ths of a row that each segment takes, of both sides."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """Rows on which fused attention is compared with the mask.

    Attributes:
        segments: of queries and keys.
        biased: whether there is a bias on the scores, which is learned.
        reason: why the kernel is not tried; None = it is.
        heads: number of heads.
        head_dim: width of a head.
    """

    segments: Segments
    biased: bool
    reason: str | None
    heads: int
    head_dim: int

    @property
    def attend(self) -> Callable[..., Array]:
        """What is compared: where the kernel is not tried, the mask itself."""
        return masked_attention if self.reason else fused_attention

    def inputs(self) -> list[Array]:
        """Queries, keys, values and, if there is one, the bias; then the weights of the context in a total."""
        random = np.random.default_rng(0)

        def normal(*shape: int, dtype: Any = jnp.bfloat16) -> Array:
            return jnp.array(random.normal(size=shape), dtype)

        ids = self.segments.queries, self.segments.keys
        query_shape, key_shape = ((*each.shape, self.heads, self.head_dim) for each in ids)
        inputs = [normal(*query_shape), normal(*key_shape), normal(*key_shape)]
        if self.biased:
            inputs.append(normal(1, self.heads, query_shape[1], key_shape[1]).astype(jnp.float32))
        return [*inputs, normal(*query_shape, dtype=jnp.float32)]

    def graded(self, attend: Callable[..., Array]) -> Callable[..., tuple[Array, ...]]:
        """A function of the inputs: the context, and the gradients of its weighted total by all inputs but weights."""

        def total(*inputs: Array) -> tuple[Array, Array]:
            *inputs, weights = inputs
            context = attend(*inputs[:3], self.segments, bias=inputs[3] if self.biased else None).astype(jnp.float32)
            return jnp.sum(context * weights), context

        def graded(*inputs: Array) -> tuple[Array, ...]:
            gradients, context = jax.grad(total, argnums=tuple(range(len(inputs) - 1)), has_aux=True)(*inputs)
            return context, *gradients

        return graded

    def sees_another(self, queries: Array, keys: Array, values: Array, *rest: Array) -> Array:
        """Whether any value of the context changes when keys and values of another segment do; takes the inputs."""
        bias = rest[0] if self.biased else None

        def forward(keys: Array, values: Array) -> Array:
            return self.attend(queries, keys, values, self.segments, bias=bias)

        before = forward(keys, values)

        def changes(chosen: Array) -> Array:
            own = (self.segments.keys == chosen)[:, :, None, None]
            after = forward(jnp.where(own, keys + 1, keys), jnp.where(own, values + 1, values))
            return jnp.any((after != before) & (self.segments.queries != chosen)[:, :, None, None])

        return jnp.any(jax.lax.map(changes, jnp.arange(1, 1 + max(map(len, KEYS_OF)))))


def attention_cases(*, toy: bool, mesh: Mesh | None = None) -> dict[str, AttentionCase]:
    """The rows on which fused attention is compared with the mask, by name.

    Args:
        mesh: of devices that need not be here, on which the kernel would be tried; None = on the process's own.
    """
    heads, head_dim, row = (2, 16, 64) if toy else (16, 64, 256)

    def ids(rows: list[list[int]], row: int) -> Int[Array, "batch length"]:
        return jnp.array(segments_of_rows([[length * row // 64 for length in own] for own in rows], row))

    def rows(row: int, *, most: int, causal: bool, cross: bool = False) -> Segments:
        queries, keys = (rows if most > 1 else [own[:1] for own in rows] for rows in (QUERIES_OF, KEYS_OF))
        queries = ids(queries, row)
        return Segments(queries=queries, keys=ids(keys, row) if cross else queries, max_segments=most, causal=causal)

    long = row if toy else 2 * LONGEST_MASKED
    cases = {
        "packed, self, causal": (rows(row, most=6, causal=True), False),
        "packed, self": (rows(row, most=6, causal=False), False),
        "packed, cross": (rows(row, most=6, causal=False, cross=True), False),
        "packed, long, causal": (rows(long, most=6, causal=True), False),
        "packed, long, cross": (rows(long, most=6, causal=False, cross=True), False),
        "single, causal": (rows(row, most=1, causal=True), False),
        "single, cross": (rows(row, most=1, causal=False, cross=True), False),
        "single, bias, causal": (rows(row, most=1, causal=True), True),
    }
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        return {
            name: AttentionCase(
                segments=segments,
                biased=biased,
                reason=obstacle(segments, head_dim=head_dim, precision="bfloat16", relative=biased, dropout=False),
                heads=heads,
                head_dim=head_dim,
            )
            for name, (segments, biased) in cases.items()
        }


def attention(*, toy: bool, rounds: int) -> list[Figure]:
    """Whether fused attention agrees with the mask, gradients too, and no segment sees another.

    Where there is no GPU, the mask's own form takes the kernel's place: then only the check itself is tried.

    Raises:
        ArithmeticError: it does not agree, or leaks.
    """
    cases = attention_cases(toy=toy)
    # Most of the time is compilation, of programs that do not depend on each other.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = {name: pool.submit(compare_attention, case) for name, case in cases.items()}
        compared = {name: each.result() for name, each in running.items()}
    figures, wrong = [], []
    for name, (largest, leak) in compared.items():
        reason = cases[name].reason
        differences = ", ".join(f"{what} {value:.1e}" for what, value in largest.items())
        figures.append(
            Figure(
                name=f"{name}: largest difference",
                value=None if reason else max(largest.values()),
                unit="of the largest",
                target=f"at most {VALUE_TOLERANCE}, gradients {GRADIENT_TOLERANCE}",
                note=f"the kernel was not tried: {reason}" if reason else differences,
            )
        )
        allowed = {what: VALUE_TOLERANCE if what == "values" else GRADIENT_TOLERANCE for what in largest}
        # Not `>`: a difference from NaN is NaN, and is none that is allowed.
        wrong += [f"{name}: {what}: {value:.1e}" for what, value in largest.items() if not value <= allowed[what]]
        wrong += [f"{name}: a segment sees another"] if leak else []
    if wrong:
        raise ArithmeticError("fused attention is wrong: " + "; ".join(wrong))
    return figures


def compare_attention(case: AttentionCase) -> tuple[dict[str, float], bool]:
    """Differences from the mask, over the largest value, of values and gradients; and whether segments see others."""
    inputs = case.inputs()
    names = ("values", "queries' gradient", "keys' gradient", "values' gradient", "bias's gradient")
    ours, masks = (jax.jit(case.graded(attend))(*inputs) for attend in (case.attend, masked_attention))
    largest = {}
    for name, our, mask in zip(names, ours, masks, strict=False):
        our, mask = np.asarray(our, np.float32), np.asarray(mask, np.float32)
        largest[name] = float(np.max(np.abs(our - mask)) / np.max(np.abs(mask)))
    return largest, bool(jax.jit(case.sees_another)(*inputs))


STEPS: dict[str, Callable[..., TrainingSteps]] = {
    "t5_large": t5_large_steps,
    "transformer_big": transformer_big_steps,
    "packing": lambda *, toy: plan_packing(toy=toy).steps,
    "policy_gradient": policy_gradient_steps,
}
"""Of the parts that time training steps."""


def compile_part(part: PartName, topology: Topology, *, toy: bool) -> list[Figure]:
    """Memory of a part's programs on one GPU, as its compiler reports it, and the seconds of compilation."""
    with topology.target():
        devices = topology.devices()[:1]
        programs = (
            attention_programs(devices, toy=toy) if part == "attention" else step_programs(part, devices, toy=toy)
        )
        figures = []
        for name, lower in programs.items():
            started = time.perf_counter()
            memory = MemoryUse.of(lower().compile())
            verdict = "fits" if memory.peak < topology.chip.memory else "DOES NOT FIT"
            seconds = time.perf_counter() - started
            note = f"compiled in {seconds:.0f} s, nothing measured; {verdict} on {topology.chip.name}"
            figures.append(Figure(name=f"{name}: memory", value=memory.peak / 1e9, unit="GB", note=note))
    return figures


Programs = dict[str, Callable[[], jax.stages.Lowered]]
"""By name, what lowers each."""


def step_programs(part: PartName, devices: list[Any], *, toy: bool) -> Programs:
    """The training steps that a part times."""

    def lower(experiment: Experiment, batch: Batch) -> jax.stages.Lowered:
        system = system_without_data(experiment, devices)
        return system.build_update().lower(system.layout, jax.eval_shape(lambda batch: batch, batch))

    return {name: functools.partial(lower, *step) for name, step in STEPS[part](toy=toy).items()}


def attention_programs(devices: list[Any], *, toy: bool) -> Programs:
    """What fused attention is checked with, of each case.

    Raises:
        ValueError: the kernel cannot be tried on a case.
    """
    mesh = MeshConfig().build(devices)
    programs = {}
    for name, case in attention_cases(toy=toy, mesh=mesh).items():
        if case.reason is not None:
            raise ValueError(f"{name}: the kernel cannot be tried: {case.reason}.")
        functions = {
            "": case.graded(case.attend),
            ", by the mask": case.graded(masked_attention),
            ", leaks": case.sees_another,
        }
        for kind, function in functions.items():
            jitted = JittedOnMesh(function, mesh)
            programs[name + kind] = functools.partial(_lower_on, jitted, case, NamedSharding(mesh, PartitionSpec()))
    return programs


def _lower_on(jitted: JittedOnMesh, case: AttentionCase, sharding: NamedSharding) -> jax.stages.Lowered:
    shapes = jax.eval_shape(case.inputs)
    return jitted.lower(*(jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding) for each in shapes))


PARTS: dict[str, Callable[..., list[Figure]]] = {
    "attention": attention,
    "t5_large": t5_large,
    "transformer_big": transformer_big,
    "packing": packing,
    "policy_gradient": policy_gradient,
}


def summarize(directory: Path) -> list[tuple[str, Figure]]:
    """The measurements of all parts that left a file, this project's own and those of the other benchmarks.

    Raises:
        ValueError: there is no such directory.
    """
    if not directory.is_dir():
        raise ValueError(f"--summary needs the directory of the measurements, and {directory} is none.")
    found = []
    for path in sorted(directory.glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        if path.stem == "summary":
            continue
        if "figures" in figures:
            found += [(path.stem, Figure(**each)) for each in figures["figures"]]
        for name, model in figures.get("models", {}).items():
            target = {"t5": "at least 1.5", "transformer": "at least 1.05"}.get(name, "")
            ratio = Figure(name="PyTorch / seq2seq_jax", value=model["ratio"]["median"], unit="x", target=target)
            found.append((path.stem, ratio))
        for system, speed in figures.get("speed", {}).items():
            target = {"Hugging Face": "at least 4", "CTranslate2": "at least 1.0"}.get(system)
            if target is not None:
                ratio = Figure(
                    name=f"{system} / seq2seq_jax", value=speed["search_ratio"]["median"], unit="x", target=target
                )
                found.append((path.stem, ratio))
    return found


def main(arguments: list[str]) -> None:
    """Parse the command line, measure a part or show all.

    Raises:
        ValueError: a value does not fit.
    """
    chosen = override(GpuArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    if (chosen.part is None) == (chosen.summary is None):
        raise ValueError("give either --part or --summary DIR.")
    console = report.output()
    if chosen.summary is not None:
        directory = Path(chosen.summary)
        found = summarize(directory)
        rows = [(f"{part}: {figure.name}", _shown(figure), figure.target, figure.note) for part, figure in found]
        console.print(report.table(("figure", "measured", "target", "note"), rows, title="All parts"))
        report.write_json(
            [{"part": part, **dataclasses.asdict(figure)} for part, figure in found], str(directory / "summary.json")
        )
        return
    topology = None if chosen.topology is None else Topology.parse(chosen.topology)
    if topology is not None:
        topology.prepare()
    environment = harness.environment()
    try:
        if topology is not None:
            figures = compile_part(chosen.part, topology, toy=chosen.toy)
        else:
            figures = PARTS[chosen.part](toy=chosen.toy, rounds=chosen.rounds)
    except ArithmeticError as error:
        console.print(str(error))
        raise SystemExit(1) from None
    for figure in figures:
        console.print(f"{chosen.part}: {figure.name} {_shown(figure)} {figure.note}".rstrip())
    report.write_json(
        {
            "part": chosen.part,
            "toy": chosen.toy,
            "environment": environment,
            "figures": [dataclasses.asdict(figure) for figure in figures],
        },
        chosen.json,
    )


def _shown(figure: Figure) -> str:
    return "not measured" if figure.value is None else f"{figure.value:,.4g} {figure.unit}"


if __name__ == "__main__":
    report.run_script(main)
