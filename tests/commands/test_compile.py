"""`seq2seq compile`, on simulated GPUs and, where libtpu is installed, on a TPU slice."""

import importlib.util
import json

import pytest

from seq2seq_jax.commands import compile
from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.gpu_targets import installation
from seq2seq_jax.parallel.mesh import AXES, MeshConfig

COMPILE = ("compile", "tiny/transformer")


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    """In this process GPUs are simulated; tests/compilation/test_gpu_compiler.py compiles for them."""
    monkeypatch.setattr(gpu_targets, "installed_plugin", lambda: None)


@pytest.fixture(scope="module", autouse=True)
def flags(request):
    """What the command sets for devices of its own must not reach other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        yield


@pytest.mark.long
def test_it_says_what_a_chip_holds_computes_and_exchanges(seq2seq, tmp_path):
    outcome = seq2seq(*COMPILE, "--topology", "h100:1", "--json", tmp_path / "found.json")
    assert outcome.status == 0
    for part in ("memory: parameters", "memory: peak", "model FLOPs", "estimated MFU", "not measurements"):
        assert part in outcome.output
    assert "This is a simulation" in outcome.output and installation() in outcome.output
    found = json.loads((tmp_path / "found.json").read_text())
    (step,) = found["steps"]
    assert step["fits"] and step["step"] == "train" and found["compiler"] == "CPU, as a simulation"
    memory = step["memory"]
    assert memory["peak"] == sum(memory[part] for part in ("arguments", "results", "temporaries", "program"))
    # Parameters, two moments and an average, all float32; then a batch of 20 rows of 2 x 3 x 24 numbers.
    groups = step["groups"]
    assert groups["parameters (float32)"] == groups["average of parameters"]
    assert groups["batch"] == 20 * 2 * 3 * 24 * 4
    state = 3 * groups["parameters (float32)"] + groups["optimizer's state"] - groups["parameters (float32)"]
    assert memory["arguments"] == pytest.approx(state + groups["batch"], rel=0.01)
    assert step["cost"]["flops"] == pytest.approx(step["model_flops"], rel=0.3)
    low, high = step["step_seconds"]
    assert 0 < low <= high
    assert step["utilization"][0] == pytest.approx(step["model_flops"] / low / found["chip"]["flops"])


@pytest.mark.long
def test_all_three_steps_are_compiled(seq2seq, tmp_path):
    outcome = seq2seq(
        "compile", "tiny/policy", "--topology", "h100:1", "--steps", "train", "policy_gradient", "generation",
        "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert outcome.status == 0
    steps = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert [step["step"] for step in steps] == ["train", "policy_gradient", "generation"]
    # The config's own objective is policy gradients, so that two of them are one.
    assert steps[0]["cost"]["flops"] == steps[1]["cost"]["flops"]
    for step in steps:
        assert step["cost"]["flops"] == pytest.approx(step["model_flops"], rel=0.4)
    # 58 tokens are generated at most, 30 sampled.
    assert set(steps[2]["cost"]["open_loops"].values()) == {58}
    assert 30 in steps[0]["cost"]["open_loops"].values()


def test_a_sweep_that_is_interrupted_keeps_what_it_has_found(seq2seq, tmp_path, monkeypatch):
    outcomes = iter([ValueError("mesh.tensor cannot be."), KeyboardInterrupt()])

    def build_step(*_):
        raise next(outcomes)

    monkeypatch.setattr("seq2seq_jax.commands.compile.build_step", build_step)
    outcome = seq2seq(*COMPILE, "--topology", "h100:1", "--sweep", "1x1x1", "1x1x2", "--json", tmp_path / "found.json")
    assert outcome.status == 130
    assert "train, mesh 1x1x1x1: mesh.tensor cannot be." in outcome.output
    assert json.loads((tmp_path / "found.json").read_text())["refused"] == {
        "train, mesh 1x1x1x1": "mesh.tensor cannot be."
    }


@pytest.mark.long
def test_a_sweep_sorts_meshes_by_time_and_keeps_those_that_cannot_be(process, tmp_path):
    outcome = process(
        *COMPILE, "--topology", "h100:4", "--sweep", "4x1x1", "1x4x1", "1x1x4", "1x-1x2",
        "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert outcome.status == 0, outcome.errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert {tuple(step["mesh"].values()) for step in found["steps"]} == {(4, 1, 1, 1), (1, 4, 1, 1), (1, 2, 2, 1)}
    assert "mesh.tensor = 4 must divide model.encoder.num_heads = 2" in found["refused"]["train, mesh 1x1x4x1"]
    shown = [line.split("│")[1].strip() for line in outcome.output.splitlines() if "│" in line]
    ordered = sorted(found["steps"], key=lambda step: step["step_seconds"])
    assert shown == [" ".join(f"{axis}={size}" for axis, size in step["mesh"].items() if size > 1) for step in ordered]
    axes = {step["mesh"]["fsdp"]: {each["axes"] for each in step["cost"]["exchanges"]} for step in ordered}
    assert axes[1] == {"data"}
    assert "fsdp" in axes[4] and not {"data", "tensor"} & axes[4]


@pytest.mark.long
def test_what_does_not_fit_is_said_with_what_takes_the_memory(seq2seq, tmp_path):
    outcome = seq2seq(
        *COMPILE, "--topology", "h100:1", "--training.target_tokens_per_batch", "480000",
        "--json", tmp_path / "found.json",
        "--objective.label_smoothing", "0.0", "--model.encoder.hidden_dim", "1048576", "--training.steps", "100",
    )  # fmt: skip
    assert outcome.status == 0
    assert "DOES NOT FIT" in outcome.output
    assert "gradients, of the temporaries" in outcome.output
    (step,) = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert not step["fits"] and step["memory"]["peak"] > 80e9


def _mesh(*sizes):
    return dict(zip(AXES, (*sizes, 1), strict=True))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (_mesh(1, 4, 2), None),
        (
            _mesh(1, 8, 1),
            "Fastest: --mesh.fsdp 4 --mesh.tensor 2. The config's own mesh, fsdp=8, takes 1.50 to 1.25 times as long.",
        ),
        (
            _mesh(8, 1, 1),
            "Fastest: --mesh.data 1 --mesh.fsdp 4 --mesh.tensor 2. The config's own mesh, data=8, is not among these.",
        ),
    ],
)
def test_a_sweep_says_what_is_faster_than_the_config_s_mesh(own, expected):
    estimates = [(_mesh(1, 4, 2), (2.0, 4.0)), (_mesh(1, 8, 1), (3.0, 5.0)), (_mesh(8, 1, 1), None)]
    assert compile.faster_mesh(estimates, own=own) == expected
    assert compile.faster_mesh([(_mesh(8, 1, 1), None)], own=own) is None


def test_which_meshes_a_report_proposes():
    assert compile.other_meshes(_mesh(1, 1024, 1)) == ["1x1024x1", "1x512x2", "1x256x4"]
    assert compile.other_meshes(_mesh(6, 1, 1)) == ["6x1x1", "3x1x2"]
    assert compile.other_meshes(_mesh(1, 1, 1)) == []
    assert compile.other_meshes(_mesh(1, 2, 2) | {"sequence": 2}) == ["1x2x2x2", "1x1x4x2"]
    assert compile.sizes_on(MeshConfig(data=1, fsdp=-1, tensor=2), 16) == _mesh(1, 8, 2)
    assert compile.sizes_on(MeshConfig(data=2, fsdp=4), 16) == _mesh(2, 4, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["--topology is required", "v5p:4x4x8", "h100:8"]),
        (["--topology", "v5p:3x3x3"], ["there is no topology 'v5p:3x3x3'", "v5p:4x4x8"]),
        (["--topology", "h100:1", "--mesh.fsdp", "2"], ["cannot be made of 1 devices"]),
        (["--topology", "h100:1", "--mesh.data", "3"], ["needs 3 devices, and there are 1"]),
        (["--topology", "h100:8"], ["8 devices of the CPU, and jax has started with 1"]),
        (["--topology", "h100:1", "--sweep", "1x1x1x1x1"], ["--sweep takes meshes as up to 4 sizes", "'1x1x1x1x1'"]),
        (["--topology", "h100:1", "--sweep", "1xax1"], ["--sweep takes meshes as up to 4 sizes", "'1xax1'"]),
        (["--topology", "h100:1", "--steps", "training"], ["training", "policy_gradient"]),
    ],
)
def test_a_mistake_is_one_line(seq2seq, arguments, said):
    outcome = seq2seq(*COMPILE, *arguments)
    assert outcome.status == 2
    for part in said:
        assert part in outcome.error_line


def test_a_mesh_that_leaves_chips_out_is_refused(process):
    outcome = process(*COMPILE, "--topology", "h100:4", "--mesh.data", "2")
    assert outcome.status == 2
    assert "mesh (2, 1, 1, 1)" in outcome.error_line and "needs 2 devices, and there are 4" in outcome.error_line


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_tpu_compiler(process, tmp_path):
    outcome = process(*COMPILE, "--topology", "v5e:2x2", "--mesh.fsdp", "2", "--json", tmp_path / "found.json")
    assert outcome.status == 0, outcome.errors
    found = json.loads((tmp_path / "found.json").read_text())
    (step,) = found["steps"]
    assert found["compiler"] == "TPU" and step["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert step["fits"]
    assert step["cost"]["flops"] == pytest.approx(step["model_flops"] / 4, rel=0.4)
    assert {each["axes"] for each in step["cost"]["exchanges"]} >= {"data", "fsdp"}
