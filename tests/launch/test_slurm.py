"""slurm.sbatch, with programs that stand in for Slurm's."""

import signal

import pytest
from waiting import wait_until

JOB = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": "."}
TRAINING = ["dates/transformer", "--run-dir", "my run", "--training.steps", "20"]


@pytest.fixture
def job(project):
    """A project in which the script finds itself in a job that runs."""
    for name in ("seq2seq", "srun", "scontrol", "scancel"):
        project.recorder(name)
    project.recorder("squeue", "RUNNING\n")
    (project.directory / "my run").mkdir()
    return project


def test_dry_run_shows_what_would_run(job):
    shown = job.shown("bash", "launch/slurm.sbatch", "--dry-run", *TRAINING)
    assert shown == [
        ["srun", "--cpu-bind=none", "--kill-on-bad-exit=1", "seq2seq", "train", *TRAINING],
        ["[", "!", "-e", "my run/preempted", "]", "||", "scontrol", "requeue", "$SLURM_JOB_ID"],
    ]
    assert not job.calls
    done = job.run("bash", "launch/slurm.sbatch", *TRAINING, **JOB)
    assert done.returncode == 0, done.stderr
    assert job.calls == [shown[0]]


def test_all_gpus_of_a_node_belong_to_its_one_process(job):
    first, *_ = job.shown("bash", "launch/slurm.sbatch", "--dry-run", *TRAINING, SLURM_GPUS_ON_NODE="4")
    assert first == ["export", "JAX_LOCAL_DEVICE_IDS=0,1,2,3"]
    first, *_ = job.shown(
        "bash", "launch/slurm.sbatch", "--dry-run", *TRAINING, SLURM_GPUS_ON_NODE="4", SLURM_NTASKS_PER_NODE="4"
    )
    assert first[0] == "srun"


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [(0, "RUNNING", True), (0, "COMPLETING", False), (2, "RUNNING", False)],
    ids=["pre-empted", "cancelled", "failed after a pre-emption"],
)
def test_it_goes_back_into_the_queue_only_where_it_was_pre_empted(job, status, state, requeued):
    (job.directory / "my run" / "preempted").write_text("11\n")
    job.program("srun", f"#!/bin/sh\nexit {status}\n")
    job.recorder("squeue", f"{state}\n")
    done = job.run("bash", "launch/slurm.sbatch", *TRAINING, **JOB)
    assert done.returncode == status
    assert (["scontrol", "requeue", "7"] in job.calls) == requeued
    assert ("pre-empted after step 11" in done.stdout) == requeued


def test_sigterm_goes_to_the_processes_and_the_script_waits_for_them(job):
    job.program("srun", "#!/bin/sh\ntouch began\nwhile [ ! -e end ]; do sleep 0.05; done\nexit 3\n")
    script = job.start("bash", "launch/slurm.sbatch", *TRAINING, **JOB)
    wait_until((job.directory / "began").exists, "began")
    for expected in (1, 2):
        script.send_signal(signal.SIGTERM)
        wait_until(lambda count=expected: len(job.calls) == count, "passed on")
    assert job.calls == [["scancel", "--signal=TERM", "7"]] * 2
    assert script.poll() is None
    (job.directory / "end").touch()
    script.communicate(timeout=20)
    assert script.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a CONFIG first, got ''"),
        (["--nodes", "2", "dates/transformer"], "expected a CONFIG first, got '--nodes'"),
        (["dates/transformer"], "--run-dir is missing"),
        (TRAINING, "give it to sbatch, or call it with --dry-run"),
    ],
)
def test_a_mistake_is_one_line(job, arguments, said):
    assert said in job.refusal("bash", "launch/slurm.sbatch", *arguments, SLURM_JOB_ID="")


def test_a_submission_from_elsewhere_is_one_line(job):
    elsewhere = job.directory / "my run"
    refused = job.refusal("bash", "launch/slurm.sbatch", *TRAINING, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(elsewhere))
    assert f"expected the project's root, got {elsewhere}" in refused
