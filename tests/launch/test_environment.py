"""environment.sh: which build of JAX a machine gets, and that it is installed once."""

import pytest

NVIDIA = """#!/bin/sh
case $* in -L) echo "GPU 0: a GPU" ;; *) echo "| Driver Version: 1.2   CUDA Version: {version}.4 |" ;; esac
"""


@pytest.fixture
def machine(project):
    """A project whose .venv is there and empty, and a pip that only remembers."""
    for name in ("requirements.txt", "pyproject.toml"):
        (project.directory / name).write_text(name)
    binaries = project.directory / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text("")
    (binaries / "python").symlink_to("/bin/true")
    project.recorder("pip")
    project.program("python", "#!/bin/sh\necho 0.10.2\n")
    return project


def prepare(machine, **environment):
    done = machine.run("bash", "-c", '. launch/environment.sh && prepare_environment ""', **environment)
    assert done.returncode == 0, done.stderr
    return [call[-1] for call in machine.calls]


def test_the_tested_versions_are_installed(machine):
    prepare(machine)
    assert machine.calls == [
        ["pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt", "-e", "."]
    ]


def test_what_is_said_is_installed_and_only_once(machine):
    assert prepare(machine, ACCELERATOR="tpu") == [".", "jax[tpu]==0.10.2"]
    assert prepare(machine, ACCELERATOR="tpu") == [".", "jax[tpu]==0.10.2"]
    (machine.directory / "requirements.txt").write_text("another version")
    assert prepare(machine, ACCELERATOR="tpu") == [".", "jax[tpu]==0.10.2"] * 2


@pytest.mark.parametrize("version", [12, 13])
def test_a_gpu_is_found(machine, version):
    machine.program("nvidia-smi", NVIDIA.format(version=version))
    assert prepare(machine) == [".", f"jax[cuda{version}]==0.10.2"]
