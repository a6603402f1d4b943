"""The wheel: built, unpacked where there is no checkout, and used there."""

import json
import shutil
import subprocess
import sys
from email.parser import HeaderParser
from pathlib import Path

import pytest

import seq2seq_jax

REPOSITORY = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(REPOSITORY / "configs").with_suffix("")) for path in REPOSITORY.glob("configs/*/*.py")
)
BUILT_FROM = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")

USE = """
import json, sys
import seq2seq_jax
from seq2seq_jax.experiment import find_config, load_config

places = {name: str(find_config(name)) for name in sys.argv[1:]}
try:
    find_config("no/config")
except ValueError as error:
    message = str(error)
load_config(find_config("dates/transformer"))
print(json.dumps({"package": seq2seq_jax.__file__, "configs": places, "message": message}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with what the wheel puts into site-packages."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site-packages")
    for name in BUILT_FROM:
        shutil.copy(REPOSITORY / name, source)
    for name in ("seq2seq_jax", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*pip, "--target", site, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return site


@pytest.mark.long
def test_every_config_is_found_away_from_the_repository(installed, tmp_path):
    used = subprocess.run(
        [sys.executable, "-c", USE, *CONFIGS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert used.returncode == 0, used.stderr
    found = json.loads(used.stdout)
    assert Path(found["package"]).is_relative_to(installed)
    assert {Path(path).is_relative_to(installed / "seq2seq_jax") for path in found["configs"].values()} == {True}
    assert f"one of: {', '.join(CONFIGS)}." in found["message"]


def test_the_wheel_says_what_it_is(installed):
    (metadata,) = installed.glob("seq2seq_jax-*.dist-info/METADATA")
    fields = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
    assert (fields["Version"], fields["License-Expression"]) == (seq2seq_jax.__version__, "Apache-2.0")
    assert fields["Author"] == "the seq2seq_jax authors"
    assert not any("==" in requirement for requirement in fields.get_all("Requires-Dist") if "extra" not in requirement)
    assert (metadata.parent / "licenses" / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()
    assert (installed / "seq2seq_jax" / "py.typed").is_file()
    assert not {path.name for path in installed.iterdir()} & {"configs", "tests", "studies", "docs"}
