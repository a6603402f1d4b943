"""The options of commands that take a CONFIG, beside its fields. Imports nothing heavy: a mistake is reported at
once.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from seq2seq_jax.benchmark import MIN_ROUNDS
from seq2seq_jax.commands.console import split_first
from seq2seq_jax.compilation import StepName
from seq2seq_jax.data.cleaning import CleaningRules
from seq2seq_jax.overrides import override
from seq2seq_jax.parallel.placement import ProcessesConfig
from seq2seq_jax.training.writers import WriterName, check_installed

if TYPE_CHECKING:
    from seq2seq_jax.experiment import CommandLine, Experiment

Part = Literal["training", "generation", "input"]

OF_CONFIG = "Values are those of {name}:\n\n{description}\n"
OF_NO_CONFIG = (
    "Every field of the experiment is an option, too: the same with a CONFIG, such as dates/transformer, lists them."
)


class Options:
    """What `parse` adds to the options of a command."""

    if TYPE_CHECKING:
        experiment: "Experiment"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Options of `seq2seq train`."""

    run_dir: str | None = None
    """Directory of the run, new or to be continued; None = runs/CONFIG/OVERRIDES/seed=N."""
    json: str | None = None
    """File for the metrics of the table at the end, as JSON."""
    processes: ProcessesConfig = ProcessesConfig()
    """The processes that train together."""
    writers: tuple[WriterName, ...] = ("tensorboard",)
    """Where records go beside metrics.jsonl: tensorboard, wandb (Weights & Biases) and mlflow, as many as are given."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where the run of --init-from names classes
    in them; True = all. Those of CONFIG's own classes may be."""
    loss_scale: Literal["linear", "log"] = "linear"
    """Scale of the losses in the picture of the learning curves."""
    compilation_cache: bool = True
    """Keep compiled programs below the user's cache directory for the next time, unless JAX has a directory of its
    own."""

    def __post_init__(self):
        if len(set(self.writers)) < len(self.writers):
            raise ValueError(f"--writers names one twice: {' '.join(self.writers)}. Name each once.")
        check_installed(self.writers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(Options):
    """Options of `seq2seq benchmark`."""

    parts: tuple[Part, ...] = ("training", "generation", "input")
    """What is measured."""
    rounds: int = 9
    """Turns that each program has (5 at least)."""
    steps: int = 2
    """Training steps in a turn, one after the other as training does."""
    batch_sizes: tuple[int, ...] = (1, 32, 256)
    """Sentences of the batches that are generated from."""
    input_batches: int = 20
    """Batches of the input pipeline in a turn."""
    synthetic: bool = False
    """Train on full rows of random tokens, one pair per row, instead of the data, which need not be there."""
    profile: str | None = None
    """Directory for a trace of a few training steps, or of the largest batch of generation where no training is
    measured; its operations are shown by time. Without a directory after it: profile."""
    json: str | None = None
    """File for all measurements, with environment, versions, config and what was changed of it."""
    sweep: tuple[str, ...] = ()
    """Measure training for several values of any field: FIELD=VALUE,VALUE,...; FIELD+FIELD=VALUE,... for fields of one
    value; further such arguments change together with the first."""
    plot: str = "sweep.png"
    """File for the picture of a sweep, PNG."""
    compare: str | None = None
    """File of an earlier --json: what moved beyond noise is named."""

    def __post_init__(self):
        if self.rounds < MIN_ROUNDS:
            raise ValueError(f"--rounds must be at least {MIN_ROUNDS}, not {self.rounds}.")
        for name in ("steps", "input_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        if not self.parts or not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError("--parts and --batch_sizes need at least one value, and sizes are at least 1.")
        if self.sweep and "training" not in self.parts:
            raise ValueError("--sweep measures training, which --parts leaves out. Leave out either.")
        if self.sweep and self.profile is not None:
            raise ValueError("--profile has no effect with --sweep. Profile one of its values: --FIELD VALUE.")
        if self.profile is not None and set(self.parts) == {"input"}:
            raise ValueError("--profile traces training or generation, and --parts has neither. Add one of them.")
        if self.synthetic and set(self.parts) == {"input"}:
            raise ValueError("--synthetic has no input pipeline to measure. Leave it out, or choose other --parts.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileOptions(Options):
    """Options of `seq2seq compile`."""

    topology: str | None = None
    """Chips and how they lie, such as v5e:16x16, v5p:8x8x16, v6e:4x4 or h100:8; required."""
    steps: tuple[StepName, ...] = ("train",)
    """Steps to compile: an update by the config's objective, one with policy gradients, a batch of generation."""
    sweep: tuple[str, ...] = ()
    """Meshes to compare instead of the config's, each as its sizes along data, fsdp, tensor and sequence, such as
    1x256x4; those that are left out are 1."""
    json: str | None = None
    """File for all measurements, as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Options of `seq2seq data`."""

    rows: int = 2
    """Rows of the first training batch that are shown, as tokens with | between examples."""
    batches: int = 20
    """Training batches, from the first, in which padding is counted."""
    plot: str | None = "lengths.png"
    """File for the picture of the lengths, PNG; None = none."""
    json: str | None = None
    """File for the same as JSON."""

    def __post_init__(self):
        if self.rows < 0:
            raise ValueError(f"--rows must be at least 0, not {self.rows}.")
        if self.batches < 1:
            raise ValueError(f"--batches must be at least 1, not {self.batches}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterOptions(Options):
    """Options of `seq2seq filter`."""

    output: str | None = None
    """New directory for the pairs that are kept (corpus.jsonl.gz), those that are not, and the report; required."""
    rules: CleaningRules = CleaningRules()
    """What a pair must be like."""
    forward: str | None = None
    """Directory of a run from source to target: pairs are judged by dual cross-entropy, too, with --backward."""
    backward: str | None = None
    """Directory of a run from target to source."""
    max_dual_cross_entropy: float = 6.0
    """Largest dual cross-entropy of a pair that is kept: how much both runs differ, and how improbable they find it
    (nats per token; Junczys-Dowmunt 2018)."""
    examples: int = 3
    """Examples of each rule in the report."""

    def __post_init__(self):
        if (self.forward is None) != (self.backward is None):
            raise ValueError("--forward and --backward go together: runs of both directions. Give both, or none.")
        default = FilterOptions.max_dual_cross_entropy
        if self.forward is None and self.max_dual_cross_entropy != default:
            raise ValueError(
                "--max-dual-cross-entropy has no effect without --forward and --backward: give both, or leave it out."
            )
        if self.examples < 0:
            raise ValueError(f"--examples must be at least 0, not {self.examples}.")


class Command(NamedTuple):
    """A command that takes a CONFIG."""

    options: type
    """Its own options, a dataclass."""
    description: str
    """What it does."""
    settings: Mapping[str, Any] = {}
    """Fields of the experiment that are otherwise than in the config unless the command line sets them."""


COMMANDS = {
    "train": Command(
        TrainOptions,
        "Train the experiment of CONFIG, or continue it where its run directory ends. CONFIG is a Python file, or "
        "the name of one below configs/, such as dates/transformer.",
    ),
    "data": Command(
        DataOptions,
        "Show what a training of CONFIG sees of its data: lengths of its columns, what its limits leave out or cut, "
        "padding, how much of the vocabulary occurs, and some rows. The tokenizer is trained, and token ids are "
        "stored, as a training does, which finds them there.",
    ),
    "filter": Command(
        FilterOptions,
        "Leave out of the training pairs of CONFIG those that break rules: lengths, copies, numbers that do not match, "
        "other scripts and languages, duplicates, and, with two runs, pairs that the models of both directions find "
        "improbable. What is kept is a table: seq2seq train own_table/transformer --data.train corpus.jsonl.gz.",
    ),
    "benchmark": Command(
        BenchmarkOptions,
        "Measure the experiment of CONFIG on this machine: training steps by its own objective on its own data, "
        "generation greedily and with its beam, and the input pipeline alone; each after a warm-up, as the median "
        "and quartiles of several turns, with compilation apart. Parameters are new ones unless --init-from names a "
        "run: init_from of the config does not count here. New parameters hardly ever end a text, so the lengths of "
        "their texts are limited to those of the references. seq2seq benchmark --peers [options] compares with other"
        " libraries instead (see seq2seq benchmark --peers --help).",
        {"init_from": None},
    ),
    "compile": Command(
        CompileOptions,
        "Compile the steps of CONFIG for a topology that need not be there, and say what each chip would hold, "
        "compute and exchange, with an estimate of time from the chip's published rates. It is the real compiler: for "
        "TPUs through libtpu, for GPUs through jax's CUDA plugin, or without the plugin a simulation on the CPU. "
        "Neither data nor a tokenizer is needed.",
    ),
}


def with_experiment(options: type[Options]) -> Any:
    """The options with a field `experiment`, whose fields are options of the command line, too."""
    import tyro

    from seq2seq_jax.experiment import Experiment

    field = ("experiment", Annotated[Experiment, tyro.conf.arg(name="")])
    return dataclasses.make_dataclass(options.__name__, [field], bases=(options,), frozen=True, kw_only=True)


def parse(command: str, arguments: list[str]) -> "CommandLine":
    """What a command line with a CONFIG says: its name, its experiment, and the options with the experiment among them.

    Raises:
        ValueError: there is no CONFIG or no such one, an unknown field, or a value that does not fit.
        SystemExit: status 0, after --help.
    """
    config, rest = split_first(arguments, name="a CONFIG", command=command)
    options, description, settings = COMMANDS[command]
    program = f"seq2seq {command} CONFIG"
    if config is None:
        override(options(), ["--help"], program=program, description=f"{description} {OF_NO_CONFIG}")
    from seq2seq_jax.experiment import parse_command_line

    return parse_command_line(
        config,
        with_profile_directory(rest),
        arguments=with_experiment(options),
        program=program,
        description=f"{description} {OF_CONFIG}",
        **settings,
    )


def with_profile_directory(arguments: list[str]) -> list[str]:
    """The same arguments, with the usual directory where --profile is given alone."""
    given = []
    for argument, following in itertools.pairwise([*arguments, "--"]):
        given += [argument, "profile"] if argument == "--profile" and following.startswith("--") else [argument]
    return given
