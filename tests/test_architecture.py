"""The house's rules that a machine can hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seq2seq_jax

PACKAGE = Path(seq2seq_jax.__file__).parent
ROOT = PACKAGE.parent


def test_a_room_imports_only_rooms_below_it():
    found = subprocess.run(
        [sys.executable, "-c", "import importlinter.cli as cli; cli.lint_imports_command()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_commands_print_and_exit(path):
    tree = ast.parse(path.read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if PACKAGE / "commands" not in path.parents:
        assert not called & {"print", "sys.exit", "exit"}
    assert ast.get_docstring(tree), "a module says what it is"
