"""Small steps compiled for an H200 or H100 by XLA's GPU compiler, which needs no GPU but jax's CUDA plugin."""

import dataclasses
import math
import re

import pytest
from architectures import convolutional, recurrent, transformer

from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.programs import build_step
from seq2seq_jax.compilation.report import compile_step
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.training.loop import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig

pytestmark = pytest.mark.skipif(
    gpu_targets.installed_plugin() is None, reason=f"XLA's GPU compiler is not installed: {gpu_targets.installation()}"
)

WIDE = {"model_dim": 64, "hidden_dim": 128, "num_layers": 1, "dropout": 0.1}
NO_ATTENTION_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
MODELS = {
    "transformer": transformer(precision="bfloat16", num_heads=2, **WIDE, **NO_ATTENTION_DROPOUT),
    "recurrent": recurrent(precision="bfloat16", num_layers=1),
    "convolutional": convolutional(precision="bfloat16", num_layers=1, max_positions=64),
}
LENGTH, CHUNK, ROWS, VOCABULARY = 32, 8, 64, 1_000


def experiment(family, **objective):
    """A batch of ROWS pairs of LENGTH tokens each."""
    data = ParallelText(
        directory="text",
        source="en",
        target="de",
        max_source_length=LENGTH,
        max_target_length=LENGTH,
        packing=False,
    )
    return Experiment(
        data=data,
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=VOCABULARY),
        model=MODELS[family],
        objective=MaximumLikelihoodConfig(**objective),
        optimizer=AdamWConfig(learning_rate=1e-3, warmup_steps=10),
        training=TrainingConfig(steps=100, target_tokens_per_batch=ROWS * LENGTH),
        generation=BeamSearch(beam_size=2),
    )


def compiled(step, experiment, name="h200:1"):
    """The report of a step, and the compiler's text."""
    topology = Topology.parse(name)
    with topology.target():
        program = build_step(step, experiment, topology.devices())
        report = compile_step(program, topology)
        # From jax's cache.
        return report, program.lowered.compile().as_text()


QUICK = [("transformer", "train"), ("transformer", "policy_gradient"), ("transformer", "generation")]
QUICK += [("recurrent", "train"), ("convolutional", "train")]
LONG = [(family, step) for family in ("recurrent", "convolutional") for step in ("policy_gradient", "generation")]


@pytest.mark.parametrize(("family", "step"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.long) for each in LONG)])
def test_each_family_and_step_compiles(family, step):
    chosen, target_tokens = experiment(family, loss_chunk=CHUNK), ROWS * LENGTH
    if step == "policy_gradient":
        policy = PolicyGradientConfig(samples_per_source=2, maximum_length_ratio=1.0, maximum_length_extra=1)
        chosen, target_tokens = dataclasses.replace(chosen, objective=policy), ROWS * 2 * (LENGTH + 1)
    report, text = compiled(step, chosen)
    assert report.fits(Topology.parse("h200:1"))
    held = {group: size for group, size in report.groups.items() if not group.endswith("of the temporaries")}
    # Of the batch a program is given only what its model reads.
    assert 0.95 * (sum(held.values()) - held["batch"]) < report.memory.arguments < 1.05 * sum(held.values())
    assert report.memory.temporaries > 0
    # Small products may be computed by fusions without a product.
    assert 0.3 * report.model_flops < report.cost.flops < 2.0 * report.model_flops
    kernels = {each.kind: each.count for each in report.cost.kernels}
    assert set(kernels) & {"products, Triton", "products, library", "products"}
    assert report.cost.products[0].dtype == "bf16"
    if step == "generation":
        return
    # One layer of the encoder, and two attentions in one of the decoder; samples need the encoder once more.
    forward, backward = (kernels.get(f"attention, {direction}", 0) for direction in ("forward", "backward"))
    if family != "transformer":
        assert (forward, backward) == (0, 0)
    else:
        assert forward == 3 if step == "train" else forward > 3
        assert backward == 3
    assert not arrays_of_logits(text, target_tokens)


def arrays_of_logits(text, tokens):
    """Dims of arrays that hold a number per target token of the batch and entry of the vocabulary."""
    dims = {tuple(map(int, found.split(","))) for found in re.findall(r"\w+\[([\d,]+)\]", text)}
    return {each for each in dims if VOCABULARY in each and math.prod(each) >= tokens * VOCABULARY}


def test_logits_that_exist_at_once_are_found():
    chunks = f"f32[{ROWS},{CHUNK},{VOCABULARY}]{{2,1,0}} bf16[{ROWS},{LENGTH},64] f32[{VOCABULARY},64]"
    assert not arrays_of_logits(chunks, ROWS * LENGTH)
    for dims in ((ROWS * LENGTH, VOCABULARY), (2, ROWS, LENGTH, VOCABULARY)):
        shape = ",".join(map(str, dims))
        assert arrays_of_logits(f"{chunks} bf16[{shape}]{{0}}", ROWS * LENGTH) == {dims}


def test_parameters_that_are_sharded_are_gathered_over_their_axis():
    chosen = experiment("transformer")
    chosen = dataclasses.replace(chosen, mesh=dataclasses.replace(chosen.mesh, data=2, fsdp=4))
    report, _ = compiled("train", chosen, "h200:8")
    exchanges = {(each.kind, each.axes) for each in report.cost.exchanges}
    assert ("all-gather", "fsdp") in exchanges
    assert any("data" in axes for _, axes in exchanges)


def test_hosts_are_described():
    assert [device.id for device in gpu_targets.devices("h100", 16)] == list(range(16))
