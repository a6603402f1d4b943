"""Page faults of a step with large temporaries, counted in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from seq2seq_jax.parallel.host_memory import keep_memory_between_steps
if sys.argv[1] == "kept":
    assert keep_memory_between_steps()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: ((x @ x) @ x).sum())
x = jnp.ones((2_048, 2_048))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    step(x).block_until_ready()
print(faults() - before)
"""
PAGES = 2_048 * 2_048 * 4 // 4_096
"""Of one temporary."""


def faults(way, **environment):
    command = [sys.executable, "-c", PROGRAM, way]
    found = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_a_step_reuses_the_memory_of_the_one_before():
    assert faults("as it is", JAX_PLATFORMS="cpu") > PAGES / 2
    assert faults("kept", JAX_PLATFORMS="cpu") < PAGES / 20


def test_beside_an_accelerator_nothing_changes(monkeypatch, tmp_path):
    from seq2seq_jax.parallel import host_memory

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(host_memory, "ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    assert not host_memory.keep_memory_between_steps()
