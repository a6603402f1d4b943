"""python -m studies.denoising: how fast documents become tokens, and tokens corrupted rows."""

import contextlib
import dataclasses
import itertools
import logging
import tempfile
import time
from collections.abc import Iterator
from typing import Annotated

import tyro

from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.data.pipeline import training_batches
from seq2seq_jax.data.source import Corpus
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.experiment import Experiment, parse_command_line, to_json
from seq2seq_jax.tasks.denoising import Denoising

PROGRAM = "python -m studies.denoising"
DESCRIPTION = """\
Read and encode the first documents of CONFIG's training split, and assemble batches of them, as `seq2seq train` does
before and while it trains. No step is taken. Values are those of {name}.
"""
EXAMPLE = "multi30k/denoising_small"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingArguments:
    """Command line of the rates of preparation and assembly."""

    documents: int = 20_000
    """Documents that are encoded."""
    batches: int = 100
    """Batches that are assembled and timed, after a first one."""
    json: str | None = None
    """File for all measurements, as JSON."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The experiment."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured.

    Attributes:
        documents: that were encoded.
        characters: of them together.
        tokens: of them together.
        seconds: of reading and encoding them.
        documents_in_all: of the training split.
        chunks_per_second: assembled into batches, by the workers that the config sets.
    """

    documents: int
    characters: int
    tokens: int
    seconds: float
    documents_in_all: int
    chunks_per_second: float

    @property
    def hours_in_all(self) -> float:
        """Of encoding the training split at this rate."""
        return self.documents_in_all / self.documents * self.seconds / 3600


class FirstDocuments(Corpus):
    """The first documents of another corpus' training split.

    Attributes:
        characters: of the documents read so far.
    """

    columns = ("text",)

    def __init__(self, corpus: Corpus, number: int):
        self._corpus = corpus
        self._number = min(number, corpus.splits["train"])
        self.characters = 0

    @property
    def fingerprint(self) -> str:
        return f"{self._corpus.fingerprint}[:{self._number}]"

    @property
    def splits(self) -> dict[str, int]:
        return {"train": self._number}

    def examples(self, split: str) -> Iterator[tuple[str]]:
        for (document,) in itertools.islice(self._corpus.examples(split), self._number):
            self.characters += len(document)
            yield (document,)


def measure(experiment: Experiment, *, documents: int, batches: int) -> Rates:
    """Encode documents in a directory that is deleted afterwards, and assemble batches of them.

    Raises:
        ValueError: the experiment's data is not documents, or one of the numbers is not positive.
    """
    if not isinstance(experiment.task, Denoising):
        raise ValueError(f"the data of this config is {type(experiment.data).__name__}, not documents. Name another.")
    if min(documents, batches) < 1:
        raise ValueError(f"--documents and --batches must be at least 1, not {documents} and {batches}.")
    corpus = experiment.data.open()
    tokenizer = Tokenizer.train(FirstDocuments(corpus, documents).examples("train"), experiment.tokenizer)
    first = FirstDocuments(corpus, documents)
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        store = Store.open_or_build(directory, first, "train", experiment.task.columns(experiment.data), tokenizer)
        seconds = time.perf_counter() - started
        assembled = training_batches(
            store,
            experiment.batch_format,
            vocabulary=tokenizer.vocabulary,
            target_tokens_per_batch=experiment.training.target_tokens_per_batch,
            seed=experiment.training.seed,
            first_batch=0,
            num_batches=1 + batches + experiment.data.prefetch,
            workers=experiment.data.workers,
            prefetch=experiment.data.prefetch,
        )
        with contextlib.closing(assembled):
            next(assembled)
            started = time.perf_counter()
            for _ in range(batches):
                next(assembled)
            chunks_per_second = batches * experiment.rows_per_batch / (time.perf_counter() - started)
        return Rates(
            documents=len(store),
            characters=first.characters,
            tokens=len(store.columns["text"].values),
            seconds=seconds,
            documents_in_all=corpus.splits["train"],
            chunks_per_second=chunks_per_second,
        )


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a table.

    Raises:
        ValueError: there is no such config, or a value does not fit.
    """
    named = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    name, _, chosen = parse_command_line(
        named[0] if named else EXAMPLE,
        arguments[len(named) :],
        arguments=DenoisingArguments,
        program=f"{PROGRAM} [CONFIG]",
        description=DESCRIPTION,
    )
    logging.getLogger("absl").setLevel(logging.ERROR)
    environment = harness.environment()
    rates = measure(chosen.experiment, documents=chosen.documents, batches=chosen.batches)
    rows = [
        ("documents", f"{rates.documents:,} of {rates.characters / rates.documents:,.0f} characters, "
                      f"{rates.tokens / rates.documents:,.0f} tokens"),
        ("encoded", f"{rates.documents / rates.seconds:,.0f} documents/s, "
                    f"{rates.tokens / rates.seconds:,.0f} tokens/s"),
        ("whole split", f"{rates.documents_in_all:,} documents, {rates.hours_in_all:,.2f} hours at this rate"),
        ("assembled", f"{rates.chunks_per_second:,.0f} chunks/s"),
    ]  # fmt: skip
    console = report.output()
    console.print(report.table(("", name), rows, title="From documents to rows"))
    console.print(report.environment_line(environment))
    figures = {"environment": environment, "experiment": to_json(chosen.experiment), **dataclasses.asdict(rates)}
    report.write_json(figures, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
