"""python -m studies.import_memory DIR: memory and reads of loading a large checkpoint onto a mesh."""

import dataclasses
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seq2seq_jax.overrides import override

PROGRAM = "python -m studies.import_memory DIR"
DESCRIPTION = """\
Make a checkpoint of BART's architecture below DIR, in bfloat16 and in several files, unless one is there; load it onto
a mesh of simulated devices that divide its parameters (fsdp), by one process and by two, and import it as a run; print
the memory that each took, beside what it keeps, and the bytes that each read from the disk. Linux alone.
"""
WIDTH, HIDDEN, VOCABULARY = 2_048, 8_192, 512
FILES = 5
DEVICES = 8
GIGABYTE = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportMemoryArguments:
    """Command line of the measurement."""

    gigabytes: float = 4.0
    """Size of the checkpoint; about."""
    json: str | None = None
    """File for all figures, as JSON."""
    process: int | None = None
    """Number of this process, by which the program starts itself."""
    processes: int = 1
    """Processes that load together, by which the program starts itself."""
    port: int = 0
    """At which they meet."""
    step: Literal["load", "import"] = "load"
    """What such a process does: load parameters, or import a run with all that is saved of it."""


def config_of(gigabytes: float) -> dict[str, Any]:
    """A config of BART with parameters of about this size in bfloat16."""
    encoder = 4 * WIDTH**2 + 2 * WIDTH * HIDDEN
    layers = max(1, round(gigabytes * GIGABYTE / 2 / (2 * encoder + 4 * WIDTH**2)))
    letters = "____" + "".join(map(chr, range(0x4E00, 0x4E00 + VOCABULARY - 4)))
    return {
        "model_type": "bart", "vocab_size": VOCABULARY, "d_model": WIDTH,
        "encoder_layers": layers, "decoder_layers": layers,
        "encoder_attention_heads": 16, "decoder_attention_heads": 16,
        "encoder_ffn_dim": HIDDEN, "decoder_ffn_dim": HIDDEN, "max_position_embeddings": 64,
        "activation_function": "gelu", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1, "grapheme_chars": letters, "phoneme_chars": letters,
    }  # fmt: skip


def make(directory: Path, gigabytes: float) -> None:
    """Write a checkpoint with random values."""
    from seq2seq_jax.batch import Vocabulary
    from seq2seq_jax.model import ModelConfig
    from seq2seq_jax.pretrained.checkpoint import unboxed_shapes
    from seq2seq_jax.pretrained.family import TARGET
    from seq2seq_jax.pretrained.registry import FAMILIES
    from seq2seq_jax.pretrained.safetensors_files import DTYPES, NewTensor, write_files
    from seq2seq_jax.pretrained.table import Entry, places
    from seq2seq_jax.pretrained.transforms import Table

    config = config_of(gigabytes)
    family = FAMILIES["bart"]
    described = family.describe(family.values(config, origin="config.json"), ["final_logits_bias"], origin="")
    model = ModelConfig(
        encoder=described.encoder,
        decoder=described.decoder,
        tied_embeddings="all",
        scaled_embeddings="none",
        **described.model,
    )
    vocabulary = Vocabulary(source_size=VOCABULARY, target_size=VOCABULARY, joint=True, pad_id=0, bos_id=1, eos_id=2)
    shapes = unboxed_shapes(model.build(vocabulary))
    rows = [Entry(family.tied[TARGET][0], (TARGET,), Table()), *family.table(described)]
    rng = np.random.default_rng(0)

    def tensor(name: str, shape: tuple[int, ...]) -> NewTensor:
        return NewTensor(
            name=name,
            dtype="BF16",
            shape=shape,
            values=lambda: rng.standard_normal(shape, np.float32).astype(DTYPES["BF16"]),
        )

    tensors = [tensor(name, place.stored_shape(shapes)) for name, place in places(rows, shapes).items()]
    total = sum(each.nbytes for each in tensors)
    directory.mkdir(parents=True)
    write_files(directory, tensors, metadata={"format": "pt"}, largest=math.ceil(1.02 * total / FILES))
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def load(directory: Path) -> dict[str, float]:
    """Load a checkpoint onto a mesh of all devices, and say what it took of this process, in bytes."""
    import jax

    from seq2seq_jax.experiment import load_config_by_name
    from seq2seq_jax.parallel.mesh_config import MeshConfig
    from seq2seq_jax.pretrained.checkpoint import Checkpoint
    from seq2seq_jax.pretrained.table import flat
    from seq2seq_jax.pretrained.tokenizers import read_tokenizer
    from seq2seq_jax.run.imports import with_model
    from seq2seq_jax.run.system import System, build_mesh

    checkpoint = Checkpoint.open(directory)
    tokenizer = read_tokenizer(checkpoint)
    base = dataclasses.replace(load_config_by_name("own_text/transformer"), mesh=MeshConfig(data=1, fsdp=DEVICES))
    experiment = with_model(base, checkpoint.model(), tokenizer)
    system = System(experiment, tokenizer, build_mesh(experiment))
    layouts = flat(system.parameter_layouts[system.player])
    ready = time.monotonic()
    before, read_before = _status("VmRSS"), _bytes_read()
    Path("/proc/self/clear_refs").write_text("5")
    params = jax.block_until_ready(checkpoint.load(layouts))
    kept = sum(shard.data.nbytes for array in params.values() for shard in array.addressable_shards)
    return {
        "kept": kept,
        "peak": _status("VmHWM") - before,
        "read": _bytes_read() - read_before,
        "seconds": time.monotonic() - ready,
    }


def import_(directory: Path) -> dict[str, float]:
    """Import a checkpoint as `seq2seq import` does, and say what it took of this process, in bytes."""
    from seq2seq_jax.commands.import_model import run

    before, read_before, started = _status("VmRSS"), _bytes_read(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory.parent) as output:
        run([str(directory), "--output", f"{output}/run", "--mesh.data", "1", "--mesh.fsdp", str(DEVICES)])
        kept = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    return {
        "kept": kept,
        "peak": _status("VmHWM") - before,
        "read": _bytes_read() - read_before,
        "seconds": time.monotonic() - started,
    }


def measure(directory: Path, *, processes: int, step: str) -> list[dict[str, float]]:
    """What a step took of each process, each with a copy of the files of its own, of which nothing is in memory."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flag = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    copies = [directory, *(directory.with_name(f"{directory.name}_{index}") for index in range(1, processes))]
    for copy in copies[1:]:
        shutil.copytree(directory, copy, dirs_exist_ok=True)
    options = ["--processes", str(processes), "--port", str(port), "--step", step]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "studies.import_memory", str(copy), *options, "--process", str(index)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index, copy in enumerate(copies)
    ]
    for process in started:
        process.stdout.readline()
    for copy in copies:
        _drop_pages(copy)
    for process in started:
        process.stdin.write("now\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    for copy in copies[1:]:
        shutil.rmtree(copy)
    return found


def _be_a_process(directory: Path, chosen: ImportMemoryArguments) -> None:
    import jax

    if chosen.processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{chosen.port}", chosen.processes, chosen.process)
    jax.devices()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps({"load": load, "import": import_}[chosen.step](directory)), flush=True)


def _drop_pages(directory: Path) -> None:
    os.sync()
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1_024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a table."""
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(f"{PROGRAM}: expected DIR, where the checkpoint is or shall be.")
    directory = Path(arguments[0]).absolute() / "checkpoint"
    chosen = override(ImportMemoryArguments(), arguments[1:], program=PROGRAM, description=DESCRIPTION)
    if chosen.process is not None:
        _be_a_process(Path(arguments[0]), chosen)
        return
    if not directory.is_dir():
        make(directory, chosen.gigabytes)
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    print(f"{size / GIGABYTE:.2f} GB in {len(list(directory.glob('*.safetensors')))} files, {DEVICES} devices")
    figures = {"checkpoint": size}
    for processes, step in ((1, "load"), (2, "load"), (1, "import")):
        found = measure(directory, processes=processes, step=step)
        figures[f"{step} by {processes}"] = found
        for index, one in enumerate(found):
            print(
                f"{step}, process {index + 1} of {processes}: keeps {one['kept'] / GIGABYTE:.2f} GB, peak "
                f"{one['peak'] / GIGABYTE:.2f} GB ({one['peak'] / one['kept']:.2f} times), read "
                f"{100 * one['read'] / size:.0f}% of the files, {one['seconds']:.0f} s"
            )
    if chosen.json is not None:
        Path(chosen.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
