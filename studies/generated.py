"""Texts that methods of generation give for a split, kept in a file per method so that studies can be continued."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seq2seq_jax.benchmark import harness
from seq2seq_jax.evaluation.metric import Example
from seq2seq_jax.files import write_whole
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.run.inference import Inference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
    """What a method of generation gave for a split: the content of its file, as JSON. The file's name without .json is
    what the method is called.
    """

    method: str
    """How signatures say it."""
    n: int
    """Requested texts per source."""
    texts: list[list[str]]
    """Of each source in the order of the split, the preferred one first."""
    examples: int
    split: str
    family: str
    """Methods of one family are joined by a line in the picture."""
    seconds: float | None = None
    """That generating took, compilation included."""
    environment: dict[str, Any] | None = None

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all."""
        write_whole(path, (json.dumps(dataclasses.asdict(self), ensure_ascii=False) + "\n").encode())

    @classmethod
    def read(cls, path: Path, examples: Sequence[Example], split: str) -> "Texts":
        """The file of a method.

        Raises:
            ValueError: it is none, or of other examples.
        """
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the file of a method's texts: {error}. Delete it.") from error
        if found.split != split or len(found.texts) != len(examples):
            raise ValueError(
                f"{path} has texts of {len(found.texts):,} examples of {found.split}, not of the {len(examples):,} of "
                f"{split}. Give another --results."
            )
        return found


def texts_of(
    path: Path,
    run: Inference,
    method: GenerationMethod,
    examples: Sequence[Example],
    *,
    split: str,
    family: str,
) -> Texts:
    """The texts of a method for the sources of all examples, with the best checkpoint: those of a file, which is
    written where it does not exist.

    Raises:
        ValueError: the file has those of another method or of other examples.
    """
    if path.exists():
        found = Texts.read(path, examples, split)
        if found.method != method.described:
            raise ValueError(f"{path} has texts of {found.method}, not of {method.described}. Delete it.")
        return found
    start = time.monotonic()
    params, _ = run.parameters()
    drawn = run.system.generator_by(method).generate(params, [example["source"] for example in examples])
    found = Texts(
        method=method.described,
        n=method.num_texts,
        texts=[[each.text for each in of_source] for of_source in drawn],
        examples=len(examples),
        split=split,
        family=family,
        seconds=time.monotonic() - start,
        environment=harness.environment(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    print(f"{path.stem}: {found.seconds:.1f} s", flush=True)
    return found


def opened(path: str, *, split: str, directory: str | None, precision: Precision | None) -> Inference:
    """A run, to generate for a split.

    Raises:
        ValueError: see `main`.
    """
    run = Inference.open(path)
    experiment = run.experiment
    data = experiment.data if directory is None else dataclasses.replace(experiment.data, directory=directory)
    model = experiment.model if precision is None else dataclasses.replace(experiment.model, precision=precision)
    training = dataclasses.replace(experiment.training, select_by=None)
    run = run.with_parts(data=data, model=model, training=training, splits=[split])
    if split not in data.all_splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(data.all_splits)}.")
    if not experiment.task.generates:
        raise ValueError(f"{path} was trained on documents, which have no references. Give a run on pairs.")
    return run
