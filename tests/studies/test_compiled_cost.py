"""The comparison of predicted and real cost, made small."""

import json
import os
import subprocess
import sys

import pytest
from compiling import compiling_as_usual

from studies.compiled_cost import main

pytestmark = pytest.mark.long


def test_prediction_and_measurement_lie_close(tmp_path):
    """In a process of its own, which has eight devices."""
    finished = subprocess.run(
        [
            sys.executable, "-m", "studies.compiled_cost",
            "--widths", "128", "--layers", "2", "--rows", "64", "--json", str(tmp_path / "found.json"),
        ],
        env=compiling_as_usual() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())["comparisons"]
    # The count without the loop has what is done element by element, too.
    assert found["predicted_flops"] == pytest.approx(found["counted_flops"], rel=0.05)
    assert found["model_flops"] == pytest.approx(found["predicted_flops"], rel=0.05)
    assert found["predicted_memory"] == pytest.approx(found["measured_memory"], rel=0.25)
    assert "128, " in finished.stdout


def test_a_width_that_the_mesh_cannot_divide_is_a_mistake():
    with pytest.raises(ValueError, match=r"^--widths must be multiples of 32, not 128 33\.$"):
        main(["--widths", "128", "33"])
