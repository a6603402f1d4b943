"""Small steps compiled for an H200 or H100 by XLA's GPU compiler, which needs no GPU but jax's CUDA plugin.

A step takes the compiler 20 to 40 s of a core, so that each is compiled once for all tests.
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from architectures import RELATIVE, convolutional, recurrent, transformer
from jax.sharding import NamedSharding, PartitionSpec

from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.programs import build_step
from seq2seq_jax.compilation.report import StepReport, compile_step
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.data.text_files import DocumentFiles, ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.modules.fused_attention import fused_attention
from seq2seq_jax.modules.segments import Segments
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.parallel.mesh import JittedOnMesh
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.tasks.denoising import Denoising
from seq2seq_jax.tasks.translation import Translation
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig

pytestmark = pytest.mark.skipif(
    gpu_targets.installed_plugin() is None, reason=f"XLA's GPU compiler is not installed: {gpu_targets.installation()}"
)

WIDE = {"model_dim": 64, "hidden_dim": 128, "num_layers": 1, "dropout": 0.1, "num_heads": 2}
NO_ATTENTION_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
MODELS = {
    "transformer": transformer(precision="bfloat16", **WIDE, **NO_ATTENTION_DROPOUT),
    "relative": transformer(
        precision="bfloat16", normalization="rms", attention_bias=False, **WIDE, **NO_ATTENTION_DROPOUT, **RELATIVE
    ),
    # Attention that no kernel takes, as where its weights are dropped out.
    "unfused": transformer(precision="bfloat16", **WIDE, **NO_ATTENTION_DROPOUT, attention_kernel="plain"),
    "recurrent": recurrent(precision="bfloat16", num_layers=1),
    "convolutional": convolutional(precision="bfloat16", num_layers=1, max_positions=64),
}
# Of all sizes the vocabulary alone is a multiple of 125: what is one, too, has a number per entry of it.
LENGTH, CHUNK, ROWS, VOCABULARY = 32, 4, 64, 1_000
SAMPLES, SAMPLED_LENGTH = 2, 37
"""No block of a product has such a length. (Products of 5 x 394 positions were refused once: "Couldn't find output tile
sizes that satisfy dot bf16[1024,1970,256]".)"""


def experiment(model: str) -> Experiment:
    """Batches of ROWS pairs of LENGTH tokens each; a Transformer's are packed."""
    packing = model == "transformer"
    data = ParallelText(
        directory="text",
        source="en",
        target="de",
        max_source_length=LENGTH,
        max_target_length=LENGTH,
        packing=packing,
        max_examples_per_row=4 if packing else None,
    )
    return Experiment(
        data=data,
        task=Translation(),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=VOCABULARY),
        model=MODELS[model],
        objective=MaximumLikelihoodConfig(loss_chunk=CHUNK),
        optimizer=AdamWConfig(learning_rate=1e-3, warmup_steps=10),
        training=TrainingConfig(steps=100, target_tokens_per_batch=ROWS * LENGTH),
        generation=BeamSearch(beam_size=2),
    )


def with_denoising(chosen: Experiment) -> tuple[Experiment, int]:
    """The experiment with spans of documents to restore, and the target tokens of its batch."""
    task, data = Denoising(), DocumentFiles(directory="text", max_source_length=LENGTH)
    tokens = ROWS * task.row_lengths(data)[1]
    return dataclasses.replace(
        chosen,
        data=data,
        task=task,
        tokenizer=dataclasses.replace(chosen.tokenizer, num_sentinels=16),
        training=dataclasses.replace(chosen.training, target_tokens_per_batch=tokens, select_by="loss"),
    ), tokens


def with_policy_gradients(chosen: Experiment) -> tuple[Experiment, int]:
    """The experiment with sampled texts, and their tokens; the reward is BLEU for the Transformer, else a cheap one."""
    policy = PolicyGradientConfig(
        reward=RewardConfig(bleu=1.0) if chosen.model == MODELS["transformer"] else RewardConfig(exact_match=1.0),
        samples_per_source=SAMPLES,
        maximum_length_ratio=1.0,
        maximum_length_extra=SAMPLED_LENGTH - LENGTH,
    )
    data = dataclasses.replace(chosen.data, packing=False, max_examples_per_row=None)
    return dataclasses.replace(chosen, data=data, objective=policy), ROWS * SAMPLES * SAMPLED_LENGTH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A step as compiled.

    Attributes:
        report: what `seq2seq compile` shows of it.
        text: the compiler's.
        buffers: bytes of all buffers that the compiler allocates, and the most of them that are in use at once.
        target_tokens: of its batch, samples included.
    """

    report: StepReport
    text: str
    buffers: tuple[int, int]
    target_tokens: int


def compile_for(step: str, chosen: Experiment, name: str = "h200:1", *, target_tokens: int = 0) -> Compiled:
    """A step compiled for GPUs."""
    topology = Topology.parse(name)
    with topology.target():
        program = build_step(step, chosen, topology.devices())
        report = compile_step(program, topology)
        # It has been compiled.
        compiled = program.lowered.compile()
    stats = compiled.memory_analysis()
    buffers = stats.total_allocation_bytes, stats.peak_memory_in_bytes
    return Compiled(report=report, text=compiled.as_text(), buffers=buffers, target_tokens=target_tokens)


@functools.cache
def compiled(model: str, step: str) -> Compiled:
    """A step of a model compiled for one H200."""
    chosen, tokens = experiment(model), ROWS * LENGTH
    if step == "denoising":
        (chosen, tokens), step = with_denoising(chosen), "train"
    elif step == "policy_gradient":
        chosen, tokens = with_policy_gradients(chosen)
    return compile_for(step, chosen, target_tokens=tokens)


QUICK = [("transformer", "train")]
LONG = [
    ("relative", "denoising"),
    *((model, "policy_gradient") for model in ("transformer", "unfused", "recurrent", "convolutional")),
    *((model, "train") for model in ("recurrent", "convolutional")),
    *((model, "generation") for model in ("transformer", "recurrent", "convolutional")),
]
ALL = [*QUICK, *(pytest.param(*each, marks=pytest.mark.long) for each in LONG)]
UPDATES = [
    *QUICK,
    *(pytest.param(*each, marks=pytest.mark.long) for each in LONG if each[1] != "generation"),
]


@pytest.mark.parametrize(("model", "step"), ALL)
def test_each_family_and_step_compiles(model, step):
    report = compiled(model, step).report
    assert report.fits(Topology.parse("h200:1"))
    held = {group: size for group, size in report.groups.items() if not group.endswith("of the temporaries")}
    # Of the batch a program is given only what its model reads.
    assert 0.95 * (sum(held.values()) - held["batch"]) < report.memory.arguments < 1.05 * sum(held.values())
    assert report.memory.temporaries > 0
    # Small products may be computed by fusions without a product.
    assert 0.3 * report.model_flops < report.cost.flops < 2.0 * report.model_flops
    assert {each.kind for each in report.cost.kernels} & {"products, Triton", "products, library", "products"}
    assert report.cost.products[0].dtype == "bf16"


@pytest.mark.parametrize(("model", "step"), UPDATES)
def test_training_steps_hold_fused_attention(model, step):
    kernels = {each.kind: each.count for each in compiled(model, step).report.cost.kernels}
    forward, backward = (kernels.get(f"attention, {direction}", 0) for direction in ("forward", "backward"))
    # Of the encoder's layer, and of the decoder's over its own positions and over the source. Samples are drawn from a
    # source that is encoded once more.
    if model in ("transformer", "relative"):
        assert (forward, backward) == (4 if step == "policy_gradient" else 3, 3)
    else:
        assert (forward, backward) == (0, 0)


@pytest.mark.parametrize(("model", "step"), UPDATES)
def test_training_steps_hold_no_logits_of_all_tokens(model, step):
    found = compiled(model, step)
    assert not arrays_of_logits(found.text, found.target_tokens)
    # The chunks are found, so that all of them would be.
    assert arrays_of_logits(found.text, ROWS * CHUNK)


def arrays_of_logits(text, tokens):
    """Dims of arrays that hold a number per token and entry of the vocabulary, in whatever shape."""
    dims = {tuple(map(int, found.split(","))) for found in re.findall(r"\w+\[([\d,]+)\]", text)}
    return {each for each in dims if not math.prod(each) % VOCABULARY and math.prod(each) >= tokens * VOCABULARY}


def test_logits_that_exist_at_once_are_found():
    chunks = f"f32[{ROWS},{CHUNK},{VOCABULARY}]{{2,1,0}} bf16[{ROWS},{LENGTH},64] f32[{VOCABULARY},64] u8[134217728]"
    assert not arrays_of_logits(chunks, ROWS * LENGTH)
    for dims in ((ROWS * LENGTH, VOCABULARY), (2, ROWS, LENGTH, VOCABULARY), (ROWS * LENGTH * VOCABULARY,)):
        shape = ",".join(map(str, dims))
        assert arrays_of_logits(f"{chunks} bf16[{shape}]{{0}}", ROWS * LENGTH) == {dims}


@pytest.mark.parametrize(("model", "step"), UPDATES)
def test_predicted_memory_is_that_of_the_compilers_buffers(model, step):
    found = compiled(model, step)
    allocated, in_use = found.buffers
    predicted = found.report.memory.peak - found.report.memory.program
    assert predicted == pytest.approx(allocated, rel=0.05)
    assert in_use <= 1.05 * predicted


@pytest.mark.long
def test_samples_of_sharded_rows_are_attended_to_where_they_are():
    """Each of 8 GPUs calls the kernel for its own rows, and sends nothing."""
    samples, rows, heads, head_dim = 5, 16, 2, 32
    topology = Topology.parse("h100:8")
    mesh = MeshConfig(data=8).build(topology.devices())

    def loss(queries, keys, ids, key_ids):
        def attend(queries, ids):
            given = Segments(queries=ids, keys=key_ids, max_segments=1, causal=False)
            return fused_attention(queries, keys, keys, given, bias=None)

        return jax.vmap(attend)(queries, ids).astype(jnp.float32).sum()

    def array(*shape, dtype=jnp.int32):
        spec = PartitionSpec(*("data" if size == rows else None for size in shape))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    arrays = (
        array(samples, rows, SAMPLED_LENGTH, heads, head_dim, dtype=jnp.bfloat16),
        array(rows, LENGTH, heads, head_dim, dtype=jnp.bfloat16),
        array(samples, rows, SAMPLED_LENGTH),
        array(rows, LENGTH),
    )
    with topology.target():
        text = JittedOnMesh(jax.grad(loss, argnums=(0, 1)), mesh).lower(*arrays).compile().as_text()
    kernels = re.findall(r"\(bf16\[(\d+),.*__cudnn\$fmhaSoftmax", text)
    assert kernels == [str(samples * rows // 8)] * 2
    assert not re.findall(r"(all-gather|all-to-all|collective-permute)(?:-start)?\(", text)


@pytest.mark.long
def test_parameters_that_are_sharded_are_gathered_over_their_axis():
    chosen = experiment("transformer")
    chosen = dataclasses.replace(chosen, mesh=dataclasses.replace(chosen.mesh, data=2, fsdp=4))
    report = compile_for("train", chosen, "h200:8").report
    exchanges = {(each.kind, each.axes) for each in report.cost.exchanges}
    assert ("all-gather", "fsdp") in exchanges
    assert any("data" in axes for _, axes in exchanges)


def test_hosts_are_described():
    assert [device.id for device in gpu_targets.devices("h100", 16)] == list(range(16))
