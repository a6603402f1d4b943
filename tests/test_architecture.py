"""The house's rules that a machine can hold; the rest of them is the linters' (pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

import seq2seq_jax

ROOT = Path(seq2seq_jax.__file__).parents[1]


def test_a_room_imports_only_rooms_below_it():
    found = subprocess.run(
        [sys.executable, "-c", "import importlinter.cli as cli; cli.lint_imports_command()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
