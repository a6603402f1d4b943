"""Everything that a run is, as one frozen dataclass: read from a config file, overridden, checked, kept as JSON."""

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import os
import re
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seq2seq_jax.data.audio.digit_strings import DigitStrings
from seq2seq_jax.data.audio.features import SpeechFeatures
from seq2seq_jax.data.audio.recordings import Recordings
from seq2seq_jax.data.audio.source import SpeechSource
from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.catalogue import Catalogue, CatalogueDocuments
from seq2seq_jax.data.code_switching import CodeSwitching
from seq2seq_jax.data.conversations import Conversations
from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.dialogues import Dialogues
from seq2seq_jax.data.mixture import Mixture
from seq2seq_jax.data.oracle_texts import OracleTexts
from seq2seq_jax.data.pronunciations import Pronunciations
from seq2seq_jax.data.schema_dialogues import DialogueActs, DialogueStates
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.data.synthesis import Synthetic
from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import DocumentFiles, ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.effects import changes, effects
from seq2seq_jax.evaluation.metric import ALTERNATIVES, CANDIDATES, LIKELIHOOD, OUTPUTS, ROLLED, Metric, check_metrics
from seq2seq_jax.evaluation.metrics import OutsideMetric, metric_from_json, metric_to_json
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.adversarial import AdversarialConfig
from seq2seq_jax.objectives.cooperative import CooperativeConfig
from seq2seq_jax.objectives.joint_ctc import JointCtcConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.mixture_of_experts import MixtureOfExpertsConfig
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.objectives.preference import PreferenceConfig
from seq2seq_jax.objectives.professor_forcing import ProfessorForcingConfig
from seq2seq_jax.objectives.relaxed import RelaxedConfig
from seq2seq_jax.old_names import current_fields
from seq2seq_jax.optimizers import AdafactorConfig, AdamWConfig, OptimizerConfig
from seq2seq_jax.outside import NOTHING, Trust, load_config_class, name_of_class, refuse_unnamed
from seq2seq_jax.overrides import dataclasses_of, inner_of_tuple, override
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.paths import user_path
from seq2seq_jax.tasks.conversation import Conversation
from seq2seq_jax.tasks.denoising import Denoising
from seq2seq_jax.tasks.dialogue_response import ResponseFromActs
from seq2seq_jax.tasks.dialogue_state import DialogueState
from seq2seq_jax.tasks.speech import Speech
from seq2seq_jax.tasks.summarisation import Summarisation
from seq2seq_jax.tasks.task import Task
from seq2seq_jax.tasks.translation import Translation
from seq2seq_jax.training.config import TrainingConfig, check_select_by
from seq2seq_jax.training.origins import ALL as ALL_PARTS
from seq2seq_jax.training.origins import sources_of
from seq2seq_jax.values import check_value, check_values, options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run is."""

    data: (
        Dates
        | ParallelText
        | Table
        | Catalogue
        | DocumentFiles
        | CatalogueDocuments
        | Dialogues
        | DialogueStates
        | DialogueActs
        | Pronunciations
        | Conversations
        | Mixture
        | DigitStrings
        | SpeechFeatures
        | Recordings
        | Synthetic
        | CodeSwitching
        | OracleTexts
    )
    """Where the text comes from and how it becomes rows."""
    task: Translation | Summarisation | Denoising | DialogueState | ResponseFromActs | Conversation | Speech = None  # pyright: ignore
    """What the columns of the data mean; left out, it is the task for which the data has them."""
    tokenizer: TokenizerConfig = dataclasses.field(metadata=changes("parameters"))
    """How text becomes tokens."""
    model: ModelConfig = dataclasses.field(metadata=changes("parameters"))
    """The encoder–decoder."""
    objective: (
        MaximumLikelihoodConfig
        | PolicyGradientConfig
        | MixtureOfExpertsConfig
        | AdversarialConfig
        | PreferenceConfig
        | CooperativeConfig
        | ProfessorForcingConfig
        | RelaxedConfig
        | JointCtcConfig
    )
    """What is minimised."""
    optimizer: AdamWConfig | AdafactorConfig
    """How it is minimised."""
    training: TrainingConfig
    """How long, how much at a time, and what happens along the way."""
    mesh: MeshConfig = dataclasses.field(default=MeshConfig(), metadata=changes("nothing"))
    """How devices share the work."""
    generation: Method = BeamSearch()
    """How text is generated, in validation and afterwards; --generation NAME chooses another method (beam_search,
    greedy, sampling, diverse_beam_search, stochastic_beam_search, minimum_bayes_risk, mixture_of_experts, ctc_greedy,
    ctc_beam_search)."""
    metrics: tuple[Metric, ...] | None = None
    """What validation and evaluation compute beside the loss: bleu, chrf, exact_match, rouge, summary (length ratio,
    what is taken from the source), wer, cer, perplexity, variety, hits, pronunciation, dialogue_state,
    dialogue_state_gold, slot_errors, oracle (of the synthetic task), diversity (of several texts per source), with
    settings after commas (bleu,tokenizer=zh), or a class as module:Class; empty = nothing. None = those of the task:
    BLEU, chrF and exact match where nothing else is said."""
    init_from: str | None = None
    """RUN, RUN:best or RUN:STEP: the directory of a run whose parameters (its best, unless a step is given) and
    tokenizer training starts with; its model must be the same, but for LoRA, or have one expert for several. Or parts,
    PART[+PART]=PLACE,...: encoder, decoder, embeddings (rows by the text of their pieces, for a tokenizer of the run's
    own), each from a run or from the directory of a Hugging Face model, such as encoder+embeddings=minilm. None = new
    parameters."""

    def __post_init__(self):
        if self.task is None:
            object.__setattr__(self, "task", default_task(self.data))
        check_values(self)
        if self.init_from is not None:
            sources_of(self.init_from)
        self.task.check(self.data, self.tokenizer)
        self.model.check(joint=self.tokenizer.joint)
        self._check_front_end()
        row, rows = self.max_target_length, self.rows_per_batch
        if self.training.target_tokens_per_batch % row or rows == 0:
            raise ValueError(
                f"training.target_tokens_per_batch must be a multiple of data.max_target_length = {row} (whole rows), "
                f"and is {self.training.target_tokens_per_batch}. Try "
                f"{max(row, round(self.training.target_tokens_per_batch / row) * row)}."
            )
        if rows % self.training.accumulation:
            raise ValueError(
                f"a batch of {rows} rows (training.target_tokens_per_batch / data.max_target_length) cannot be "
                f"divided into training.accumulation = {self.training.accumulation} equal parts. Change either."
            )
        if self.objective.requires_unpacked_rows and not self.has_unpacked_rows:
            raise ValueError(
                f"objective {type(self.objective).__name__} samples a text for every row, or mixes rows, so a row must "
                "hold one example. Set data.packing to False."
            )
        if self.model.num_experts > 1 and not self.objective.trains_experts:
            raise ValueError(
                f"objective {type(self.objective).__name__} trains the first expert alone, and model.num_experts is "
                f"{self.model.num_experts}. Set it to 1, or objective to mixture_of_experts."
            )
        self.objective.check(self.model, accumulation=self.training.accumulation)
        if self.generation.needs_ctc and not self.model.ctc:
            raise ValueError(
                f"generation {type(self.generation).__name__} reads scores of CTC, and model.ctc is False. Set it "
                "to True, with objective joint_ctc, or choose another method."
            )
        if not any(isinstance(metric, OutsideMetric) for metric in self.validation_metrics):
            self.check_metrics(self.validation_metrics)
        for side, stack in (("source", self.model.encoder), ("target", self.model.decoder)):
            longest = getattr(self, f"max_{side}_length")
            if stack.position_limit is not None and stack.position_limit < longest:
                raise ValueError(
                    f"a table of {stack.position_limit} learned positions is too short for data.max_{side}_length = "
                    f"{longest}. Raise max_positions, or lower the length."
                )

    def _check_front_end(self) -> None:
        """Refuse a front end that does not read what the data gives.

        Raises:
            ValueError: with the field to change.
        """
        data, model = self.data, self.model
        if not isinstance(data, SpeechSource):
            if model.front_end is not None:
                raise ValueError(
                    f"model.front_end reads frames, and {type(data).__name__} has text. Set model.front_end to None."
                )
            return
        if model.front_end is None:
            raise ValueError(
                f"{type(data).__name__} has frames, which model.front_end makes vectors of, and that is None. Set it "
                f"to {'log_mel' if data.kind == 'int16' else 'features'}."
            )
        expected, given = model.front_end.stored, (data.num_features, data.kind)
        if expected != given:
            raise ValueError(
                f"model.front_end = {type(model.front_end).__name__} reads vectors of {expected[0]} {expected[1]}, and "
                f"{type(data).__name__} has {given[0]} {given[1]}. Choose the one for them, with as many features."
            )
        rate = getattr(model.front_end, "rate", None)
        if rate is not None and rate != data.values_per_second:
            raise ValueError(
                f"model.front_end.rate is {rate}, and data has {data.values_per_second:g} samples per second. Set them "
                "alike."
            )
        if model.source_stride != data.stride:
            raise ValueError(
                f"model.front_end and model.encoder make a state of {model.source_stride} {data.unit}s, and "
                f"data.stride is {data.stride}. Set data.stride to {model.source_stride}."
            )

    def check_metrics(self, metrics: Sequence[Metric]) -> None:
        """Return if metrics can be computed of the data, and `training.select_by` is one of their scores.

        Raises:
            ValueError: with what to change.
        """
        check_metrics(metrics, self.validation_columns, of=self.task.unit)
        names = [name for metric in metrics for name in metric.names]
        check_select_by(self.training.select_by, names, sets=getattr(self.data, "validation_sets", ()))

    @property
    def validation_metrics(self) -> tuple[Metric, ...]:
        """What validation computes beside the loss."""
        return self.task.metrics if self.metrics is None else self.metrics

    @property
    def validation_columns(self) -> frozenset[str]:
        """What metrics can be computed from, see `check_metrics`."""
        found = self.task.scored_columns | {LIKELIHOOD}
        if not self.task.generates:
            return found
        found |= {ROLLED} if type(self.task).rollout is not Task.rollout else set()
        found |= {OUTPUTS, CANDIDATES}
        return found | {ALTERNATIVES} if self.generation.num_texts > 1 else found

    @property
    def rows_per_batch(self) -> int:
        """Packed rows of a global batch."""
        return self.training.target_tokens_per_batch // self.max_target_length

    @property
    def max_source_length(self) -> int:
        """Tokens of the longest source row, EOS token included."""
        return self.task.row_lengths(self.data)[0]

    @property
    def max_target_length(self) -> int:
        """Tokens of the longest target row, EOS token included."""
        return self.task.row_lengths(self.data)[1]

    @property
    def batch_format(self) -> BatchFormat:
        """How stored examples become batches."""
        return self.task.batch_format(self.data)

    @property
    def has_unpacked_rows(self) -> bool:
        """Whether every row of a batch holds one example."""
        return self.task.has_unpacked_rows(self.data)


def default_task(data: DataSource) -> Task:
    """The task for which data has the columns.

    Raises:
        ValueError: there is none.
    """
    tasks = DialogueState, ResponseFromActs, Translation, Denoising, Speech
    for task in tasks:
        if set(task.reads) <= set(data.columns):
            return task()
    needed = " or ".join(" and ".join(task.reads) for task in tasks)
    raise ValueError(
        f"no task is known for data with the columns {', '.join(data.columns)}; expected {needed}. Set task to one "
        "that reads these."
    )


PATHS = ("data.directory", "data.cache_directory", "init_from")
"""Fields that are paths, of which one may be written in several ways."""


def find_config(name: str) -> Path:
    """The file of a config: a path, or a name such as multi30k/transformer_small.

    Names are looked for in configs/ of the current directory, then among the configs of this project.

    Raises:
        ValueError: there is no such file.
    """
    for path in (Path(name), Path("configs") / f"{name}.py", _shipped_configs() / f"{name}.py"):
        # os.path, to which a name that is too long for any file system is one that is not there.
        if path.suffix == ".py" and os.path.isfile(path):
            return path.resolve()
    available = sorted(
        {
            str(path.relative_to(directory).with_suffix(""))
            for directory in (Path("configs"), _shipped_configs())
            for path in directory.glob("*/*.py")
        }
    )
    near = difflib.get_close_matches(name, available, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ValueError(f"there is no config {name!r}. {hint}Give a Python file, or one of: {', '.join(available)}.")


def _shipped_configs() -> Path:
    """The directory of this project's configs: inside an installed package, and beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_name(path: Path) -> str:
    """The name of a config file: dataset/model."""
    return f"{path.parent.name}/{path.stem}"


def load_config(path: Path) -> tuple[Experiment, str]:
    """The experiment that a config file defines, and the file's docstring.

    Raises:
        ValueError: the file does not define `experiment() -> Experiment`.
    """
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "experiment", None)
        experiment = make() if callable(make) else None
    except ValueError as error:
        # A value that a part of the experiment refuses: it says what it expected.
        raise ValueError(f"{error} (in config {path}{_line_of(error, path)})") from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"config {path} cannot be loaded{_line_of(error, path)}: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(experiment, Experiment):
        raise ValueError(f"config {path} must define a function experiment() that returns an Experiment.")
    return experiment, (module.__doc__ or "").strip()


def _line_of(error: BaseException, path: Path) -> str:
    """Where in a file an exception came from, in words; nothing where it came from elsewhere alone."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def load_config_by_name(name: str) -> Experiment:
    """The experiment of another config, for a config that changes parts of it.

    Raises:
        ValueError: there is no such config.
    """
    return load_config(find_config(name))[0]


class CommandLine(typing.NamedTuple):
    """What a command line that takes a CONFIG says."""

    name: str
    """Of the config: dataset/model."""
    default: Experiment
    """As the config has it."""
    arguments: Any
    """The command's, with the config's experiment, overridden, as `experiment`."""


def parse_command_line(
    config: str,
    rest: Sequence[str],
    *,
    arguments: Callable[..., Any],
    program: str,
    description: str,
    **settings: Any,
) -> CommandLine:
    """The command line of a program that takes a CONFIG, and whose options are its own and all fields of that.

    Args:
        config: see `find_config`.
        rest: what follows on the command line.
        arguments: class of the command's options, one of which is `experiment`.
        program: how the command was called, for messages.
        description: stands at the top of --help, with {name} and {description} for those of the config.
        settings: fields of the experiment that are otherwise than in the config unless the command line sets them.

    Raises:
        ValueError: there is no such config, it holds a class that cannot be imported by its name, an unknown field, or
            a value that does not fit.
        SystemExit: status 0, after --help.
    """
    path = find_config(config)
    default, described = load_config(path)
    refuse_unnamed(default)
    default = dataclasses.replace(default, **settings)
    name = config_name(path)
    chosen = override(
        arguments(experiment=default),
        rest,
        program=program,
        description=description.format(name=name, description=described),
    )
    return CommandLine(name, default, chosen)


def to_json(config: Any) -> Any:
    """A config as JSON values; where a field may hold one of several classes, `class` names the one it holds: a class
    that the field does not list as "module:Class".
    """
    if isinstance(config, Metric):
        return metric_to_json(config)
    if not dataclasses.is_dataclass(config):
        return list(map(to_json, config)) if isinstance(config, tuple) else config
    hints = typing.get_type_hints(type(config))
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values[field.name] = to_json(value)
        candidates = dataclasses_of(hints[field.name])
        if dataclasses.is_dataclass(value) and (len(candidates) > 1 or type(value) not in candidates):
            name = type(value).__name__ if type(value) in candidates else name_of_class(type(value))
            values[field.name] = {"class": name} | values[field.name]
    return values


def from_json(kind: Any, values: Any, *, trust: Trust = NOTHING) -> Any:
    """The config that `to_json` of this version, or of an earlier one with other names, gave.

    Args:
        kind: its class, or a union of classes.
        trust: which modules outside the package may be imported for classes that are named as "module:Class".

    Raises:
        ValueError: the values are not those of this version's config, or name a class that is not trusted.
    """
    return _from_json(kind, values, place="", trust=trust)


def _from_json(kind: Any, values: Any, *, place: str, trust: Trust) -> Any:
    """See from_json; `place` is the dotted name of the part."""
    where = place or "the experiment"
    if tuple[Metric, ...] in typing.get_args(kind) and isinstance(values, list):
        return tuple(map(metric_from_json, values))
    several = [inner for inner in map(inner_of_tuple, options(kind)) if inner is not None and dataclasses_of(inner)]
    if several and isinstance(values, list):
        return tuple(
            _from_json(several[0], value, place=f"{place}.{index}", trust=trust) for index, value in enumerate(values)
        )
    candidates = {candidate.__name__: candidate for candidate in dataclasses_of(kind)}
    if not candidates or (values is None and type(None) in typing.get_args(kind)):
        value = _tuples(values)
        check_value(value, kind, where)
        # JSON may have a number without a fraction as a whole one.
        return float(value) if type(value) is int and int not in options(kind) else value
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be the fields of {' or '.join(candidates)}, and is {values!r}.")
    values = dict(values)
    name = values.pop("class", next(iter(candidates)))
    if isinstance(name, str) and ":" in name:
        candidates[name] = load_config_class(name, place=where, trust=trust)
    if not isinstance(name, str) or name not in candidates:
        raise ValueError(f"a config of class {name!r} is not known to this version; known: {sorted(candidates)}.")
    values = current_fields(candidates[name], values)
    hints = typing.get_type_hints(candidates[name])
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(candidates[name])})
    if unknown:
        raise ValueError(f"{name} has no field {unknown[0]!r} in this version.")
    fields = {
        field: _from_json(hints[field], value, place=f"{place}.{field}".removeprefix("."), trust=trust)
        for field, value in values.items()
    }
    try:
        return candidates[name](**fields)
    except TypeError as error:
        raise ValueError(f"the values of {name} are not those of this version: {error}.") from error


def _tuples(values: Any) -> Any:
    """JSON lists as tuples, which configs have in their place."""
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


def flatten(config: Any) -> dict[str, Any]:
    """Dotted field names and values of a config, as JSON values; lists are values, but those of configs."""

    def walk(prefix, value):
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            value = {str(index): each for index, each in enumerate(value)}
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            yield prefix, value

    return dict(walk("", to_json(config)))


def differences(old: Experiment, new: Experiment, *, continuing: bool = False) -> dict[str, tuple[Any, Any]]:
    """Dotted names of fields that differ -> (old value, new value).

    Args:
        continuing: leave out what may change when a run is continued: what changes no number, more training.steps where
            the schedule does not depend on them, another way to write the origin's path, and a vocabulary whose size
            follows the data now: the run has its tokenizer. Fields that name the data change nothing: the fingerprint
            of its content must be the same.
    """
    before, after = flatten(old), flatten(new)
    changed = {
        name: (before.get(name), after.get(name)) for name in {**before, **after} if before.get(name) != after.get(name)
    }
    if continuing:
        effect = effects(old) | effects(new)
        allowed = {name for name in changed if effect[name] == "nothing"}
        if not any(optimizer.depends_on_last_step for optimizer in _optimizers(old)):
            allowed.add("training.steps")
        if _same_path(old.init_from, new.init_from):
            allowed.add("init_from")
        if new.tokenizer.vocabulary_size is None:
            allowed.add("tokenizer.vocabulary_size")
        changed = {name: values for name, values in changed.items() if name not in allowed}
    return changed


def _optimizers(config: Any) -> Iterator[OptimizerConfig]:
    """All that a config holds: the experiment's, and those of players."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, OptimizerConfig):
            yield value
        elif dataclasses.is_dataclass(value):
            yield from _optimizers(value)


def _same_path(old: str | None, new: str | None) -> bool:
    """Whether two paths, or two origins RUN:CHECKPOINT, are those of the same place."""
    return None not in (old, new) and _resolved(old) == _resolved(new)


def _resolved(path: str) -> str:
    """The path without its links, "." and "~", the best checkpoint of an origin left out as it may be."""
    found = [
        ("+".join(source.parts), os.path.realpath(user_path(source.place.removesuffix(":best"))))
        for source in sources_of(path)
    ]
    return ",".join(place if parts == ALL_PARTS else f"{parts}={place}" for parts, place in found)


def run_directory(name: str, default: Experiment, chosen: Experiment) -> Path:
    """runs/<config>/<overrides>/seed=N, the overrides in a form that a file name can hold.

    A path is written as from the current directory if it lies in that, otherwise from the root, so that all ways to
    write it are one run; but a run that was started under the path as it is given here continues there.
    """
    changed = {field: new for field, (_, new) in differences(default, chosen).items() if field != "training.seed"}
    as_given = _directory(name, changed, chosen.training.seed)
    if (as_given / "experiment.json").exists():
        return as_given
    before = flatten(default)
    for field in PATHS:
        if _same_path(before.get(field), changed.get(field)):
            del changed[field]
        elif changed.get(field) is not None:
            path, here = Path(_resolved(changed[field])), Path.cwd().resolve()
            changed[field] = path.relative_to(here) if path.is_relative_to(here) else path
    return _directory(name, changed, chosen.training.seed)


def _directory(name: str, changed: dict[str, Any], seed: int) -> Path:
    text = ",".join(f"{field}={re.sub(r'[^A-Za-z0-9._+-]+', '_', str(value))}" for field, value in changed.items())
    if len(text) > 120:
        text = f"{text[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Path("runs") / name / (text or "default") / f"seed={seed}"


def dump(experiment: Experiment) -> str:
    """JSON text of an experiment."""
    return json.dumps(to_json(experiment), indent=2)
