"""Golden experiments: losses, parameters and texts stay what they were when they were recorded, bit for bit.

Each JSON file in this directory holds an experiment, as in experiment.json under the names of the time when it was
recorded, and its results. On another processor or with another version of jax, sums are rounded differently, and only
the beginning of the training is compared.

After a change that is meant to change numbers, and says why: python tests/golden/test_golden.py NAME... records anew.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
EXPERIMENTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.json"))}
QUICK = ("transformer_packed_resumed",)
"""Computed in every run of the tests: packed rows, and a run that was resumed."""

# The results depend on how programs are compiled, so this is independent of how other tests compile theirs.
XLA_FLAGS = "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
}


class Computer:
    """A process with a number of devices that computes the results of experiments."""

    def __init__(self, directory: str | Path, *, devices: int):
        self.log = Path(directory) / "log"
        flags = f"{XLA_FLAGS} --xla_force_host_platform_device_count={devices}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "compute.py"), str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | ENVIRONMENT | {"XLA_FLAGS": flags},
            )

    def __call__(self, name: str) -> dict:
        """The results of an experiment, and the platform that they depend on."""
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-4000:]
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def computer(tmp_path_factory):
    """Number of devices -> the process that has them."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(devices):
            computer = Computer(tmp_path_factory.mktemp("golden"), devices=devices)
            stack.callback(computer.close)
            return computer

        yield start


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in EXPERIMENTS]
)
def test_numbers_and_texts_have_not_moved(name, computer):
    recorded = EXPERIMENTS[name]
    computed = computer(recorded["devices"])(name)
    found, expected = computed["expected"], recorded["expected"]
    assert len(found["losses"]) == len(expected["losses"])
    if computed["recorded_with"] == recorded["recorded_with"]:
        assert found == expected
    else:
        assert found["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-3, abs=1e-4)
        assert found["gradient_norms"][0] == pytest.approx(expected["gradient_norms"][0], rel=1e-2)


def record(names: list[str]) -> None:
    """Compute the results of experiments, and store them in their files."""
    for devices in {EXPERIMENTS[name]["devices"] for name in names}:
        with (
            tempfile.TemporaryDirectory() as directory,
            contextlib.closing(Computer(directory, devices=devices)) as computer,
        ):
            for name in names:
                if EXPERIMENTS[name]["devices"] == devices:
                    text = json.dumps(EXPERIMENTS[name] | computer(name), indent=1, ensure_ascii=False)
                    (HERE / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1:])
