"""What `seq2seq train` says of the memory of devices, on the CPU, whose devices are made to look like GPUs."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from seq2seq_jax.commands import device_memory
from seq2seq_jax.commands.console import Display
from seq2seq_jax.commands.device_memory import DeviceMemory, describe, fsdp_setting, groups_of, settings
from seq2seq_jax.compilation.memory import MemoryUse
from seq2seq_jax.compilation.programs import system_without_data
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.parallel.chips import memory_limit
from seq2seq_jax.parallel.mesh import JittedOnMesh, replicated

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 29.70GiB.\n"
USE = MemoryUse(arguments=4 * 10**9, results=1000, temporaries=28 * 10**9, program=0)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A device that is full at 60 GB."""

    platform: str = "gpu"

    def memory_stats(self):
        return {"bytes_limit": 60 * 10**9}


def system_of(config="wmt14_de_en/transformer_big", **training):
    experiment = load_config_by_name(config)
    experiment = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, **training))
    return system_without_data(experiment, jax.devices()[:1])


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(device_memory, "device_of", lambda system: Gpu())
    monkeypatch.delenv(device_memory.FRACTION, raising=False)
    return system_of()


def explaining(system, display):
    return DeviceMemory(lambda: system, display).explained()


def test_the_peak_is_said_before_the_first_step_and_that_it_will_not_fit():
    line = "the update needs 32.00 GB of 60.00 GB of each device, as its compiler reports: 4.00 GB of state and batch"
    assert describe(USE, 60 * 10**9).startswith(line)
    assert "NOT FIT" not in describe(USE, 32 * 10**9 + 1000)
    assert describe(USE, 32 * 10**9).endswith("IT WILL NOT FIT")
    assert describe(USE, None).startswith("the update needs 32.00 GB of each device")


def test_groups_add_up_to_what_the_compiler_reports(gpus):
    groups = groups_of(gpus, USE)
    assert list(groups.values()) == sorted(groups.values(), reverse=True)
    # Transformer-big: 214,245,376 parameters of 4 bytes, 2 moments of each, as many gradients; logits of 128 rows.
    assert groups["parameters (float32)"] == groups["gradients, of the temporaries"] == 856_981_504
    assert groups["optimizer's state"] == pytest.approx(2 * groups["parameters (float32)"], rel=1e-6)
    assert groups["logits (float32), of the temporaries"] == 4 * 128 * 64 * 37_000
    assert "objective's state" not in groups and "average of parameters" not in groups
    assert groups["batch"] == 128 * (256 + 256) * 3 * 4
    temporaries = groups["gradients, of the temporaries"] + groups["logits (float32), of the temporaries"]
    assert groups["activations and other temporaries"] + temporaries == USE.temporaries


def test_running_out_of_memory_is_a_table_and_one_line_with_three_settings(gpus, capsys):
    with pytest.raises(ValueError) as refused, Display() as display, explaining(gpus, display):
        raise jax.errors.JaxRuntimeError(FULL)
    text = str(refused.value)
    assert text == (
        "the GPUs of 60.0 GB each have too little memory for this run (Out of memory while trying to allocate "
        "29.70GiB.); the table above says what takes it. Try --training.accumulation 2 (half of the activations at a "
        "time, the same result); or --model.encoder.remat full --model.decoder.remat full (activations of layers are "
        "computed again, the same result); or --objective.loss_chunk 32 (half of the logits at a time, the same "
        "result)."
    )
    shown = capsys.readouterr().err
    assert shown.startswith("memory of each device") and "optimizer's state" in shown and "1.71 GB" in shown


def test_other_errors_of_jax_are_none_of_memory(gpus):
    with (
        pytest.raises(jax.errors.JaxRuntimeError),
        Display() as display,
        DeviceMemory(lambda: gpus, display).explained(),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such kernel")


def test_a_state_that_takes_most_of_a_device_is_to_be_divided_first(gpus):
    system = system_of("c4_span_corruption/t5_3b", target_tokens_per_batch=114)
    found = settings(system, groups_of(system, None), 20 * 10**9)
    assert found[0] == fsdp_setting(1, 1) and found[0].startswith("more devices, over which --mesh.fsdp -1 divides")
    assert fsdp_setting(8, 1).startswith("--mesh.data 1 --mesh.fsdp -1")
    # One row cannot be divided, and every layer is recomputed already.
    assert not any("accumulation" in each or "remat" in each for each in found)
    assert any("XLA_PYTHON_CLIENT_MEM_FRACTION=0.92" in each for each in found)


def test_settings_that_are_proposed_exist():
    """Three at least, and those that are options are fields of the experiment."""
    for config in ("wmt14_de_en/gnmt", "multi30k/convolutional", "dates/transformer_policy_gradient"):
        system = system_of(config)
        found = settings(system, groups_of(system, None), None)
        assert len(found) >= device_memory.NUM_SETTINGS
        for option in (part[2:] for each in found for part in each.split() if part.startswith("--")):
            node = system.experiment
            for field in option.split("."):
                node = getattr(node, field)


def test_the_cpu_says_nothing_and_compiles_nothing_more():
    assert memory_limit(jax.devices()[0]) is None
    with Display() as display:
        memory = DeviceMemory(system_of, display)
        memory.compile(system_of().build_update(), None, None)
    assert memory.use is None


def test_a_program_compiled_for_its_memory_is_not_compiled_again_by_the_first_step(gpus, capsys):
    mesh = gpus.mesh
    layout = replicated(mesh)
    update = JittedOnMesh(lambda state, batch: (state + batch, batch), mesh, out_shardings=(layout, layout))
    state, batch = jax.device_put((jnp.zeros(1000), jnp.ones(1000)), layout)
    with Display() as display:
        memory = DeviceMemory(lambda: gpus, display)
        memory.compile(update, state, batch)
        assert update.compilations == 1 and update.compiling_seconds > 0
        assert update(state, batch)[0][0] == 1.0
    assert update.compilations == 1
    assert memory.use.arguments == 8000
    assert "the update needs" in capsys.readouterr().err
