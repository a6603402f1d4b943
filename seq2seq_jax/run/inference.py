"""A run in use: a checkpoint that generates, aligns, and is evaluated."""

import dataclasses
import functools
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seq2seq_jax.data.audio.inputs import Sound, describe_resampled, sound_of
from seq2seq_jax.data.audio.source import SpeechSource
from seq2seq_jax.data.columns import Frames
from seq2seq_jax.data.pipeline import evaluation_batches
from seq2seq_jax.data.splitting import TooLong
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.evaluation.metric import CANDIDATES, LIKELIHOOD, Metric
from seq2seq_jax.evaluation.metrics import load_metrics
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.alignment import Alignment
from seq2seq_jax.generation.controls import line_controls, phrases_of_fields
from seq2seq_jax.generation.generator import Hypothesis
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.scorer import PairScore
from seq2seq_jax.generation.sources import describe_long
from seq2seq_jax.modules.front_end import FeatureStatistics
from seq2seq_jax.outside import ALL, Trust
from seq2seq_jax.paths import unicode_path
from seq2seq_jax.run.data import DIRECTORIES, PROGRESS, RunData, no_progress
from seq2seq_jax.run.description import read_experiment
from seq2seq_jax.run.directory import RunDirectory
from seq2seq_jax.run.statistics import needs_statistics
from seq2seq_jax.run.system import System, build_mesh
from seq2seq_jax.training.validation import Sources, Validation

logger = logging.getLogger(__name__)


class Inference:
    """What a run has learned, ready to be used. The parts that cost something are made when they are first needed."""

    def __init__(
        self,
        directory: RunDirectory,
        experiment: Experiment,
        *,
        data: RunData,
        progress: PROGRESS = no_progress,
        system: System | None = None,
        trust: Trust = ALL,
    ):
        """Args:
        data: what it may be evaluated on.
        progress: hears of work that takes a while.
        system: None = one is built.
        trust: which modules outside the package may be imported for functions that the experiment names.
        """
        self.directory = directory
        self.experiment = experiment
        self.data = data
        self._progress = progress
        self._system = system
        self._trust = trust

    @classmethod
    def open(
        cls, path: str | Path, *, progress: PROGRESS = no_progress, trust_code: bool | Collection[str] = False
    ) -> "Inference":
        """An existing run, which may come from somebody else.

        Nothing that it names is imported, and none of the directories that it names is written to.

        Args:
            trust_code: the modules outside the package that may be imported, where the run names classes or functions
                in them; True = all.

        Raises:
            ValueError: the directory is not that of a run, its description is damaged, or it needs code that is not
                trusted.
        """
        path, trust = unicode_path(path), Trust.of(trust_code)
        experiment, description = read_experiment(path, trust=trust, is_used=True)
        return cls(
            RunDirectory(path, tokenizer_fingerprint=description["fingerprints"]["tokenizer"]),
            experiment,
            data=RunData(experiment.data, experiment.task, read_only=DIRECTORIES, progress=progress),
            progress=progress,
            trust=trust,
        )

    def with_parts(
        self,
        *,
        splits: Collection[str] | None = None,
        written: Collection[str] = (),
        **parts: Any,
    ) -> "Inference":
        """The same run, to be used with other parts of its experiment, such as `generation`.

        Args:
            splits: the only ones of the data that are used; None = as before.
            written: fields of the data (cache_directory, directory) whose directories may be written to after all.

        Raises:
            ValueError: the parts do not fit together.
        """
        experiment = dataclasses.replace(self.experiment, **parts)
        experiment.generation.check(num_experts=experiment.model.num_experts)
        data = RunData(
            experiment.data,
            experiment.task,
            splits=self.data.splits if splits is None else splits,
            read_only=[name for name in self.data.read_only if name not in written],
            progress=self._progress,
        )
        return self._with(experiment, data)

    def _with(self, experiment: Experiment, data: RunData, *, system: System | None = None) -> "Inference":
        """The same checkpoints, used by another experiment on other data."""
        return Inference(
            self.directory, experiment, data=data, progress=self._progress, system=system, trust=self._trust
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. See `RunDirectory.tokenizer`."""
        return self.directory.tokenizer

    @functools.cached_property
    def system(self) -> System:
        """What computes."""
        return self._system or System(
            self.experiment,
            self.tokenizer,
            build_mesh(self.experiment),
            trust=self._trust,
            statistics=self.statistics,
        )

    @property
    def statistics(self) -> FeatureStatistics | None:
        """What the run normalises features by; None = by no statistics of its training split."""
        return self.directory.statistics if needs_statistics(self.experiment.model) else None

    def parameters(self, which: str = "best", *, player: str | None = None) -> tuple[Any, int]:
        """The parameters that are used (the average where there is one) of a checkpoint, and its step.

        Args:
            which: "best" (by score; the newest without any), "latest", or a step.
            player: whose; None = of the one that generates.

        Raises:
            ValueError: there is no such checkpoint or no good one, or no such player.
        """
        name = self.system.player if player is None else player
        layouts = self.system.parameter_layouts
        if name not in layouts:
            # Of a player that evaluation does not see; the objective may need code that is not trusted.
            players = self.system.layout.players
            if name not in players:
                raise ValueError(f"{self.directory.path} has no player {name!r}; it has {', '.join(sorted(players))}.")
            layouts = {name: players[name].params}
        params, step = self.directory.restore_players(which, {name: layouts[name]})
        return params[name], step

    def parameters_of_players(self, which: str = "best") -> tuple[dict[str, Any], int]:
        """The parameters of all players that evaluation sees, by name, and the step. See `parameters`."""
        return self.directory.restore_players(which, self.system.parameter_layouts)

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluation computes beside the loss. See `usable_metrics`."""
        return usable_metrics(self.experiment, trust=self._trust, origin=str(self.directory.path))

    def validation(self, split: str, *, generates: bool = False, phrases_field: str | None = None) -> Validation:
        """What evaluates parameters on a split.

        Args:
            generates: keep the sources to generate from, even if no metric needs them.
            phrases_field: field of the examples with phrases that their texts must contain; None = none must.

        Raises:
            ValueError: see `metrics`; or there is no such field.
        """
        experiment, metrics, system = self.experiment, self.metrics, self.system
        store = self.data.store(split, self.tokenizer)
        batches = evaluation_batches(
            store,
            experiment.batch_format,
            vocabulary=self.tokenizer.vocabulary,
            target_tokens_per_batch=experiment.training.target_tokens_per_batch,
            process_index=system.rows_of_process[0],
            process_count=system.rows_of_process[1],
        )
        needed = frozenset().union(*(metric.needs for metric in metrics)) - {LIKELIHOOD, CANDIDATES}
        return Validation(
            batches,
            self._sources(split, store, phrases_field) if needed or generates else None,
            metrics=metrics,
            player=system.player,
            compute_loss=self._compute_loss,
            place=system.place,
            generator=system.generator,
            scorer=lambda: system.scorer,
        )

    @functools.cached_property
    def _compute_loss(self) -> Any:
        """Compiled once for all sets."""
        return self.system.build_loss()

    def _sources(self, split: str, store: Store, phrases_field: str | None) -> Sources:
        experiment, tokenizer = self.experiment, self.tokenizer
        examples = list(self.data.scored(split))
        name, target = experiment.task.source_column, experiment.batch_format.columns["target"]
        sources, are_frames = store.columns[name], isinstance(experiment.batch_format.columns.get(name), Frames)
        return Sources(
            ids=[sources[index] if are_frames else sources[index].tolist() for index in range(len(store))],
            examples=examples,
            rollout=lambda: experiment.task.rollout(examples),
            controls=None if phrases_field is None else phrases_of_fields(examples, phrases_field),
            counted_target=lambda index: tokenizer.decode_target(
                target.cut_ids(store.columns["target"][index].tolist(), tokenizer)
            ),
        )

    @functools.cached_property
    def _best_parameters(self) -> Any:
        return self.parameters()[0]

    def sources(self, given: Any, name: str, *, rate: int | None = None) -> list[Any]:
        """Sources as the model reads them: texts, or for a model of speech sounds.

        Args:
            given: one string, or strings; for a model of speech an array of samples, or paths and arrays.
            name: of the argument, for messages.
            rate: samples per second of arrays; None = those that the model reads.

        Raises:
            ValueError: a sound cannot be read; the message names it.
            TypeError: there is something else.
        """
        data = self.experiment.data
        if not isinstance(data, SpeechSource):
            if rate is not None:
                raise TypeError("rate has no effect: the model reads text, and no sound.")
            return list_of_texts(given, name)
        is_one = isinstance(given, str | os.PathLike | Sound) or (isinstance(given, np.ndarray) and given.ndim == 1)
        if not is_one and not isinstance(given, Iterable):
            raise TypeError(f"{name} must be paths or arrays of samples, not a {type(given).__name__}.")
        each = [given] if is_one else list(given)
        sounds = [sound_of(one, data, name=f"{name}[{index}]", rate=rate) for index, one in enumerate(each)]
        if resampled := describe_resampled(sounds, data):
            logger.warning("%s.", resampled)
        return sounds

    def hypotheses(
        self,
        texts: Any,
        *,
        method: GenerationMethod | None = None,
        too_long: TooLong | None = None,
        max_source_length: int | None = None,
        lines: Sequence[int] | None = None,
        prefixes: Sequence[str | None] | None = None,
        phrases: Sequence[Sequence[str]] | None = None,
        rate: int | None = None,
        **settings: Any,
    ) -> list[list[Hypothesis]]:
        """The texts that a method gives for each text (as many as it says), with the best checkpoint.

        Args:
            texts: a list, tuple, array or other iterable of strings; one string is a list of one. Of a model of speech
                paths of audio files, or arrays of samples, see `sources`.
            rate: samples per second of arrays; None = those that the model reads.
            method: how they are generated, such as `seq2seq_jax.generation.methods.Sampling(samples=4)`; None = as the
                run does.
            too_long: what happens to texts that are longer than the model takes, which a warning counts: split (the
                parts' texts are joined), truncate or refuse; None = split, or truncate if training truncates.
            max_source_length: tokens of the longest text that is taken as a whole; None = as in training.
            lines: numbers of the texts, from 1, which what is drawn for them depends on; None = their order.
            prefixes: what the texts for each text begin with; None or "" = anything.
            phrases: those that the texts for each text contain, with beam search.
            settings: fields of the method that are otherwise, such as beam_size=8.

        Raises:
            ValueError: a text is longer than the model takes and is refused, a setting does not fit, or no text can
                have a prefix or a phrase.
            TypeError: there is something else than strings, or the method has no such setting.
        """
        chosen = self.experiment.generation if method is None else method
        generator = self.system.generator_by(
            dataclasses.replace(chosen, **settings), max_source_length=max_source_length
        )
        sources = generator.sources.fit(self.sources(texts, "texts", rate=rate), too_long=too_long, lines=lines)
        controls = line_controls(len(sources), prefixes=prefixes, phrases=phrases)
        if sources.long:
            logger.warning(
                "%d of %d texts are longer than the model takes; the first: %s.",
                len(sources.long), len(sources), describe_long(sources.long[0], generator.max_source_length),
            )  # fmt: skip
        return generator.generate_fitted(self._best_parameters, sources, controls=controls)

    def generate(self, texts: Any, **options: Any) -> list[str]:
        """The first text for each text, with the best checkpoint.

        Args:
            texts: see `hypotheses`.
            options: see `hypotheses`.
        """
        return [best[0].text if best else "" for best in self.hypotheses(texts, **options)]

    def evaluate(self, split: str = "test", *, checkpoint: str = "best") -> dict[str, Any]:
        """Loss and scores on a split of the run's data: what `seq2seq evaluate --json` writes, without the tokenizer.

        Raises:
            ValueError: the data has no such split or is not there, or there is no such checkpoint.
        """
        run = self.with_parts(splits=[split])
        params, step = run.parameters_of_players(checkpoint)
        return run.validation(split)(params).to_json(split=split, step=step)

    def score(self, sources: str | Iterable[str], targets: str | Iterable[str]) -> list[PairScore]:
        """What the model thinks of each target given its source, with the best checkpoint.

        Args:
            sources: as for `hypotheses`.
            targets: as many texts.

        Raises:
            ValueError: a text is longer than the model takes, or the numbers differ.
            TypeError: there is something else than strings.
        """
        sources, targets = self.sources(sources, "sources"), list_of_texts(targets, "targets")
        return self.system.scorer.score(self._best_parameters, sources, targets)

    def align(
        self, sources: Any, targets: str | Iterable[str] | None = None, *, rate: int | None = None
    ) -> list[Alignment]:
        """The attention between each source and its target, with the best checkpoint.

        Args:
            sources: as for `hypotheses`.
            targets: as many texts; None = what `generate` gives.
            rate: as for `hypotheses`.

        Raises:
            ValueError: the decoder has no attention, a text is longer than the model takes, or the numbers differ.
            TypeError: there is something else than strings.
        """
        targets = None if targets is None else list_of_texts(targets, "targets")
        return self.system.aligner.align(self._best_parameters, self.sources(sources, "sources", rate=rate), targets)


def usable_metrics(experiment: Experiment, *, trust: Trust, origin: str) -> tuple[Metric, ...]:
    """What an experiment computes beside the loss, ready to be computed.

    Args:
        trust: which modules outside the package may be imported for metrics.
        origin: what names them, for the message.

    Raises:
        ValueError: a metric takes code that is not trusted or cannot be imported, or a package that is not installed;
            it cannot be computed of this data; or `training.select_by` is none of their scores.
    """
    metrics = load_metrics(experiment.validation_metrics, trust=trust, origin=origin)
    experiment.check_metrics(metrics)
    for metric in metrics:
        metric.check_installed()
    return metrics


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
