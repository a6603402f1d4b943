"""Compiles training steps of two layers for 4 x 4 chips of a TPU, without and with dropout, by the TPU compiler; prints
what a chip sends in each as JSON: name -> [kind of collective, axes, bytes].

Run in a process of its own, which alone loads libtpu.
"""

import json

from architectures import transformer

from seq2seq_jax.compilation.programs import build_step
from seq2seq_jax.compilation.report import compile_step
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig

DROPOUTS = ("dropout", "attention_dropout", "hidden_dropout")


def experiment(dropout: float) -> Experiment:
    """A model of two layers per side, each recomputed in the backward pass; parameters on fsdp 4 x tensor 4.

    A shard of the heads is 8 x 128 wide, a tile of a TPU's memory: gradients of narrower ones were summed on all chips.
    """
    sizes = {"num_layers": 2, "model_dim": 256, "num_heads": 32, "head_dim": 128, "hidden_dim": 1024}
    stack = {**sizes, "scan_layers": True, "remat": "full"}
    return Experiment(
        data=ParallelText(directory="text", source="en", target="de", max_source_length=24, max_target_length=24),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=340),
        model=transformer(**stack, **dict.fromkeys(DROPOUTS, dropout)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=1e-2, warmup_steps=10),
        training=TrainingConfig(steps=100, target_tokens_per_batch=480),
        generation=BeamSearch(beam_size=2),
        mesh=MeshConfig(data=1, fsdp=4, tensor=4),
    )


def main() -> None:
    topology = Topology.parse("v5p:2x2x4")
    topology.prepare()
    found = {}
    with topology.target():
        for name, dropout in (("without dropout", 0.0), ("with dropout", 0.1)):
            report = compile_step(build_step("train", experiment(dropout), topology.devices()), topology)
            found[name] = [(each.kind, each.axes, each.bytes) for each in report.cost.exchanges]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
