"""Runs a script beside the tests of meshes in a process of its own, which has eight devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiling import flags_for_devices
from shared import made_once

import seq2seq_jax


def on_eight_devices(factory: pytest.TempPathFactory, script: str, *arguments: str, timeout: float = 1500.0) -> Any:
    """What a script prints, as JSON; it runs once for all workers, in a directory of its own. Unused donations are
    errors there.

    Args:
        factory: pytest's.
        script: path from the directory of the tests.
        timeout: seconds.
    """
    tests, package = Path(__file__).parent, Path(seq2seq_jax.__file__).parent.parent
    paths = [str(tests), str(tests / "parallel"), str(package), os.environ.get("PYTHONPATH", "")]

    def run(directory):
        finished = subprocess.run(
            [sys.executable, "-W", "error:Some donated buffers", str(tests / script), *arguments],
            cwd=directory,
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags_for_devices(8), "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        (directory / "printed.json").write_text(finished.stdout)

    name = "_".join([Path(script).stem, *(argument.replace("/", "_") for argument in arguments)])
    return json.loads((made_once(factory, name, run) / "printed.json").read_text())
