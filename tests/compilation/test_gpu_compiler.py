"""Small steps compiled for an H200 or H100 by XLA's GPU compiler, which needs no GPU but jax's CUDA plugin."""

import dataclasses
import math
import re

import pytest
from architectures import convolutional, recurrent, transformer

from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.hlo import Program
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
LENGTH, ROWS, VOCABULARY = 32, 64, 1_000


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
        return report, program.lowered.compile().as_text()


@pytest.mark.parametrize("step", ["train", "policy_gradient", "generation"])
@pytest.mark.parametrize("family", MODELS)
def test_each_family_and_step_compiles(family, step):
    chosen = experiment(family)
    if step == "policy_gradient":
        chosen = dataclasses.replace(chosen, objective=PolicyGradientConfig(samples_per_source=2))
    topology = Topology.parse("h200:1")
    assert topology.compiler == "GPU"
    with topology.target():
        report = compile_step(build_step(step, chosen, topology.devices()), topology)
    assert report.fits(topology)
    state = report.groups["parameters (float32)"]
    assert state < report.memory.arguments < 10 * state + report.groups["batch"]
    assert report.memory.temporaries > 0
    # Small products may be computed by fusions without a product.
    assert 0.3 * report.model_flops < report.cost.flops < 2.0 * report.model_flops
    kinds = {each.kind for each in report.cost.kernels}
    assert kinds & {"products, Triton", "products, library", "products"}
    assert {"attention, forward", "attention, backward"} <= kinds or family != "transformer" or step == "generation"
    assert report.cost.products[0].dtype == "bf16"


def arrays_of_logits(text):
    """Arrays that hold a number per token of the batch and entry of the vocabulary."""
    dims = {tuple(map(int, found.split(","))) for found in re.findall(r"\w+\[([\d,]+)\]", text)}
    return {each for each in dims if VOCABULARY in each and math.prod(each) >= ROWS * LENGTH * VOCABULARY}


@pytest.mark.parametrize("chunk", [8, None])
def test_attention_is_fused_and_logits_never_exist_at_once(chunk):
    _, text = compiled("train", experiment("transformer", loss_chunk=chunk), "h100:1")
    targets = [
        instruction.target
        for computation in Program(text).computations.values()
        for instruction in computation.instructions.values()
        if instruction.target
    ]
    # One layer of the encoder, and two attentions in one of the decoder.
    assert sum("fmha" in each and "Backward" not in each for each in targets) == 3
    assert sum("fmha" in each and "Backward" in each for each in targets) == 3
    # Without chunks they exist: the search can find them.
    assert bool(arrays_of_logits(text)) == (chunk is None)


def test_parameters_that_are_sharded_are_gathered_over_their_axis():
    chosen = experiment("transformer")
    chosen = dataclasses.replace(chosen, mesh=dataclasses.replace(chosen.mesh, data=2, fsdp=4))
    report, _ = compiled("train", chosen, "h200:8")
    exchanges = {(each.kind, each.axes) for each in report.cost.exchanges}
    assert ("all-gather", "fsdp") in exchanges
    assert any("data" in axes for _, axes in exchanges)


def test_hosts_are_described():
    assert [device.id for device in gpu_targets.devices("h100", 16)] == list(range(16))
