"""gpu_benchmark.sh: within its time, whole at toy size, and not stopped by a part that fails."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from seq2seq_jax.benchmark.gpu import attention_programs, compile_part
from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.topology import Topology

REPOSITORY = pathlib.Path(__file__).parents[2]

PARTS = {"attention", "t5_large", "transformer_big", "packing", "policy_gradient", "peer_t5", "peer_transformer"}
SEARCH_PARTS = {"training_for_search", "peer_search"}

STAND_IN = """#!/bin/sh
# A Python of which only one part of the benchmark is real, and one fails.
case "$*" in
*"--part attention"*|*--summary*) exec {python} "$@" ;;
*"--part packing"*) echo "no memory"; exit 3 ;;
esac
"""


def limits(project, *options):
    """Seconds of each part."""
    shown = project.shown("launch/gpu_benchmark.sh", *options, "--dry-run")
    return {words[-1].removesuffix(".json").rpartition("/")[2]: int(words[3]) for words in shown}


def test_its_limits_sum_up_to_nine_minutes(project):
    found = limits(project)
    assert set(found) == PARTS
    assert sum(found.values()) <= 9 * 60
    whole = limits(project, "--all")
    assert set(whole) == PARTS | SEARCH_PARTS
    assert sum(whole.values()) <= 12 * 60
    assert set(limits(project, "--only", "packing,peer_search")) == {"packing", "peer_search"}
    assert not (project.directory / "benchmark_gpu").exists()


def test_a_mistake_is_one_line(project):
    assert "got '--small'" in project.refusal("launch/gpu_benchmark.sh", "--small")


@pytest.mark.skipif(gpu_targets.installed_plugin() is None, reason="XLA's GPU compiler is not installed")
@pytest.mark.parametrize("part", ["t5_large", "packing"])
def test_a_part_compiles_for_a_gpu_that_is_not_here(part):
    topology = Topology.parse("h100:1")
    figures = compile_part(part, topology, toy=True)
    assert [figure.name for figure in figures] == {
        "t5_large": ["full: memory"], "packing": ["packed: memory", "padded: memory"],
    }[part]  # fmt: skip
    assert all(0 < figure.value < 1 and "fits on h100" in figure.note for figure in figures)


@pytest.mark.skipif(gpu_targets.installed_plugin() is None, reason="XLA's GPU compiler is not installed")
def test_the_attention_of_every_case_is_the_kernel_s_on_a_gpu_that_is_not_here():
    topology = Topology.parse("h100:1")
    with topology.target():
        programs = attention_programs(topology.devices(), toy=True)
        assert len(programs) == 3 * 8
        for name, lower in programs.items():
            assert ("__cudnn$fmha" in lower().as_text()) == ("by the mask" not in name)


@pytest.mark.long
def test_a_part_that_fails_is_told_and_the_rest_goes_on(project, tmp_path):
    project.program("stand_in", STAND_IN.format(python=sys.executable))
    figures = tmp_path / "figures"
    done = project.run(
        "launch/gpu_benchmark.sh", "--toy", figures,
        PYTHON=str(project.programs / "stand_in"), PYTHONPATH=str(REPOSITORY), JAX_PLATFORMS="cpu",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "packing: NOT MEASURED, status 3: no memory" in done.stdout
    assert "policy_gradient: done" in done.stdout
    summary = json.loads((figures / "summary.json").read_text())
    assert {figure["part"] for figure in summary} == {"attention"}
    assert all(figure["value"] is None and "the kernel was not tried" in figure["note"] for figure in summary)


@pytest.mark.long
@pytest.mark.parametrize("part", ["t5_large", "transformer_big", "packing"])
def test_parts_at_toy_size(part, tmp_path):
    path = tmp_path / "part.json"
    done = subprocess.run(
        [sys.executable, "-m", "seq2seq_jax.benchmark.gpu", "--part", part, "--toy", "True", "--rounds", "5",
         "--json", path],
        cwd=REPOSITORY, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    if part == "packing":
        assert figures["packed / padded"]["value"] > 0.0
    else:
        assert figures["target tokens"]["value"] > 0
        # On a CPU of what a product of matrices reaches there.
        assert 0.0 < figures["MFU"]["value"] < 100.0
