"""Render gke_jobset.yaml: train on a TPU slice or on GPU nodes of Google Kubernetes Engine.

    python launch/gke_jobset.py --name NAME --image IMAGE --accelerator v5p:4x4x8 --claim CLAIM \
        CONFIG --run-dir /shared/runs/NAME [--part.field value ...] | kubectl apply -f -

Needs nothing but Python. It starts nothing by itself: kubectl does.
"""

import argparse
import dataclasses
import json
import math
import re
import string
import sys
from pathlib import Path
from typing import Any, NoReturn

TEMPLATE = Path(__file__).with_suffix(".yaml")

SHARED = "/shared"
"""Where pods see the claim."""

COORDINATOR_PORT = 8476

TPUS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
"""Generation -> node label cloud.google.com/gke-tpu-accelerator."""

FLAT_TOPOLOGIES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""Slices of v5e and v6e; the others are cuboids."""

SMALL_CUBOIDS = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
"""Slices of less than a cube of 4x4x4; beyond, all sides are multiples of 4."""

GPUS = {
    "l4": "nvidia-l4",
    "a100": "nvidia-tesla-a100",
    "a100-80gb": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h100-mega": "nvidia-h100-mega-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
"""Name -> node label cloud.google.com/gke-accelerator."""

GPUS_PER_HOST = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What a job computes on, in the terms of Google Kubernetes Engine."""

    hosts: int
    """Nodes, each with one process."""
    per_host: int
    """Chips, or GPUs, of a node."""
    resource: str
    """What a pod asks for: google.com/tpu or nvidia.com/gpu."""
    node_selector: dict[str, str]
    """Labels of the nodes."""


def parse_accelerator(text: str) -> Accelerator:
    """An accelerator by its name: v5p:4x4x8 (a TPU's topology) or h100:16 (a number of GPUs).

    Raises:
        ValueError: there is none of this name and size.

    Source: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, its table of machine types.
    """
    kind, _, size = text.partition(":")
    if kind in TPUS:
        return _tpu(kind, size)
    if kind in GPUS:
        return _gpu(kind, size)
    raise ValueError(
        f"--accelerator expects KIND:SIZE with KIND one of {', '.join([*TPUS, *GPUS])}, got {text!r}; "
        "give for example v5p:4x4x8, v6e:16x16 or h100:16."
    )


def _tpu(generation: str, topology: str) -> Accelerator:
    if generation in ("v5e", "v6e"):
        known, expected = topology in FLAT_TOPOLOGIES, f"one of {', '.join(FLAT_TOPOLOGIES)}"
    else:
        known = topology in SMALL_CUBOIDS or _is_cuboid_of_cubes(topology)
        expected = f"one of {', '.join(SMALL_CUBOIDS)}, or AxBxC of multiples of 4 with A <= B <= C"
    if not known:
        raise ValueError(f"--accelerator {generation} expects a topology, {expected}; got {topology!r}.")
    chips = math.prod(map(int, topology.split("x")))
    # Up to 8 chips of a flat topology are in one machine; larger slices are of machines with 4 chips.
    per_host = chips if topology in FLAT_TOPOLOGIES and chips <= 8 else 4
    return Accelerator(
        hosts=chips // per_host,
        per_host=per_host,
        resource="google.com/tpu",
        node_selector={
            "cloud.google.com/gke-tpu-accelerator": TPUS[generation],
            "cloud.google.com/gke-tpu-topology": topology,
        },
    )


def _is_cuboid_of_cubes(topology: str) -> bool:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", topology):
        return False
    sides = [int(side) for side in topology.split("x")]
    return sides == sorted(sides) and all(side % 4 == 0 for side in sides)


def _gpu(kind: str, size: str) -> Accelerator:
    count = int(size) if re.fullmatch(r"[1-9]\d*", size) else 0
    if count == 0 or (count > GPUS_PER_HOST and count % GPUS_PER_HOST):
        raise ValueError(
            f"--accelerator {kind} expects a number of GPUs, up to {GPUS_PER_HOST} or a multiple of it; got {size!r}."
        )
    per_host = min(count, GPUS_PER_HOST)
    return Accelerator(
        hosts=count // per_host,
        per_host=per_host,
        resource="nvidia.com/gpu",
        node_selector={"cloud.google.com/gke-accelerator": GPUS[kind]},
    )


def render(
    accelerator: Accelerator,
    *,
    name: str,
    image: str,
    claim: str,
    arguments: list[str],
    environment: dict[str, str],
    spot: bool,
) -> str:
    """The YAML text of the JobSet.

    Args:
        name: of the JobSet.
        image: container image whose working directory is this project, installed.
        claim: PersistentVolumeClaim that many pods may write; mounted at SHARED.
        arguments: of `seq2seq train`.
        environment: further variables of every process.
        spot: run on spot machines.
    """
    variables = [{"name": key, "value": value} for key, value in environment.items()]
    selector = dict(accelerator.node_selector)
    tolerations = [{"key": accelerator.resource, "operator": "Exists", "effect": "NoSchedule"}]
    annotations = {}
    if spot:
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"})
    if accelerator.resource == "google.com/tpu":
        # A node pool is a slice: all pods go to one of them. GKE tells TPU processes of each other by itself.
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
    else:
        variables += _process_variables(accelerator.hosts)
    values = {
        "name": name,
        "annotations": annotations,
        "hosts": accelerator.hosts,
        "node_selector": selector,
        "tolerations": tolerations,
        "image": image,
        "arguments": arguments,
        "environment": variables,
        "resources": {accelerator.resource: accelerator.per_host},
        "claim": claim,
    }
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute({key: json.dumps(value) for key, value in values.items()})


def _process_variables(hosts: int) -> list[dict[str, Any]]:
    """How a process finds the others: where the first one listens, how many there are, which one it is."""

    def annotation(name: str) -> dict[str, Any]:
        return {"fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}

    return [
        {"name": "COORDINATOR", "valueFrom": annotation("jobset.sigs.k8s.io/coordinator")},
        {"name": "JAX_COORDINATOR_ADDRESS", "value": f"$(COORDINATOR):{COORDINATOR_PORT}"},
        {"name": "JAX_NUM_PROCESSES", "value": str(hosts)},
        {"name": "JAX_PROCESS_ID", "valueFrom": annotation("batch.kubernetes.io/job-completion-index")},
    ]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help shows how to call this.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--name", required=True, help="of the JobSet: lower-case letters, digits and -")
    parser.add_argument("--image", required=True, help="container image, as launch/Dockerfile makes it")
    parser.add_argument("--accelerator", required=True, help="such as v5p:4x4x8, v6e:16x16 or h100:16")
    parser.add_argument("--claim", required=True, help=f"PersistentVolumeClaim (ReadWriteMany), seen at {SHARED}")
    parser.add_argument("--spot", action="store_true", help="run on spot machines")
    parser.add_argument(
        "--environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of every process; may be given several times",
    )
    parser.add_argument("--dry-run", action="store_true", help="as without it: print, and start nothing")
    parser.add_argument("config", metavar="CONFIG", help="of `seq2seq train`; its --run-dir and overrides follow")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run_directory(arguments: list[str]) -> str:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run-dir", "--run_dir", default="")
    return parser.parse_known_args(arguments)[0].run_dir


def main(arguments: list[str]) -> None:
    """Print the JobSet.

    Raises:
        ValueError: an argument is not what it should be.
    """
    chosen = _parser().parse_args(arguments)
    accelerator = parse_accelerator(chosen.accelerator)
    # A pod's name, NAME-train-0-INDEX-XXXXX, may have 63 characters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", chosen.name):
        raise ValueError(
            f"--name expects up to 40 lower-case letters, digits and -, a letter first, got {chosen.name!r}."
        )
    directory = _run_directory(chosen.arguments)
    if not directory.startswith(f"{SHARED}/"):
        raise ValueError(
            f"--run-dir expects a directory below {SHARED}, where all pods see the claim, got {directory!r}; "
            f"give for example --run-dir {SHARED}/runs/{chosen.name}."
        )
    environment = {"JAX_COMPILATION_CACHE_DIR": f"{SHARED}/compilation_cache"}
    for assignment in chosen.environment:
        key, separator, value = assignment.partition("=")
        if not key or not separator:
            raise ValueError(f"--environment expects NAME=VALUE, got {assignment!r}.")
        environment[key] = value
    print(
        render(
            accelerator,
            name=chosen.name,
            image=chosen.image,
            claim=chosen.claim,
            arguments=[chosen.config, *chosen.arguments],
            environment=environment,
            spot=chosen.spot,
        ),
        end="",
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"seq2seq: {error}", file=sys.stderr)
        sys.exit(2)
