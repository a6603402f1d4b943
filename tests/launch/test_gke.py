"""gke_jobset.py, the JobSet that it renders, and what its pods run."""

import json
import signal
import sys

import pytest
import yaml
from waiting import wait_until

REQUIRED = ["--name", "big", "--image", "registry/image:1", "--claim", "shared-storage"]
TRAINING = ["wmt14_de_en/transformer_big", "--run-dir", "/shared/runs/big", "--data.source", 'it\'s "$x"']


def rendered(project, accelerator, *options, training=TRAINING):
    command = [sys.executable, "launch/gke_jobset.py", *REQUIRED, "--accelerator", accelerator, *options, *training]
    done = project.run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    return yaml.safe_load(done.stdout)


def pod_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def environment_of(jobset):
    (container,) = pod_of(jobset)["containers"]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


@pytest.mark.parametrize("accelerator", ["v5p:4x4x8", "h100:16"])
def test_it_holds_what_a_job_set_needs(project, accelerator):
    jobset = rendered(project, accelerator)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["name"] == "big"
    spec = jobset["spec"]
    # The headless service: pods are found as NAME-train-0-INDEX.NAME.
    assert spec["network"]["enableDNSHostnames"] is True
    assert spec["coordinator"] == {"replicatedJob": "train", "jobIndex": 0, "podIndex": 0}
    (replicated,) = spec["replicatedJobs"]
    assert (replicated["name"], replicated["replicas"]) == ("train", 1)
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == (32 if accelerator == "v5p:4x4x8" else 2)
    assert job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"] == "registry/image:1"
    assert container["command"] == ["launch/gke_pod.sh"]
    assert container["args"] == TRAINING
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert claims["shared"] == {"claimName": "shared-storage"} and mounts["shared"] == "/shared"
    assert mounts.keys() == claims.keys()
    assert environment_of(jobset)["JAX_COMPILATION_CACHE_DIR"] == "/shared/compilation_cache"


@pytest.mark.parametrize("accelerator", ["v5p:4x4x8", "h100:16"])
def test_a_pre_emption_restarts_without_being_counted_and_a_failure_is_counted(project, accelerator):
    spec = rendered(project, accelerator)["spec"]
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] == 3
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    container = pod_of({"spec": spec})["containers"][0]["name"]
    rules = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert [each["action"] for each in rules] == ["FailJob", "FailJob"]
    assert rules[0]["onExitCodes"] == {"containerName": container, "operator": "In", "values": [75]}
    assert rules[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


@pytest.mark.parametrize(
    ("accelerator", "label", "hosts", "chips"),
    [
        ("v4:2x2x1", "tpu-v4-podslice", 1, 4),
        ("v5p:2x2x2", "tpu-v5p-slice", 2, 4),
        ("v5p:8x8x16", "tpu-v5p-slice", 256, 4),
        ("v5e:2x4", "tpu-v5-lite-podslice", 1, 8),
        ("v5e:4x4", "tpu-v5-lite-podslice", 4, 4),
        ("v6e:1x1", "tpu-v6e-slice", 1, 1),
        ("v6e:16x16", "tpu-v6e-slice", 64, 4),
        ("tpu7x:4x4x4", "tpu7x", 16, 4),
    ],
)
def test_tpus_by_name(project, accelerator, label, hosts, chips):
    jobset = rendered(project, accelerator)
    pod = pod_of(jobset)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": accelerator.partition(":")[2],
    }
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": chips}}
    assert jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == hosts
    # One slice for all pods; GKE tells the processes of each other.
    assert jobset["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert environment_of(jobset).keys() == {"JAX_COMPILATION_CACHE_DIR"}


@pytest.mark.parametrize(
    ("accelerator", "label", "hosts", "gpus"),
    [
        ("l4:1", "nvidia-l4", 1, 1),
        ("a100:8", "nvidia-tesla-a100", 1, 8),
        ("h100:16", "nvidia-h100-80gb", 2, 8),
        ("h200:1024", "nvidia-h200-141gb", 128, 8),
    ],
)
def test_gpus_by_name(project, accelerator, label, hosts, gpus):
    jobset = rendered(project, accelerator)
    pod = pod_of(jobset)
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": label}
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": gpus}}
    assert jobset["metadata"]["annotations"] == {}
    environment = environment_of(jobset)

    def annotation(name):
        return {"fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}

    assert environment["COORDINATOR"] == annotation("jobset.sigs.k8s.io/coordinator")
    assert environment["JAX_COORDINATOR_ADDRESS"] == "$(COORDINATOR):8476"
    assert environment["JAX_NUM_PROCESSES"] == str(hosts)
    assert environment["JAX_PROCESS_ID"] == annotation("batch.kubernetes.io/job-completion-index")
    # Kubernetes puts in only what was defined further up.
    assert list(environment).index("COORDINATOR") < list(environment).index("JAX_COORDINATOR_ADDRESS")


def test_spot_machines_and_variables(project):
    jobset = rendered(project, "v6e:4x4", "--spot", "--environment", "XLA_FLAGS=--a=b", "--environment", "EMPTY=")
    assert pod_of(jobset)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert {toleration["key"] for toleration in pod_of(jobset)["tolerations"]} == {
        "google.com/tpu",
        "cloud.google.com/gke-spot",
    }
    environment = environment_of(jobset)
    assert (environment["XLA_FLAGS"], environment["EMPTY"]) == ("--a=b", "")


def test_dry_run_prints_what_is_printed_without_it(project):
    assert rendered(project, "v6e:4x4", "--dry-run") == rendered(project, "v6e:4x4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        ([*REQUIRED, "--accelerator", "v9:4x4", *TRAINING], "KIND one of v4, v5e, v5p, v6e, tpu7x, l4"),
        ([*REQUIRED, "--accelerator", "v5p", *TRAINING], "expects a topology"),
        ([*REQUIRED, "--accelerator", "v5p:8x4x4", *TRAINING], "A <= B <= C; got '8x4x4'"),
        ([*REQUIRED, "--accelerator", "v5p:4x4x6", *TRAINING], "multiples of 4"),
        ([*REQUIRED, "--accelerator", "v6e:4x4x4", *TRAINING], "one of 1x1, 2x2"),
        ([*REQUIRED, "--accelerator", "h100:12", *TRAINING], "up to 8 or a multiple of it; got '12'"),
        ([*REQUIRED, "--accelerator", "h100:eight", *TRAINING], "a number of GPUs"),
        ([*REQUIRED, "--accelerator", "h100:8", "dates/transformer"], "--run-dir expects a directory below /shared"),
        ([*REQUIRED, "--accelerator", "h100:8", "dates/transformer", "--run_dir=runs/x"], "got 'runs/x'"),
        ([*REQUIRED, "--name", "Big", "--accelerator", "h100:8", *TRAINING], "--name expects"),
        ([*REQUIRED, "--environment", "=x", "--accelerator", "h100:8", *TRAINING], "expects NAME=VALUE, got '=x'"),
        ([*REQUIRED, "--accelerator", "h100:8", "--sport", *TRAINING], "unrecognized arguments: --sport"),
    ],
)
def test_a_mistake_is_one_line(project, arguments, said):
    assert said in project.refusal(sys.executable, "launch/gke_jobset.py", *arguments)


STANDING_IN = """#!/bin/bash
# Saves at SIGTERM, or ends with the status in the file.
run=$4
echo "$@" >"$run/called"
trap 'echo 7 >"$run/preempted"; exit 0' TERM
while [ ! -e "$run/status" ]; do sleep 0.05; done
exit "$(cat "$run/status")"
"""


@pytest.fixture
def pod(project):
    """A pod of a run that stands in for training; and the run's directory."""
    run = project.directory / "run"
    run.mkdir()
    project.program("seq2seq", STANDING_IN)
    process = project.start("launch/gke_pod.sh", "dates/transformer", "--run-dir", run, "--training.steps", "9")
    wait_until((run / "called").exists, "called")
    yield process, run
    process.kill()
    process.communicate()


def test_a_pod_calls_training(pod):
    process, run = pod
    (run / "status").write_text("0")
    assert process.wait(timeout=20) == 0
    assert (run / "called").read_text() == f"train dates/transformer --run-dir {run} --training.steps 9\n"


def test_a_pod_that_was_pre_empted_says_so(pod):
    process, run = pod
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 75
    assert (run / "preempted").read_text() == "7\n"


def test_a_pod_that_failed_says_how_whatever_an_earlier_pre_emption_left(pod):
    process, run = pod
    (run / "preempted").write_text("3\n")
    (run / "status").write_text("2")
    assert process.wait(timeout=20) == 2


def test_json_of_the_user_stays_data(project):
    """A name of an image cannot add a field to the JobSet."""
    image = 'x", "command": ["rm"], "y": "'
    command = ["launch/gke_jobset.py", *REQUIRED, "--image", image, "--accelerator", "h100:8", *TRAINING]
    (container,) = pod_of(yaml.safe_load(project.run(sys.executable, *command).stdout))["containers"]
    assert container["image"] == image
    assert json.dumps(container["command"]) == '["launch/gke_pod.sh"]'
