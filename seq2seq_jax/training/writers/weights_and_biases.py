"""Weights & Biases. WANDB_PROJECT, WANDB_MODE and its other variables hold; without an account it writes offline."""

import netrc
import os
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]  (an extra)

from seq2seq_jax.files import write_whole
from seq2seq_jax.training.writers import Writer, scalars


class RecordWriter(Writer):
    """Sends records to one run there, which a continued run keeps using (its id: wandb/id)."""

    def __init__(self, directory: Path, *, after_step: int, experiment: dict[str, Any]):
        """See `open_writers`."""
        identity = directory / "wandb" / "id"
        identity.parent.mkdir(exist_ok=True)
        if not identity.exists():
            write_whole(identity, uuid.uuid4().hex[:12])
        # Asked for an account, it would wait at the terminal for ever.
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_account() else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "seq2seq_jax"),
            id=identity.read_text().strip(),
            name=os.environ.get("WANDB_NAME", str(directory)),
            dir=str(directory),
            config=experiment,
            resume="allow",
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
        # A step of its own: theirs only rises, and a continued run may write steps again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, record: dict[str, Any]) -> None:
        self._run.log({"step": record["step"], **scalars(record)})

    def close(self, *, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


def _has_account() -> bool:
    """Whether there is a key for the service in WANDB_API_KEY, or in the file where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
