"""tpu_vm.sh and what it does on a worker, with programs that stand in for gcloud and training."""

import signal

import pytest
from waiting import wait_until

COMMANDS = {
    "create": (["pod", "v5p-256", "--spot"], ["queued-resources", "create", "pod", "--node-id=pod"]),
    "status": (["pod"], ["queued-resources", "describe", "pod", "--format=value(state.state)"]),
    "install": (["pod", "10.0.0.2:/share"], ["tpu-vm", "scp", "build/seq2seq_jax.tar.gz", "pod:", "--worker=all"]),
    "start": (
        ["pod", "wmt14_de_en/transformer_big", "--run-dir", "/mnt/shared/big", "--data.source", "it's"],
        ["tpu-vm", "ssh", "pod", "--worker=all"],
    ),
    "watch": (["pod"], ["tpu-vm", "ssh", "pod", "--worker=0"]),
    "stop": (["pod"], ["tpu-vm", "ssh", "pod", "--worker=all"]),
    "delete": (["pod"], ["queued-resources", "delete", "pod", "--force"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_dry_run_shows_what_would_run(project, command):
    arguments, beginning = COMMANDS[command]
    for name in ("gcloud", "git", "mkdir"):
        project.recorder(name)
    shown = project.shown("launch/tpu_vm.sh", "--dry-run", command, *arguments)
    asked_git = [["git", "diff", "--quiet", "HEAD"]] if command == "install" else []
    assert project.calls == asked_git
    assert ["gcloud", "compute", "tpus", *beginning] in [words[: len(beginning) + 3] for words in shown]
    done = project.run("launch/tpu_vm.sh", command, *arguments)
    assert done.returncode == 0, done.stderr
    assert project.calls == [*asked_git, *asked_git, *shown]


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-256", "v2-alpha-tpuv5"),
        ("v6e-64", "v2-alpha-tpuv6e"),
    ],
)
def test_each_generation_has_its_runtime(project, accelerator, version):
    (words,) = project.shown("launch/tpu_vm.sh", "--dry-run", "create", "pod", accelerator)
    assert words[-2:] == [f"--accelerator-type={accelerator}", f"--runtime-version={version}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected create, status, install, start, watch, stop or delete, got ''"),
        (["begin", "pod"], "got 'begin'"),
        (["create"], "expected the NAME of a TPU after create, got ''"),
        (["create", "pod", "h100-8"], "expected an accelerator such as v4-32, v5litepod-16, v5p-256 or v6e-64"),
        (["install", "pod"], "expected the share that all workers mount"),
        (["start", "pod"], "expected a CONFIG first, got ''"),
        (["start", "pod", "dates/transformer"], "--run-dir is missing"),
        (["start", "pod", "dates/transformer", "--run-dir", "runs/here"], "below /mnt/shared"),
    ],
)
def test_a_mistake_is_one_line(project, arguments, said):
    project.recorder("gcloud")
    assert said in project.refusal("launch/tpu_vm.sh", *arguments)
    assert not project.calls


TRAINING = """#!/bin/bash
trap 'echo saved; exit 0' TERM
echo "$@ with $JAX_COMPILATION_CACHE_DIR"
while true; do sleep 0.05; done
"""


@pytest.mark.long
def test_a_worker_starts_one_training_and_stops_it(project):
    (project.directory / ".venv" / "bin").mkdir(parents=True)
    (project.directory / ".venv" / "bin" / "activate").write_text("")
    project.program("seq2seq", TRAINING)
    worker = project.directory / "launch" / "tpu_worker.sh"
    log = project.directory / "train.log"
    assert "no training runs here" in project.refusal(worker, "stop")
    assert project.run(worker, "start", "dates/transformer", "--data.source", "it's").returncode == 0
    try:
        wait_until(lambda: log.exists() and log.read_text(), "started")
        assert log.read_text() == "train dates/transformer --data.source it's with /mnt/shared/compilation_cache\n"
        assert "training already runs here" in project.refusal(worker, "start", "dates/transformer")
        watching = project.start(worker, "watch")
        assert watching.stdout.readline().startswith("train dates/transformer")
        watching.send_signal(signal.SIGTERM)
        watching.communicate(timeout=20)
    finally:
        stopped = project.run(worker, "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "saved\n")
    assert "no training runs here" in project.refusal(worker, "stop")


def test_a_worker_mounts_the_share_and_installs(project):
    for name in ("requirements.txt", "pyproject.toml"):
        (project.directory / name).write_text("")
    (project.directory / ".venv" / "bin").mkdir(parents=True)
    (project.directory / ".venv" / "bin" / "activate").write_text("")
    (project.directory / ".venv" / "bin" / "python").symlink_to("/bin/true")
    project.program("mountpoint", '#!/bin/sh\n[ "$*" = "--quiet /mnt/shared" ] && [ -e mounted ]\n')
    project.program("python", "#!/bin/sh\necho 0.10.2\n")
    for name in ("sudo", "pip"):
        project.recorder(name)
    installed = project.run("launch/tpu_worker.sh", "install", "10.0.0.2:/share")
    assert installed.returncode == 0, installed.stderr
    assert ["sudo", "mount", "-t", "nfs", "10.0.0.2:/share", "/mnt/shared"] in project.calls
    assert [call[-1] for call in project.calls if call[0] == "pip"] == [".", "jax[tpu]==0.10.2"]
    (project.directory / "mounted").touch()
    before = len(project.calls)
    assert project.run("launch/tpu_worker.sh", "install", "10.0.0.2:/share").returncode == 0
    assert len(project.calls) == before
