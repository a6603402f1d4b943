"""A directory with a tiny config, ways to call `seq2seq` in it, and the facts by which two runs are compared."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CONFIG = '''"""As small as a run can be that has all that a run has: dropout, an average, validations, checkpoints."""

from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdamWConfig


def experiment():
    stack = {"num_layers": 1, "model_dim": 16, "num_heads": 2, "hidden_dim": 32, "dropout": 0.1}
    return Experiment(
        data=Dates(
            max_source_length=64, max_target_length=32, cache_directory="cache", window=64,
            train_examples=400, validation_examples=8, test_examples=8,
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocabulary_size=700),
        model=ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=TransformerDecoderConfig(**stack)),
        objective=MaximumLikelihoodConfig(),
        optimizer=AdamWConfig(learning_rate=1e-2, schedule="constant", warmup_steps=4, ema_decay=0.9),
        training=TrainingConfig(
            steps=12, target_tokens_per_batch=512, log_every=2, checkpoint_every=3, evaluate_every=6, select_by="loss",
        ),
        generation=BeamSearch(beam_size=1),
    )
'''
TRAIN = ("train", "small.py", "--run_dir", "run")
SOURCES = "de: Dienstag, 3. Mai 2022\nen_GB: 03/05/2022\nfr: mardi 3 mai 2022\n"

EXACT = {
    "kind", "step", "loss", "nll", "gradient_norm", "learning_rate", "target_tokens", "bleu", "chrf", "exact_match",
    "best",
}  # fmt: skip
"""What of a record is the same whenever and wherever the run is trained."""


def make(directory: Path) -> Path:
    """Write the config to a new directory, which is returned."""
    directory.mkdir(parents=True)
    (directory / "small.py").write_text(CONFIG)
    return directory


def environment() -> dict[str, str]:
    """What processes are started with; compiled programs are shared through JAX_COMPILATION_CACHE_DIR if it is set."""
    own = {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    shared = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return os.environ | own | shared


def start(arguments: Sequence[str], *, cwd: Path, log: Path) -> subprocess.Popen:
    """Start the command line in a process of its own, which yields to all others; both streams go to the end of log."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "seq2seq_jax", *arguments],
            cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    yield_to_others(process.pid)
    return process


def yield_to_others(pid: int) -> None:
    """Give a process that leads its session the niceness STUDY_PRIORITY, where the system groups processes so."""
    if "STUDY_PRIORITY" in os.environ:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(os.environ["STUDY_PRIORITY"])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call left behind. `status` None = the process died or did not end."""

    status: int | None
    output: str
    errors: str


class Server:
    """Calls the command line many times in one process, which is imported and compiled for once.

    The process is started anew when it has died or hangs.
    """

    def __init__(self, *, timeout: float = 300.0):
        """Args:
        timeout: seconds after which a call counts as hanging.
        """
        self.timeout = timeout
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception) -> None:
        self._end()

    def call(self, *arguments: str | int | Path, cwd: Path, stdin: str = "") -> Outcome:
        """Run `seq2seq` with these arguments in a directory."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "studies.reliability.server"],
                cwd=REPOSITORY, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            )  # fmt: skip
            yield_to_others(self._process.pid)
        request = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "stdin": stdin, "timeout": self.timeout}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            status = self._process.wait()
            self._end()
            return Outcome(None, "", f"the process died with status {status}")
        return Outcome(**json.loads(answer))

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def exact_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record two runs must have in common."""
    return {name: value for name, value in record.items() if name in EXACT}


def facts_of_run(run: Path) -> dict[str, Any]:
    """What must be equal, to the bit, in two runs that are the same: read without the package.

    Returns:
        A fact by name: the newest checkpoint's step and arrays (SHA-256), the records without times, the tokenizer.
    """
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit())
    facts: dict[str, Any] = {"newest checkpoint": steps[-1:]}
    for name, digest in arrays_of_checkpoint(run / "checkpoints" / f"{steps[-1]:08d}").items():
        facts[f"array {name}"] = digest
    lines = (run / "metrics.jsonl").read_text().splitlines()
    facts["records"] = [exact_record(json.loads(line)) for line in lines]
    facts["tokenizer"] = hashlib.sha256((run / "tokenizer.model").read_bytes()).hexdigest()
    facts["experiment"] = json.loads((run / "experiment.json").read_text())["experiment"]
    return facts


def arrays_of_checkpoint(path: Path) -> dict[str, str]:
    """Name -> SHA-256 of type, shape and bits of every array of a checkpoint."""
    import jax
    import numpy as np
    import orbax.checkpoint

    tree = orbax.checkpoint.PyTreeCheckpointer().restore(path / "state")
    return {
        jax.tree_util.keystr(keys): hashlib.sha256(
            f"{leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes()
        ).hexdigest()
        for keys, leaf in jax.tree.leaves_with_path(tree)
    }


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the facts in which two runs differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def left_behind(directory: Path) -> list[str]:
    """Files and directories of unfinished writes below a directory."""
    pattern = re.compile(r"unfinished|incomplete|orbax-checkpoint-tmp|\.tmp$|\.lock$")
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if pattern.search(path.name))


def is_one_line(outcome: Outcome) -> bool:
    """Whether a failure is told as a user's mistake is: status 2 and a last line of `seq2seq: ...`, no traceback."""
    last = outcome.errors.strip().splitlines()[-1:]
    return outcome.status == 2 and last != [] and last[0].startswith("seq2seq: ") and not has_traceback(outcome.errors)


def has_traceback(text: str) -> bool:
    """Whether Python, or a library in C++, told of a failure that nobody has handled."""
    return "Traceback (most recent call last)" in text or "Fatal Python error" in text or "*** SIG" in text


def table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Lines of text: a title, and what was counted."""
    return "\n".join([title, *(f"  {name}: {value}" for name, value in rows)])
