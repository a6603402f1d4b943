"""Trains golden experiments and generates with them: names of experiments in on standard input, JSON lines out.

Run in a separate process: python compute.py DIRECTORY. The experiments are the JSON files in this directory.
"""

import contextlib
import functools
import hashlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq2seq_jax.commands.main import main
from seq2seq_jax.run.inference import Inference

SOURCES = ["one two three", "nine", "four four four four", "seven zero two eight five", "three one"]

CONFIG = """
import json

from seq2seq_jax.experiment import Experiment, from_json


def experiment():
    with open({path!r}, encoding="utf-8") as file:
        return from_json(Experiment, json.load(file)["experiment"])
"""


def write_text(directory: Path) -> None:
    """400 + 8 + 8 pairs such as "two one" and "21+12", in files and as documents."""
    directory.mkdir()
    rng = random.Random(0)
    digits = "zero one two three four five six seven eight nine".split()
    for split, size in (("train", 400), ("val", 8), ("test", 8)):
        numbers = [[rng.randrange(10) for _ in range(rng.randint(1, 6))] for _ in range(size)]
        sources = [" ".join(digits[digit] for digit in number) for number in numbers]
        targets = [f"{''.join(map(str, number))}+{''.join(map(str, number[::-1]))}" for number in numbers]
        for extension, lines in (("en", sources), ("num", targets)):
            (directory / f"{split}.{extension}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def call(*arguments: Any) -> None:
    """Run the command line in this process, with its output on standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"seq2seq {' '.join(map(str, arguments))} ended with status {stop.code}") from stop


def digest(tree: Any) -> str:
    """SHA-256 of the names, types, shapes and bits of all arrays."""
    hashed = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)):
        array = np.asarray(leaf)
        hashed.update(f"{path} {array.dtype} {array.shape}\n".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


@functools.cache
def compute(name: str) -> dict[str, Any]:
    """Losses of all steps, validations, a digest of the parameters, and the texts of the search."""
    path = Path(__file__).parent / f"{name}.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    stop_after, init_from = recorded["stop_after"], recorded["experiment"]["init_from"]
    config, run = Path(f"{name}.py"), Path("runs") / name
    if init_from is not None:
        compute(Path(init_from.removesuffix(":latest")).name)
    config.write_text(CONFIG.format(path=str(path)))
    if stop_after is not None:
        call("train", config, "--run-dir", run, "--training.steps", stop_after)
    call("train", config, "--run-dir", run)
    Path("sources.txt").write_text("".join(f"{source}\n" for source in SOURCES))
    call("generate", run, "--checkpoint", "latest", "--input", "sources.txt", "--json", f"{name}.jsonl")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "losses": [record["loss"] for record in records if record["kind"] == "train"],
        "gradient_norms": [record["gradient_norm"] for record in records if record["kind"] == "train"],
        "rewards": [record["reward"] for record in records if "reward" in record],
        "validation": [
            {key: record[key] for key in ("step", "loss", "chrf") if key in record}
            for record in records
            if record["kind"] == "validation"
        ],
        "parameters": digest(Inference.open(run).parameters("latest")[0]),
        "generated": [
            [[each["text"], each["log_probability"]] for each in json.loads(line)["hypotheses"]]
            for line in Path(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ],
    }


def platform() -> dict[str, Any]:
    """What the rounding of a sum depends on, besides the code: versions, the processor's instructions, and the cores
    among which XLA divides it.
    """
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16")
    instructions = [flag for flag in wanted if flag in flags.split()]
    return {"jax": jax.__version__, "instructions": instructions, "cores": len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    write_text(Path("text"))
    for line in sys.stdin:
        print(json.dumps({"recorded_with": platform(), "expected": compute(line.strip())}), flush=True)
