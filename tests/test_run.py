"""What a run writes about itself."""

from seq2seq_jax import run


def test_code_without_git_has_no_commit(monkeypatch, tmp_path):
    """As in an image that holds the code and no git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.commit_of_code() is None
