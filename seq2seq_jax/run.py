"""A run directory: what it holds, and what is built from it to train, evaluate and generate."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from seq2seq_jax import __version__
from seq2seq_jax.batch import Batch
from seq2seq_jax.data.document_store import DocumentStore
from seq2seq_jax.data.pipeline import evaluation_batches
from seq2seq_jax.data.source import DEFAULT_CACHE_DIRECTORY, SPLITS, Corpus, DocumentCorpus, PairCorpus
from seq2seq_jax.data.token_store import TokenStore
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.evaluation.scores import default_metric, words_per_text
from seq2seq_jax.experiment import MAY_CHANGE, Experiment, differences, flatten, from_json, to_json
from seq2seq_jax.files import remove_unfinished, write_whole
from seq2seq_jax.generation.alignment import Aligner, Alignment
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.modules.precision import operand_dtype
from seq2seq_jax.objectives.objective import Objective
from seq2seq_jax.parallel.chips import peak_flops
from seq2seq_jax.parallel.mesh import RULES, batch_shards, global_batch, rows_of_process
from seq2seq_jax.parallel.processes import agree, first_process_first
from seq2seq_jax.paths import unicode_path, user_path
from seq2seq_jax.training.checkpoint import Checkpoints, DamagedCheckpoint, RemovedCheckpoint, logger
from seq2seq_jax.training.lock import locked
from seq2seq_jax.training.step import (
    TrainState,
    Update,
    build_loss,
    build_update,
    initial_state,
    num_parameters,
    parameter_layout,
)
from seq2seq_jax.training.validation import Validation
from seq2seq_jax.values import SEEDS

NOT_ARCHITECTURE = (
    "dropout",
    "attention_dropout",
    "hidden_dropout",
    "recurrent_dropout",
    "remat",
    "precision",
    "attention_kernel",
)
"""Fields of a model that may differ between a run and the one that it starts from: they change no parameter, and
nothing of what a parameter means."""

REFERENCES_LOOKED_AT = 1000
"""References from which the metric for a run is chosen."""

DIRECTORIES = ("cache_directory", "directory")
"""Fields of a run's data that name directories."""

PROGRESS = Callable[[str, int, int], None]
"""Takes (what is done, how many are done, of how many)."""


def _no_release() -> None:
    pass


def _no_progress(what: str, done: int, total: int) -> None:
    pass


class Run:
    """An experiment in its directory: experiment.json, tokenizer, checkpoints; opened or started.

    The parts that cost something (corpus, tokenizer, mesh, model) are made when they are first needed.
    """

    def __init__(
        self,
        directory: Path,
        experiment: Experiment,
        *,
        splits: Collection[str] = SPLITS,
        progress: PROGRESS = _no_progress,
        tokenizer_fingerprint: str | None = None,
        read_only: Collection[str] = (),
        trusts_code: bool = True,
    ):
        """Args:
        splits: what is used of the data; no other split is looked for.
        progress: hears of work that takes a while.
        tokenizer_fingerprint: of the tokenizer that belongs to the run; None = whatever lies in the directory.
        read_only: fields of the experiment's data whose directories nothing is written to, see DataSource.open.
        trusts_code: whether functions from outside the package that the experiment names may be imported.
        """
        self.directory = directory
        self.experiment = experiment
        self.splits = splits
        self.progress = progress
        self._tokenizer_fingerprint = tokenizer_fingerprint
        self._read_only = tuple(read_only)
        self._trusts_code = trusts_code

    @classmethod
    def open(cls, directory: str | Path, *, progress: PROGRESS = _no_progress, trust_code: bool = False) -> "Run":
        """An existing run, which may come from somebody else.

        Nothing that it names is imported, and none of the directories that it names is written to.

        Args:
            trust_code: import functions from outside the package that the run names, where they are needed.

        Raises:
            ValueError: the directory is not that of a run, or its description is damaged.
        """
        directory = unicode_path(directory)
        experiment, description = _read_description(directory, is_used=True)
        return cls(
            directory,
            experiment,
            progress=progress,
            tokenizer_fingerprint=description["fingerprints"]["tokenizer"],
            read_only=DIRECTORIES,
            trusts_code=trust_code,
        )

    def with_parts(self, *, written: Collection[str] = (), **parts: Any) -> "Run":
        """The same run, to be used with other parts of its experiment, such as `generation`.

        Args:
            written: fields of the data (cache_directory, directory) whose directories may be written to after all.
        """
        read_only = [name for name in self._read_only if name not in written]
        return self._like(dataclasses.replace(self.experiment, **parts), splits=self.splits, read_only=read_only)

    def with_splits(self, *splits: str) -> "Run":
        """The same run, to be used with no other splits of its data than these."""
        return self._like(self.experiment, splits=splits, read_only=self._read_only)

    def _like(self, experiment: Experiment, *, splits: Collection[str], read_only: Collection[str]) -> "Run":
        return Run(
            self.directory,
            experiment,
            splits=splits,
            progress=self.progress,
            tokenizer_fingerprint=self._tokenizer_fingerprint,
            read_only=read_only,
            trusts_code=self._trusts_code,
        )

    @contextlib.contextmanager
    def held(self, *, lost: Callable[[str], None]) -> Iterator[Callable[[], None]]:
        """Within, no other training has this directory; of several processes the first holds it for all.

        Gives what releases it before that; see `locked`.

        Args:
            lost: see `locked`.

        Raises:
            ValueError: another training has it.
        """
        with contextlib.ExitStack() as lock:
            with first_process_first():
                holds = jax.process_index() == 0
                release = lock.enter_context(locked(self.directory, lost=lost)) if holds else _no_release
            yield release

    def begin(self, config_name: str) -> None:
        """Write experiment.json and the tokenizer of a new run, or check that an existing one is the same.

        Several processes begin it together, in a directory that all of them see.

        Raises:
            ValueError: the directory holds a run of another experiment, other data or another tokenizer; or the
                processes differ in what they would train.
        """
        versions, commit = _versions(), commit_of_code()
        with first_process_first():
            fingerprint = self.corpus.fingerprint
        agree(
            {
                **{name: json.dumps(value) for name, value in flatten(self.experiment).items()},
                "the run directory": str(self.directory.absolute()),
                "the data's fingerprint": fingerprint,
                "the code's commit": str(commit),
                "the versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            }
        )
        if self.experiment.training.select_by is None:
            training = dataclasses.replace(self.experiment.training, select_by=self._metric())
            self.experiment = dataclasses.replace(self.experiment, training=training)
        with first_process_first():
            if jax.process_index() == 0:
                self._begin(config_name, versions, commit)
            elif not (self.directory / "experiment.json").is_file():
                raise ValueError(
                    f"process {jax.process_index()} does not see {self.directory / 'experiment.json'}, which process 0 "
                    "has written. Give a --run-dir on storage that all processes share."
                )
        agree({"the tokenizer's fingerprint": self.tokenizer.fingerprint})

    def _begin(self, config_name: str, versions: dict[str, str], commit: str | None) -> None:
        facts = {"data": self.corpus.fingerprint}
        if (self.directory / DESCRIPTION_FILE).exists():
            experiment, description = _read_description(self.directory)
            refuse_differences(experiment, self.experiment, self.directory)
            fingerprints = description["fingerprints"]
            if fingerprints["data"] != facts["data"]:
                changed = differences(experiment, self.experiment)
                named = {name: values for name, values in changed.items() if name in MAY_CHANGE}
                raise ValueError(
                    f"the text in {getattr(self.experiment.data, 'directory', 'the dataset')} is not that which "
                    f"{self.directory} was trained on{f' ({_describe_changes(named)})' if named else ''}. Restore it, "
                    "or train in another --run-dir, which can start from its parameters: --init-from "
                    f"{self.directory}."
                )
            self._tokenizer_fingerprint = fingerprints["tokenizer"]
            for place in (self.directory, self.directory / "samples", self.directory / "plots"):
                remove_unfinished(place)
        else:
            tokenizer = self._train_tokenizer() if self.origin is None else self.origin[0].tokenizer
            self.directory.mkdir(parents=True, exist_ok=True)
            tokenizer.save(self.directory)
        facts["tokenizer"] = self.tokenizer.fingerprint
        description = {
            "config": config_name,
            "experiment": to_json(self.experiment),
            "fingerprints": facts,
            "versions": versions,
            "commit": commit,
            "devices": sorted({device.device_kind for device in jax.devices()}),
        }
        write_description(self.directory, description)

    def _metric(self) -> str:
        """What training.select_by None stands for: what the run was started with, or what fits its references."""
        if (self.directory / DESCRIPTION_FILE).is_file():
            started = _read_description(self.directory, tells=False)[0].training.select_by
            if started is not None:
                return started
        if not isinstance(self.corpus, PairCorpus):
            return "loss"
        if "validation" not in self.corpus.splits:
            return "bleu"
        pairs = itertools.islice(self.corpus.pairs("validation"), REFERENCES_LOOKED_AT)
        references = [reference for _, reference in pairs]
        metric = default_metric(references)
        if metric != "bleu":
            logger.info(
                "References have %.1f words on average, too few for BLEU: %s decides which checkpoint is the best. "
                "training.select_by chooses another metric.",
                words_per_text(references), metric,
            )  # fmt: skip
        return metric

    def _train_tokenizer(self) -> Tokenizer:
        self.progress("training the tokenizer", 0, 1)
        tokenizer = Tokenizer.train(self.corpus.examples("train"), self.experiment.tokenizer)
        self.progress("training the tokenizer", 1, 1)
        return tokenizer

    @functools.cached_property
    def origin(self) -> tuple["Run", str] | None:
        """The run that training starts from, and which of its checkpoints; None = training starts from nothing.

        Raises:
            ValueError: init_from is not a run, or one of another architecture or tokenizer.
        """
        name = self.experiment.init_from
        if name is None:
            return None
        directory, _, which = name.rpartition(":")
        if not directory or os.path.isdir(user_path(name)):
            directory, which = name, "best"
        try:
            origin = Run.open(directory, progress=self.progress).with_parts(mesh=self.experiment.mesh)
            with origin.checkpoints(read_only=True) as checkpoints:
                origin._candidates(which, checkpoints)
        except ValueError as error:
            raise ValueError(f"--init-from {name}: {error}") from error
        refuse_another_model(origin.experiment, self.experiment, f"--init-from {directory}")
        return origin, which

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The opened source."""
        return self.experiment.data.open(self.splits, read_only=self._read_only)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer.

        Raises:
            ValueError: there is none in the directory, or it is not the one that the run was trained with.
        """
        return Tokenizer.load(self.directory, fingerprint=self._tokenizer_fingerprint)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The device mesh, checked against the model and the batch."""
        mesh = self.experiment.mesh.build()
        check_mesh(self.experiment, mesh)
        return mesh

    def peak_flops(self, reached: float = 0.0) -> float | None:
        """FLOPs per second of all devices of the mesh together at most, in the model's precision; None = not known.

        See `seq2seq_jax.parallel.chips.peak_flops`.

        Args:
            reached: what all of them together have reached; the peak is no less.
        """
        # One of this process's own: a CPU is measured.
        precision = operand_dtype(self.experiment.model.precision)
        peak = peak_flops(self.mesh.local_devices[0], precision, reached=reached / self.mesh.size)
        return None if peak is None else self.mesh.size * peak

    @functools.cached_property
    def model(self) -> nn.Module:
        """The encoder–decoder."""
        return self.experiment.model.build(self.tokenizer.vocabulary)

    @functools.cached_property
    def objective(self) -> Any:
        """The objective for the model.

        Raises:
            ValueError: it takes code that is not trusted.
        """
        code = self.experiment.objective.foreign_code
        if code is not None and not self._trusts_code:
            raise ValueError(
                f"{self.directory} names the function {code}, which would be imported and executed. If you trust it, "
                "say so: --trust-code True."
            )
        return self.experiment.objective.build(self.model, self.tokenizer)

    @functools.cached_property
    def evaluation_objective(self) -> Objective:
        """What evaluates parameters; imports no code from outside the package."""
        return self.experiment.objective.build_evaluation(self.model)

    @functools.cached_property
    def parameter_layout(self) -> Any:
        """Shapes and shardings of the model's parameters."""
        return parameter_layout(self.evaluation_objective, mesh=self.mesh)

    @functools.cached_property
    def optimizers(self) -> dict[str, Any]:
        """One optimizer a player."""
        return {
            player: self.experiment.optimizer.build(self.experiment.training.steps * self.objective.updates)
            for player in self.objective.players
        }

    @functools.cached_property
    def _state(self) -> tuple[Callable[[], TrainState], TrainState]:
        return initial_state(
            self.objective,
            self.optimizers,
            averaged=self.experiment.optimizer.ema_decay is not None,
            seed=self.experiment.training.seed,
            mesh=self.mesh,
        )

    @property
    def layout(self) -> TrainState:
        """Shapes and shardings of the state."""
        return self._state[1]

    def initial_state(self) -> TrainState:
        """The state before the first step: new parameters, or those that the run starts from.

        Raises:
            ValueError: there is no such checkpoint, or no good one.
        """
        build = self._state[0]
        if self.origin is None:
            return build()
        origin, which = self.origin
        params, step = origin.parameters(which)
        sizes = ", ".join(f"{name} {num_parameters(part):,}" for name, part in params.items())
        logger.info("Starting from step %d of %s: %s parameters.", step, origin.directory, sizes)
        return build({self.objective.players[0]: params})  # pyright: ignore[reportCallIssue]

    @functools.cached_property
    def learning_rate(self) -> Callable[[int], float]:
        """Number of a step, from 0, to the learning rate of its first update."""
        updates = self.objective.updates
        schedule = self.experiment.optimizer.learning_rate_schedule(self.experiment.training.steps * updates)
        return lambda step: schedule(step * updates)

    def build_update(self) -> Update:
        """The run's jitted update."""
        training = self.experiment.training
        return build_update(
            self.objective,
            self.optimizers,
            accumulation=training.accumulation,
            average_decay=self.experiment.optimizer.ema_decay,
            seed=training.seed,
            mesh=self.mesh,
            layout=self.layout,
        )

    def checkpoints(self, *, read_only: bool) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(
            self.directory / "checkpoints", keep_latest=self.experiment.training.keep_latest, read_only=read_only
        )

    def place(self, batch: Batch) -> Batch:
        """A process's rows of a host batch, as part of the global batch on the devices."""
        return global_batch(batch, self.mesh, shard=self.rows_of_process)

    @functools.cached_property
    def rows_of_process(self) -> tuple[int, int]:
        """Which share of the rows of every batch this process makes, and how many shares there are."""
        return rows_of_process(self.mesh)

    def store(self, split: str) -> TokenStore | DocumentStore:
        """Token ids of a split, encoded now if they are not in the cache."""
        if split not in self.corpus.splits:
            raise ValueError(f"the data has no split {split!r}. Name it with --data.{split}, or use another split.")
        store = DocumentStore if isinstance(self.corpus, DocumentCorpus) else TokenStore
        data = self.experiment.data
        foreign = "cache_directory" in self._read_only
        own, written = (
            unicode_path(directory) / "token_stores"
            for directory in (data.cache_directory, DEFAULT_CACHE_DIRECTORY if foreign else data.cache_directory)
        )
        with first_process_first():
            return store.open_or_build(
                written,
                self.corpus,
                split,
                self.tokenizer,
                verify=data.verify,
                found_in=own if foreign else None,
                progress=lambda done, total: self.progress(f"encoding {split}", done, total),
            )

    def validation(self, split: str) -> Validation:
        """What evaluates parameters on a split."""
        batches = evaluation_batches(
            self.store(split),
            self.experiment.data,
            vocabulary=self.tokenizer.vocabulary,
            target_tokens_per_batch=self.experiment.training.target_tokens_per_batch,
            process_index=self.rows_of_process[0],
            process_count=self.rows_of_process[1],
        )
        return Validation(
            list(self.corpus.pairs(split)) if isinstance(self.corpus, PairCorpus) else None,
            batches,
            compute_loss=build_loss(self.evaluation_objective, mesh=self.mesh, layout=self.parameter_layout),
            place=self.place,
            generator=self.generator,
        )

    @functools.cached_property
    def generator(self) -> Generator:
        """What generates with the run's model."""
        return Generator(
            self.model,
            self.tokenizer,
            self.experiment.generation,
            max_source_length=self.experiment.data.max_source_length,
            mesh=self.mesh,
            truncate=getattr(self.experiment.data, "too_long", "drop") == "truncate",
        )

    @functools.cached_property
    def aligner(self) -> Aligner:
        """What aligns with the run's model."""
        return Aligner(self.generator, max_target_length=self.experiment.data.max_target_length)

    def parameters(self, which: str = "best") -> tuple[Any, int]:
        """The parameters that are used (the average where there is one) of a checkpoint, and its step.

        Args:
            which: "best" (by score; the newest without any), "latest", or a step.

        Raises:
            ValueError: there is no such checkpoint, or no good one.
        """
        with self.checkpoints(read_only=True) as checkpoints:
            part = "params" if self.experiment.optimizer.ema_decay is None else "average"
            damaged: set[int] = set()
            while order := [step for step in self._candidates(which, checkpoints) if step not in damaged]:
                subtree = ("players", "model", part)
                try:
                    return checkpoints.restore(order[0], self.parameter_layout, subtree=subtree), order[0]
                except RemovedCheckpoint:
                    # Training continues meanwhile: there is another now.
                    continue
                except DamagedCheckpoint as error:
                    logger.warning("Checkpoint %d of %s is damaged: %s.", order[0], self.directory, error)
                    damaged.add(order[0])
        raise ValueError(
            f"{self.directory} has no good checkpoint: {sorted(damaged)} cannot be used. Choose another, or train "
            "again."
        )

    def _candidates(self, which: str, checkpoints: Checkpoints) -> list[int]:
        """Steps whose checkpoints are what `parameters` is asked for, the preferred one first.

        Raises:
            ValueError: there is none.
        """
        steps = checkpoints.steps()
        if not steps:
            raise ValueError(
                f"{self.directory} has no complete checkpoint yet. Train it first: seq2seq train CONFIG "
                f"--run-dir {self.directory}"
            )
        if which == "best":
            return checkpoints.best_first() or steps
        if which == "latest":
            return steps[::-1]
        if which.isdecimal() and len(which) < 20 and int(which) in steps:
            return [int(which)]
        raise ValueError(f"{self.directory} has no checkpoint {which!r}. Give best, latest or one of {steps}.")

    @functools.cached_property
    def _best_parameters(self) -> Any:
        return self.parameters()[0]

    def hypotheses(self, texts: str | Iterable[str]) -> list[list[Hypothesis]]:
        """The n best hypotheses (`generation.n_best`) for each text, with the best checkpoint.

        Args:
            texts: a list, tuple, array or other iterable of strings; one string is a list of one.

        Raises:
            ValueError: a text is longer than the model takes.
            TypeError: there is something else than strings.
        """
        return self.generator.generate(self._best_parameters, list_of_texts(texts, "texts"))

    def generate(self, texts: str | Iterable[str]) -> list[str]:
        """The best text for each text, with the best checkpoint. See `hypotheses`."""
        return [best[0].text for best in self.hypotheses(texts)]

    def align(self, sources: str | Iterable[str], targets: str | Iterable[str] | None = None) -> list[Alignment]:
        """The attention between each source and its target, with the best checkpoint.

        Args:
            sources: as for `hypotheses`.
            targets: as many texts; None = what `generate` gives.

        Raises:
            ValueError: the decoder has no attention, a text is longer than the model takes, or the numbers differ.
            TypeError: there is something else than strings.
        """
        targets = None if targets is None else list_of_texts(targets, "targets")
        return self.aligner.align(self._best_parameters, list_of_texts(sources, "sources"), targets)


def list_of_texts(texts: Any, name: str) -> list[str]:
    """Texts as a list of Python's strings.

    Raises:
        TypeError: it is neither a string nor an iterable of strings; the message names it and what came.
    """
    if isinstance(texts, str):
        return [str(texts)]
    if isinstance(texts, bytes | dict) or not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be strings, in a list or another iterable, not a {type(texts).__name__}.")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}] must be a string, not a {type(text).__name__}.")
    # Those of an array are numpy's.
    return list(map(str, texts))


def check_mesh(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Refuse a mesh that the model or the batch cannot be divided by.

    Raises:
        ValueError: with the field to change.
    """
    shards = batch_shards(mesh)
    rows = experiment.rows_per_batch // experiment.training.accumulation
    if rows % shards:
        row = experiment.data.max_target_length
        raise ValueError(
            f"a batch of {rows} rows (training.target_tokens_per_batch / data.max_target_length / "
            f"training.accumulation) cannot be divided over data x fsdp = {shards} devices. Set "
            f"training.target_tokens_per_batch to a multiple of {shards * row * experiment.training.accumulation}, or "
            "change the mesh."
        )
    for side, stack in (("encoder", experiment.model.encoder), ("decoder", experiment.model.decoder)):
        for name, (logical_axis, size) in stack.sharded_sizes.items():
            axis = dict(RULES)[logical_axis]
            if size % mesh.shape[axis]:
                raise ValueError(
                    f"mesh.{axis} = {mesh.shape[axis]} must divide model.{side}.{name} = {size}, and does not. "
                    "Change either."
                )


def refuse_differences(old: Experiment, new: Experiment, directory: Path) -> None:
    """Refuse an experiment that would not continue the run in a directory.

    Raises:
        ValueError: with the fields that differ.
    """
    changed = differences(old, new, continuing=True)
    if changed:
        raise ValueError(
            f"{directory} holds a run with another config: {_describe_changes(changed)}. Use the same values, or "
            "another --run-dir"
            + (
                "."
                if _of_another_model(old, new)
                else f", which can start from its parameters: --init-from {directory}."
            )
        )
    if new.training.steps < old.training.steps:
        raise ValueError(
            f"{directory} is a run of {old.training.steps} training.steps, more than {new.training.steps}. "
            f"Use at least as many, or another --run-dir, which can start from its parameters: --init-from {directory}."
        )


def _of_another_model(old: Experiment, new: Experiment) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Of architecture and tokenizer, those that differ: the fields, with both values."""
    changed = differences(old, new)
    found = {
        what: {
            name: values
            for name, values in changed.items()
            # A size that follows the data is that of the tokenizer that is taken over.
            if not (name == "tokenizer.vocabulary_size" and values[1] is None)
            and name.startswith(part)
            and name.rpartition(".")[2] not in NOT_ARCHITECTURE
        }
        for part, what in (("model.", "architecture"), ("tokenizer.", "tokenizer"))
    }
    return {what: fields for what, fields in found.items() if fields}


def refuse_another_model(old: Experiment, new: Experiment, origin: str) -> None:
    """Refuse to use the parameters of a run with another architecture or tokenizer.

    Args:
        origin: what the old run is called in the message.

    Raises:
        ValueError: with the fields that differ.
    """
    for what, fields in _of_another_model(old, new).items():
        raise ValueError(
            f"{origin} has another {what}: {_describe_changes(fields)}. Use the same values, or another run."
        )


def _describe_changes(changed: dict[str, tuple[Any, Any]]) -> str:
    """Fields that differ, in words."""
    return "; ".join(f"{name} is {before!r} there and {after!r} here" for name, (before, after) in changed.items())


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


def _read_description(
    directory: Path, *, tells: bool = True, is_used: bool = False
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a run, and all that its description says. See `read_description`.

    Args:
        is_used: the run is not trained on, so that nothing is drawn from its seed, which may be one from before seeds
            had a limit.
    """
    description = read_description(directory, tells=tells)
    values = description["experiment"]
    training = values.get("training") if isinstance(values, dict) else None
    if is_used and isinstance(training, dict) and type(training.get("seed")) is int:
        values = {**values, "training": {**training, "seed": training["seed"] % SEEDS}}
    try:
        return from_json(Experiment, values), description
    except ValueError as error:
        raise ValueError(f"{directory / DESCRIPTION_FILE}: {error} Restore it, or correct the value.") from error


def _versions() -> dict[str, str]:
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
