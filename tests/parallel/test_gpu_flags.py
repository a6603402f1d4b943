"""Flags of XLA for GPUs: only those that it knows, never against the user, nothing where there is no GPU."""

import os
import subprocess
import sys

import pytest

from seq2seq_jax.parallel import gpu_flags
from seq2seq_jax.parallel.gpu_flags import FLAGS, is_for_gpu, set_flags


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(gpu_flags, "is_for_gpu", lambda environment: True)


@pytest.mark.long
def test_an_unknown_flag_is_left_out_and_the_rest_is_accepted(on_gpu):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    added = set_flags(environment, wanted={"xla_gpu_no_such_flag": "true", **FLAGS})
    assert added == [f"--{name}={value}" for name, value in FLAGS.items()], "a flag that this jax does not know"
    assert environment["XLA_FLAGS"] == " ".join(["--xla_force_host_platform_device_count=2", *added])
    started = subprocess.run(
        [sys.executable, "-c", "import jax; print(len(jax.devices()))"],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert started.stdout.strip() == "2"


def test_what_the_user_has_set_stays(on_gpu):
    flags = " ".join(f"--{name}=false" for name in FLAGS)
    environment = {"XLA_FLAGS": flags}
    assert set_flags(environment) == []
    assert environment == {"XLA_FLAGS": flags}


def test_nothing_is_set_without_a_gpu(monkeypatch):
    environment = {"JAX_PLATFORMS": "cpu"}
    assert set_flags(environment) == []
    assert environment == {"JAX_PLATFORMS": "cpu"}
    monkeypatch.setattr(gpu_flags.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gpu_flags.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    assert is_for_gpu({}) and is_for_gpu({"JAX_PLATFORMS": "cuda,cpu"})
    assert not is_for_gpu({"JAX_PLATFORMS": "tpu"})
    monkeypatch.setattr(gpu_flags.glob, "glob", lambda pattern: [])
    assert not is_for_gpu({})
