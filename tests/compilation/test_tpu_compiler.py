"""A small step compiled for a TPU slice by libtpu's compiler, which needs no TPU: what its chips send."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import compiling_as_usual

import seq2seq_jax

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed: pip install libtpu"
    ),
]


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Of the steps of steps_on_a_tpu.py: (kind, axes) -> bytes that a chip sends."""
    tests, package = Path(__file__).parents[1], Path(seq2seq_jax.__file__).parents[1]
    paths = [str(tests), str(package), os.environ.get("PYTHONPATH", "")]
    finished = subprocess.run(
        [sys.executable, str(tests / "compilation" / "steps_on_a_tpu.py")],
        cwd=tmp_path_factory.mktemp("tpu"),
        env=compiling_as_usual() | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    steps = json.loads(finished.stdout)
    return {name: {(kind, axes): size for kind, axes, size in exchanges} for name, exchanges in steps.items()}


def test_gradients_of_layers_are_scattered_over_the_axis_of_the_parameters(sent):
    exchanges = sent["without dropout"]
    # Two encoder layers with 4 matrices of attention, two decoder layers with 8, each with 2 of its feed-forward layer;
    # and the table of embeddings. Float32, divided over tensor; a ring of 4 sends three quarters.
    matrices = 4 * (2 * (4 + 8) * 256 * 32 * 128 + 4 * 2 * 256 * 1024) / 4
    table = 4 * 340 * 256 / 4
    assert exchanges["reduce-scatter", "fsdp"] == pytest.approx(0.75 * (matrices + table), rel=0.01)
    # Gathered in each pass, in bfloat16, which is what products read on a TPU.
    assert exchanges["all-gather", "fsdp"] == pytest.approx(2 * 0.75 * matrices / 2, rel=0.05)
    # Gradients of biases and norms; those of one matrix of attention would be 1.5 / 4 of nearly all.
    assert exchanges["all-reduce", "fsdp"] < 0.05 * matrices


def test_dropout_sends_nothing(sent):
    without, dropped = sent["without dropout"], sent["with dropout"]
    for exchange in without.keys() | dropped.keys():
        assert dropped.get(exchange, 0.0) == pytest.approx(without.get(exchange, 0.0), rel=0.01, abs=1e4), exchange
