"""experiment.json of a run directory: what the run is, what it was trained on, and by which code."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from seq2seq_jax.experiment import Experiment, from_json
from seq2seq_jax.files import write_whole
from seq2seq_jax.outside import Trust, UntrustedCodeError
from seq2seq_jax.training.checkpoint import logger
from seq2seq_jax.values import SEEDS
from seq2seq_jax.version import __version__

DESCRIPTION_FILE = "experiment.json"


def write_description(directory: Path, description: dict[str, Any]) -> None:
    """Write what a run is to experiment.json, with a digest of it.

    Args:
        description: JSON values: `config`, `experiment`, `fingerprints` of `data` and `tokenizer`, and what else there
            is to say.
    """
    signed = description | {"sha256": _description_digest(description)}
    write_whole(directory / DESCRIPTION_FILE, json.dumps(signed, indent=2, ensure_ascii=False) + "\n")


def _description_digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def read_description(directory: Path, *, tells: bool = True) -> dict[str, Any]:
    """What `write_description` wrote; a change since then is logged.

    Args:
        tells: False = another reading of the same file logs it.

    Raises:
        ValueError: the directory is not that of a run, or the file is damaged.
    """
    path = directory / DESCRIPTION_FILE
    # os.path, to which a name that is too long for any file system is one that is not there.
    if not os.path.isfile(path):
        raise ValueError(f"{directory} is not a run directory: it has no experiment.json. Give what train printed.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        digest = description.pop("sha256", None)
        facts = [description["experiment"], *(description["fingerprints"][name] for name in ("data", "tokenizer"))]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}). Restore it.") from error
    if not all(isinstance(fact, str) for fact in facts[1:]):
        raise ValueError(f"{path} cannot be read: its fingerprints must be texts, and are {facts[1:]}. Restore it.")
    # Runs of earlier versions have no digest.
    if tells and digest is not None and digest != _description_digest(description):
        logger.warning("%s was edited or damaged after it was written. What it says now is used.", path)
    return description


def read_experiment(
    directory: Path, *, trust: Trust, tells: bool = True, is_used: bool = False
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a run, and all that its description says. See `read_description`.

    Args:
        trust: which modules that it names may be imported.
        is_used: the run is not trained on, so that nothing is drawn from its seed, which may be one from before seeds
            had a limit.
    """
    description = read_description(directory, tells=tells)
    values = description["experiment"]
    training = values.get("training") if isinstance(values, dict) else None
    if is_used and isinstance(training, dict) and type(training.get("seed")) is int:
        values = {**values, "training": {**training, "seed": training["seed"] % SEEDS}}
    try:
        return from_json(Experiment, values, trust=trust), description
    except UntrustedCodeError as error:
        raise ValueError(f"{directory}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{directory / DESCRIPTION_FILE}: {error} Restore it, or correct the value.") from error


def load_experiment(directory: Path) -> Experiment:
    """The experiment of a run, for a config that changes parts of it; classes outside the package are not imported.

    Raises:
        ValueError: see `read_experiment`.
    """
    return read_experiment(directory, trust=Trust.of(False), is_used=True)[0]


def versions() -> dict[str, str]:
    """Versions of the libraries that a run's numbers depend on."""
    names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "sacrebleu")
    return {"seq2seq_jax": __version__} | {name: importlib.metadata.version(name) for name in names}


def commit_of_code() -> str | None:
    """The commit of the code that runs, if it is tracked by git and there is a git to ask."""
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    # An installed package may lie in an environment that lies in the checkout of another project.
    if git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40").stdout.strip() or None
