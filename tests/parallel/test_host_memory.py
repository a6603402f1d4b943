"""Where the C library's settings are left alone."""

from seq2seq_jax.parallel import host_memory


def test_beside_an_accelerator_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(host_memory, "ACCELERATORS", (str(tmp_path / "nvidia[0-9]*"),))
    assert not host_memory.keep_memory_between_steps()
