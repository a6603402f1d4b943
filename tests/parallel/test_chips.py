"""Peak rates: published ones by what jax calls a chip, a measured one of a CPU."""

import types

import jax
import jax.numpy as jnp
import pytest

from seq2seq_jax.parallel import chips
from seq2seq_jax.parallel.chips import peak_flops


def device(kind, platform):
    return types.SimpleNamespace(device_kind=kind, platform=platform)


@pytest.mark.parametrize(
    ("kind", "platform", "expected"),
    [
        ("TPU v4", "tpu", 275e12), ("TPU v5 lite", "tpu", 197e12), ("TPU v5", "tpu", 459e12),
        ("TPU v6 lite", "tpu", 918e12), ("NVIDIA A100-SXM4-80GB", "gpu", 312e12),
        ("NVIDIA H100 80GB HBM3", "gpu", 989e12), ("NVIDIA H200", "gpu", 989e12), ("NVIDIA B200", "gpu", 2.25e15),
        # Not the rates of the chips whose names they hold.
        ("TPU v4 lite", "tpu", None), ("NVIDIA H100 PCIe", "gpu", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "gpu", None),
    ],
)  # fmt: skip
def test_an_accelerator_has_its_published_rate_or_none(kind, platform, expected):
    assert peak_flops(device(kind, platform), jnp.float32) == expected


def test_no_kind_is_of_two_chips():
    kinds = [kind for chip in chips.CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))


def test_a_cpu_is_measured_once():
    found = peak_flops(jax.devices("cpu")[0], jnp.float32)
    # A core multiplies and adds 1 to 1,000 numbers a nanosecond.
    assert 1e9 < found * jax.local_device_count() < 1e15
    assert peak_flops(jax.devices("cpu")[0], jnp.float32) == found


def test_a_cpu_is_measured_again_when_a_program_was_faster(monkeypatch):
    measured = iter([1e9, 4e9, 2e9])
    monkeypatch.setattr(chips, "_measured", {})
    monkeypatch.setattr(chips, "_measure_flops", lambda dtype: next(measured))
    cpu, devices = jax.devices("cpu")[0], jax.local_device_count()
    assert peak_flops(cpu, jnp.float32) * devices == 1e9
    assert peak_flops(cpu, jnp.float32, reached=0.9e9 / devices) * devices == 1e9
    assert peak_flops(cpu, jnp.float32, reached=3e9 / devices) * devices == 4e9
    assert peak_flops(cpu, jnp.float32) * devices == 4e9
    # Even the fastest measurement was slower than the program.
    assert peak_flops(cpu, jnp.float32, reached=5e9 / devices) * devices == pytest.approx(5e9)


def test_cpu_devices_share_the_memory_of_the_machine():
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert chips.device_memory(jax.local_devices()[0]) == total // jax.local_device_count()
    other = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 7})
    assert chips.device_memory(other) == 7
    assert chips.device_memory(types.SimpleNamespace(platform="tpu", memory_stats=lambda: None)) is None
