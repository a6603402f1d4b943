"""What is reported of a step that the compiler refuses."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from seq2seq_jax.compilation.programs import StepProgram
from seq2seq_jax.compilation.report import compile_step
from seq2seq_jax.compilation.topology import Topology


@dataclasses.dataclass
class Refusing:
    """A lowered program that cannot be compiled."""

    message: str

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def step(message):
    return StepProgram(
        name="train",
        work="nothing",
        mesh=Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor")),
        lowered=jax.jit(lambda: 0).lower(),
        groups={"parameters (float32)": 7},
        model_flops=1.0,
        longest_output=1,
    ), Refusing(message)


def test_a_step_without_room_is_reported_with_what_is_known():
    """In the words of libtpu 0.0.42."""
    refused, lowered = step(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (30.94G) exceeds "
        "available HBM (15.75G)."
    )
    object.__setattr__(refused, "lowered", lowered)
    topology = Topology.parse("v5e:4x4")
    report = compile_step(refused, topology)
    assert not report.fits(topology)
    assert report.refusal == (
        "Ran out of memory on HBM, the total memory required for HLO temporaries (30.94G) exceeds available HBM "
        "(15.75G)."
    )
    assert report.groups == {"parameters (float32)": 7}
    assert report.memory is report.cost is report.step_seconds is report.utilization is None
    assert report.to_json(topology)["fits"] is False


def test_other_failures_of_the_compiler_are_not_hidden():
    failed, lowered = step("INTERNAL: a bug")
    object.__setattr__(failed, "lowered", lowered)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        compile_step(failed, Topology.parse("v5e:4x4"))
