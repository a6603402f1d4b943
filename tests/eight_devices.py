"""Runs a script beside the tests of meshes in a process of its own, which has eight devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from compiling import flags_for_devices

import seq2seq_jax


def on_eight_devices(script: str, *arguments: str, timeout: float = 600.0) -> Any:
    """What a script of tests/parallel prints, as JSON, within so many seconds; unused donations are errors there."""
    tests, package = Path(__file__).parent, Path(seq2seq_jax.__file__).parent.parent
    paths = [str(tests), str(package), os.environ.get("PYTHONPATH", "")]
    finished = subprocess.run(
        [sys.executable, "-W", "error:Some donated buffers", str(tests / "parallel" / script), *arguments],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags_for_devices(8), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)
