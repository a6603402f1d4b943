"""What a run directory may hold."""

import pytest

from seq2seq_jax.run.directory import RunDirectory


def test_a_run_does_not_begin_on_checkpoints_of_which_nothing_is_known(tmp_path):
    """It would go on from them, whatever they belong to."""
    directory = RunDirectory(tmp_path / "run")
    directory.refuse_foreign_checkpoints()
    (directory.path / "checkpoints").mkdir(parents=True)
    directory.refuse_foreign_checkpoints()
    (directory.path / "checkpoints" / "00000016").mkdir()
    with pytest.raises(ValueError, match="no experiment.json; there is one of step 16: bring") as error:
        directory.refuse_foreign_checkpoints()
    assert "\n" not in str(error.value)
