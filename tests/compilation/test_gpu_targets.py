"""What XLA's GPU compiler is told of GPUs that are not attached."""

import importlib.metadata
import re

import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.gpu_targets import PROPERTIES, installation, target_config
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.modules.fused_attention import Target, compiling_for
from seq2seq_jax.parallel.chips import CHIPS


def test_every_gpu_of_a_topology_has_properties():
    assert set(PROPERTIES) == {chip.name for chip in CHIPS.values() if chip.network_bandwidth is not None}
    for name in PROPERTIES:
        assert PROPERTIES[name].description in CHIPS[name].device_kinds
        assert PROPERTIES[name].memory == pytest.approx(CHIPS[name].memory, rel=0.08)


@pytest.mark.parametrize("name", PROPERTIES)
def test_multiprocessors_and_clock_give_the_peak_rate(name):
    """FLOPs per clock of a multiprocessor's tensor cores in dense bfloat16: 2,048 (8.0), 4,096 (9.0), 8,192 (10.0)."""
    gpu = PROPERTIES[name]
    per_clock = {8: 2_048, 9: 4_096, 10: 8_192}[gpu.capability[0]]
    assert gpu.multiprocessors * per_clock * gpu.clock * 1e9 == pytest.approx(CHIPS[name].flops, rel=0.1)


def test_the_description_is_in_the_compilers_words():
    text = target_config("h200")
    fields = dict(re.findall(r"(\w+): ([\w.]+)", text))
    assert fields["memory_bandwidth"] == "4800000000000"
    assert fields["core_count"] == "132" and fields["clock_rate_ghz"] == "1.98"
    assert "cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }" in text
    assert text.count("{") == text.count("}")
    assert "ACCELERATED" not in target_config("a100")


def test_without_the_plugin_a_simulation_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu_targets, "installed_plugin", lambda: None)
    topology = Topology.parse("h100:8")
    assert topology.is_simulated and topology.compiler == "CPU, as a simulation"
    assert installation() == f'pip install "jax[cuda13]=={importlib.metadata.version("jax")}"'
    monkeypatch.setattr(gpu_targets, "installed_plugin", lambda: "jax_cuda13_plugin")
    assert not topology.is_simulated and topology.compiler == "GPU"
    assert Topology.parse("v5e:4x4").compiler == "TPU"


def test_the_bindings_are_answered_for_the_target_inside_of_the_context_alone():
    names = ("check_cudnn_version", "check_compute_capability", "is_cuda_compute_capability_equal")
    before = [getattr(cudnn, name) for name in names]
    with compiling_for(Target(capability="10.0", cudnn_version=91_900)):
        assert cudnn.check_cudnn_version() == 91_900
        assert cudnn.check_compute_capability("9.0") and not cudnn.check_compute_capability("10.3")
        assert cudnn.is_cuda_compute_capability_equal("10.0")
    with compiling_for(None):
        assert [getattr(cudnn, name) for name in names] == before
    with pytest.raises(KeyError), compiling_for(Target(capability="8.0", cudnn_version=91_900)):
        raise KeyError
    assert [getattr(cudnn, name) for name in names] == before
