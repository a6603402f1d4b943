"""Which topologies there are, and what is said of those that there are not."""

import importlib.util

import pytest

from seq2seq_jax.compilation import gpu_targets
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.parallel.chips import CHIPS


@pytest.mark.parametrize(
    ("name", "num_chips", "is_simulated"),
    [
        ("v5e:4x4", 16, False),
        ("v5e:2x4", 8, False),
        ("v6e:16x16", 256, False),
        ("v5p:2x2x1", 4, False),
        ("v5p:8x8x16", 1024, False),
        ("v5p:16x16x16", 4096, False),
        ("h100:1", 1, True),
        ("h200:8", 8, True),
        ("b200:64", 64, True),
    ],
)
def test_a_topology_is_found_by_its_name(name, num_chips, is_simulated, monkeypatch):
    monkeypatch.setattr(gpu_targets, "installed_plugin", lambda: None)
    topology = Topology.parse(name)
    assert (topology.num_chips, topology.is_simulated) == (num_chips, is_simulated)
    assert topology.chip == CHIPS[name.partition(":")[0]]


@pytest.mark.parametrize(
    "name",
    [
        "v5p", "v5p:", "v5p:4x4", "v5p:3x3x3", "v5p:4x4x6", "v5p:32x16x16", "v5e:16x32", "v5e:3x4", "v5e:0x4", "v9:2x2",
        "v4:4x4x4", "h100:0", "h100:12", "h100:2x4", "h100:1024", "h100:-8", "8", "",
    ],
)  # fmt: skip
def test_a_topology_that_does_not_exist_is_refused_with_those_that_do(name):
    with pytest.raises(ValueError, match=r"^there is no topology '[^\n]*v5e:4x4[^\n]*v5p:4x4x8[^\n]*h100:8[^\n]*$"):
        Topology.parse(name)


def test_without_libtpu_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = r"^compiling for v5e:4x4 needs the TPU compiler[^\n]*pip install 'libtpu==0\."
    with pytest.raises(ValueError, match=said):
        Topology.parse("v5e:4x4").prepare()


def test_peaks_are_of_one_order():
    """A slip in the table would show: the ratios of a chip's rates do not differ by more than a factor of 6."""
    for chip in CHIPS.values():
        assert 100 < chip.flops / chip.memory_bandwidth < 600
        assert 2 < chip.memory_bandwidth / chip.interconnect_bandwidth < 12
        assert chip.source
