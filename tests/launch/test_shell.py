"""Shell that a machine has read."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = sorted(
    [
        *REPOSITORY.glob("launch/*.sh"),
        *REPOSITORY.glob("launch/*.sbatch"),
        *REPOSITORY.glob("tests/launch/*.sh"),
        REPOSITORY / ".ci" / "run",
    ]
)


def test_shellcheck():
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert shellcheck, "the test extra of pyproject.toml brings shellcheck"
    found = subprocess.run(
        [shellcheck, "--external-sources", *map(str, SCRIPTS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_is_called_can_be_executed(script):
    called = script.read_text().startswith("#!")
    assert bool(script.stat().st_mode & 0o111) == called
