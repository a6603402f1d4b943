"""A run that is trained: begun in its directory, or continued there."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.effects import effects
from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.experiment import Experiment, differences, flatten, to_json
from seq2seq_jax.model import START_OFFSETS
from seq2seq_jax.modules.front_end import FeatureStatistics
from seq2seq_jax.modules.patterns import paths_of, without
from seq2seq_jax.optimizers import LORA
from seq2seq_jax.outside import ALL, Trust, classes_of, refuse_unnamed
from seq2seq_jax.parallel.processes import agree, first_process_first
from seq2seq_jax.paths import user_path
from seq2seq_jax.pretrained import origin as pretrained_origin
from seq2seq_jax.pretrained.checkpoint import CONFIG_FILE
from seq2seq_jax.pretrained.table import flat, nested
from seq2seq_jax.run.continuation import describe_changes, refuse_another_model, refuse_differences
from seq2seq_jax.run.data import PROGRESS, RunData, no_progress
from seq2seq_jax.run.description import DESCRIPTION_FILE, commit_of_code, read_experiment, versions, write_description
from seq2seq_jax.run.directory import RunDirectory, used_params
from seq2seq_jax.run.inference import Inference, usable_metrics
from seq2seq_jax.run.statistics import feature_statistics, needs_statistics, save_statistics
from seq2seq_jax.run.system import System, build_mesh
from seq2seq_jax.run.transfer import Part, assemble, open_part, place_and_checkpoint, unfamiliar
from seq2seq_jax.training.checkpoint import AnotherLayoutError, Checkpoints, logger
from seq2seq_jax.training.origins import ALL as ALL_PARTS
from seq2seq_jax.training.origins import Source, sources_of
from seq2seq_jax.training.step import TrainState, num_parameters

REFERENCES_LOOKED_AT = 1000
"""References from which the metric for a run is chosen."""


class TrainingRun:
    """An experiment with its directory, its data and its system.

    Nothing is read or written before `begin`; the parts that cost something are made when they are first needed.
    """

    def __init__(
        self,
        path: Path,
        experiment: Experiment,
        *,
        progress: PROGRESS = no_progress,
        trust_code: bool | Collection[str] = False,
    ):
        """Args:
        path: of its directory, which need not be there yet.
        progress: hears of work that takes a while.
        trust_code: modules outside the package, beside those of the experiment's own classes, that may be imported
            where the run that it starts from names them; True = all.
        """
        self.directory = RunDirectory(path)
        self.experiment = experiment
        self.progress = progress
        self.data = RunData(experiment.data, experiment.task, splits=experiment.data.all_splits, progress=progress)
        own = {kind.__module__ for kind in classes_of(experiment).values()}
        self._trusted = trust_code if isinstance(trust_code, bool) and trust_code else {*own, *(trust_code or ())}

    def begin(self, config_name: str) -> None:
        """Write experiment.json and the tokenizer of a new run, or check that an existing one is the same.

        Several processes begin it together, in a directory that all of them see.

        Raises:
            ValueError: the directory holds a run of another experiment, other data or another tokenizer; or the
                processes differ in what they would train; or the method of generation does not work with the model.
        """
        refuse_unnamed(self.experiment)
        self.experiment.generation.check(num_experts=self.experiment.model.num_experts)
        used, commit = versions(), commit_of_code()
        # Before anything that takes long.
        self.metrics  # noqa: B018
        with first_process_first():
            fingerprint = self.data.corpus.fingerprint
        agree(
            {
                **{name: json.dumps(value) for name, value in flatten(self.experiment).items()},
                "the run directory": str(self.directory.path.absolute()),
                "the data's fingerprint": fingerprint,
                "the code's commit": str(commit),
                "the versions": ", ".join(f"{name} {version}" for name, version in used.items()),
            }
        )
        if self.experiment.training.select_by is None:
            training = dataclasses.replace(self.experiment.training, select_by=self._metric())
            self.experiment = dataclasses.replace(self.experiment, training=training)
        with first_process_first():
            if jax.process_index() == 0:
                self._begin(config_name, used, commit)
            elif not self.directory.is_of_a_run:
                raise ValueError(
                    f"process {jax.process_index()} does not see {self.directory.path / 'experiment.json'}, which "
                    "process 0 has written. Give a --run-dir on storage that all processes share."
                )
        agree({"the tokenizer's fingerprint": self.tokenizer.fingerprint})

    def _begin(self, config_name: str, used: dict[str, str], commit: str | None) -> None:
        path, facts = self.directory.path, {"data": self.data.corpus.fingerprint}
        if self.directory.is_of_a_run:
            experiment, description = read_experiment(path, trust=Trust.of(self._trusted))
            refuse_differences(experiment, self.experiment, path)
            fingerprints = description["fingerprints"]
            if fingerprints["data"] != facts["data"]:
                changed, effect = differences(experiment, self.experiment), effects(self.experiment)
                named = {name: values for name, values in changed.items() if effect.get(name) == "nothing"}
                raise ValueError(
                    f"the text in {getattr(self.experiment.data, 'directory', 'the dataset')} is not that which "
                    f"{path} was trained on{f' ({describe_changes(named)})' if named else ''}. Restore it, "
                    f"or train in another --run-dir, which can start from its parameters: --init-from {path}."
                )
            self.directory.tokenizer_fingerprint = fingerprints["tokenizer"]
            self.directory.remove_unfinished()
        else:
            self.directory.refuse_foreign_checkpoints()
            tokenizer = self.new_tokenizer()
            if self.experiment.optimizer.has_patterns:
                # Before anything is written: only now is it known which parameters they match.
                System(self.experiment, tokenizer, self.mesh).layout  # noqa: B018
            path.mkdir(parents=True, exist_ok=True)
            tokenizer.save(path)
            if needs_statistics(self.experiment.model):
                save_statistics(self._new_statistics(tokenizer), path)
            if self.origin is not None:
                # So that what was imported can be exported as it came.
                pretrained_origin.copy(self.origin[0].directory.path, path)
        facts["tokenizer"] = self.tokenizer.fingerprint
        description = {
            "config": config_name,
            "experiment": to_json(self.experiment),
            "fingerprints": facts,
            "versions": used,
            "commit": commit,
            "devices": sorted({device.device_kind for device in jax.devices()}),
        }
        write_description(path, description)

    def _metric(self) -> str:
        """What training.select_by None stands for: what the run was started with, or what fits its references."""
        if self.directory.is_of_a_run:
            started = read_experiment(self.directory.path, trust=Trust.of(self._trusted), tells=False)[0]
            started = started.training.select_by
            if started is not None:
                return started
        examples = self.data.scored("validation") if "validation" in self.data.corpus.splits else ()
        return self.experiment.task.select_by(self.metrics, itertools.islice(examples, REFERENCES_LOOKED_AT))

    def new_tokenizer(self) -> Tokenizer:
        """The tokenizer that a new run has: that of the run that it starts from, or one trained on its data."""
        if self.origin is not None:
            tokenizer = self.origin[0].tokenizer
            for token in self.data.source.required_tokens():
                if tokenizer.source_id(token) is None:
                    raise ValueError(
                        f"the tokenizer of --init-from {self.experiment.init_from} has no piece {token}, a tag of "
                        "data.parts. Start from a run whose data has it, or leave the tag out."
                    )
            return tokenizer
        self.progress("training the tokenizer", 0, 1)
        config = self.experiment.tokenizer
        special_tokens = tuple(dict.fromkeys((*config.special_tokens, *self.data.source.special_tokens())))
        config = dataclasses.replace(config, special_tokens=special_tokens)
        tokenizer = Tokenizer.train(self.data.tokenized("train"), config)
        self.progress("training the tokenizer", 1, 1)
        return tokenizer

    def _new_statistics(self, tokenizer: Tokenizer) -> FeatureStatistics:
        """The statistics of features that a new run has: those of the run that it starts from, or of its data."""
        if self.origin is not None:
            return self.origin[0].directory.statistics
        self.progress("statistics of features", 0, 1)
        store = self.data.store("train", tokenizer)
        column = self.experiment.task.source(self.experiment.data)
        found = feature_statistics(self.experiment.model, store, column, tokenizer.vocabulary)
        self.progress("statistics of features", 1, 1)
        return found

    @property
    def statistics(self) -> FeatureStatistics | None:
        """What the run normalises features by, once it has begun; None = by no such statistics."""
        return self.directory.statistics if needs_statistics(self.experiment.model) else None

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer, once it has begun."""
        return self.directory.tokenizer

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What validation computes beside the loss. See `usable_metrics`."""
        return usable_metrics(self.experiment, trust=ALL, origin="the config")

    @functools.cached_property
    def origin(self) -> tuple[Inference, str] | None:
        """The run that training starts from as a whole, and which of its checkpoints; None = there is none.

        Raises:
            ValueError: init_from is not a run, or one of another architecture or tokenizer.
        """
        name = self.experiment.init_from
        if name is None or sources_of(name)[0].parts != (ALL_PARTS,):
            return None
        path, which = place_and_checkpoint(sources_of(name)[0].place)
        if (user_path(path) / CONFIG_FILE).is_file() and not (user_path(path) / DESCRIPTION_FILE).is_file():
            raise ValueError(
                f"--init-from {name} is a model of another project. Make a run of it: seq2seq import {path} --output "
                "NEW, or take parts of it, such as --init-from encoder+embeddings="
                f"{path}."
            )
        try:
            origin = Inference.open(path, progress=self.progress, trust_code=self._trusted)
            origin = origin.with_parts(mesh=self.experiment.mesh)
            with origin.directory.checkpoints(read_only=True) as checkpoints:
                origin.directory.candidates(which, checkpoints)
        except ValueError as error:
            raise ValueError(f"--init-from {name}: {error}") from error
        there = origin.experiment
        if there.model.has_lora and not self.experiment.model.has_lora:
            there = dataclasses.replace(there, model=there.model.without_lora())
        refuse_another_model(there, self.experiment, f"--init-from {path}", may_be_extended=True)
        return origin, which

    @functools.cached_property
    def parts(self) -> dict[Source, Part]:
        """The origins of parts of the model, opened; empty = it starts from a whole run, or from nothing.

        Raises:
            ValueError: one is neither a run nor a model.
        """
        name = self.experiment.init_from
        if name is None or sources_of(name)[0].parts == (ALL_PARTS,):
            return {}
        found = {}
        for source in sources_of(name):
            try:
                found[source] = open_part(source.place, mesh=self.experiment.mesh, trust_code=self._trusted)
            except ValueError as error:
                raise ValueError(f"--init-from {'+'.join(source.parts)}={source.place}: {error}") from error
        return found

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The device mesh, checked against the model and the batch."""
        return build_mesh(self.experiment)

    @functools.cached_property
    def system(self) -> System:
        """What computes."""
        return System(self.experiment, self.tokenizer, self.mesh, statistics=self.statistics)

    def initial_state(self) -> TrainState:
        """The state before the first step: new parameters, or those that the run starts from.

        Raises:
            ValueError: there is no such checkpoint, or no good one.
        """
        if self.parts:
            return self._state_of_parts()
        if self.origin is None:
            return self.system.initial_state()
        origin, which = self.origin
        params, step = origin.directory.restore(which, functools.partial(self._params_of_origin, origin.system.player))
        first, *others = sorted(params, key=lambda name: name != self.system.player)
        parts = params[first] | {f"player {name}": params[name] for name in others}
        sizes = ", ".join(f"{name} {num_parameters(part):,}" for name, part in parts.items())
        logger.info("Starting from step %d of %s: %s parameters.", step, origin.directory.path, sizes)
        given = set(paths_of(params[self.system.player]))
        new = [path for path in paths_of(self._own_layout) if path not in given]
        if new:
            logger.info("New parameters: %s.", unfamiliar(new))
        return self.system.initial_state(params)

    @property
    def _own_layout(self) -> Any:
        """Shapes and shardings of the parameters of the player that generates."""
        return self.system.layout.players[self.system.player].params

    def _state_of_parts(self) -> TrainState:
        """The state before the first step, with parts of other models."""
        found = assemble(
            self.parts,
            flat(self._own_layout),
            model=self.experiment.model,
            tokenizer=self.tokenizer,
            seed=self.experiment.training.seed,
        )
        for line in found.described:
            logger.info("Starting with the %s.", line)
        logger.info("New parameters: %s.", unfamiliar(found.new))
        return self.system.initial_state({self.system.player: nested(found.params)})

    def _params_of_origin(self, player: str, checkpoints: Checkpoints, step: int) -> dict[str, Any]:
        """The parameters of every player that the origin has too, by name.

        Args:
            player: of the origin that generates; it becomes the one that generates here, whatever its name.
        """
        layouts = {name: state.params for name, state in self.system.layout.players.items()}
        model = self.origin[0].experiment.model
        if model.has_lora and not self.experiment.model.has_lora:
            layouts[self.system.player] = self.origin[0].system.parameter_layouts[player]
        elif not model.has_lora:
            own = layouts[self.system.player]
            new = {path for path in paths_of(own) if path.rpartition("/")[2].startswith(LORA)}
            layouts[self.system.player] = without(own, new)
        if self.origin[0].experiment.model.num_experts == 1:
            # New experts have new start tokens.
            own = layouts[self.system.player]
            layouts[self.system.player] = {name: part for name, part in own.items() if name != START_OFFSETS}
        params = {self.system.player: used_params(checkpoints, step, player, layouts[self.system.player])}
        if model.has_lora and not self.experiment.model.has_lora:
            params = {name: model.merge_lora(own) for name, own in params.items()}
        for name in (layouts.keys() - params.keys()) & (checkpoints.names(step, "players") - {player}):
            try:
                params[name] = used_params(checkpoints, step, name, layouts[name])
            except AnotherLayoutError as error:
                raise ValueError(
                    f"--init-from {self.experiment.init_from}: the player {name} has other parameters there: "
                    f"{error.difference}. Use the same settings for it, or another name."
                ) from error
        return params

    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints, to be written."""
        return self.directory.checkpoints(read_only=False, keep_latest=self.experiment.training.keep_latest)

    @functools.cached_property
    def inference(self) -> Inference:
        """The use of what has been learned so far, by the same system."""
        return Inference(self.directory, self.experiment, data=self.data, progress=self.progress, system=self.system)
