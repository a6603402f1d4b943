"""python -m studies.adversarial: what adversarial training gains, beside the controls that could gain as much."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.benchmark import report
from seq2seq_jax.evaluation.metrics.oracle import OracleLikelihood
from seq2seq_jax.files import write_whole
from seq2seq_jax.generation.sampling import Policy
from seq2seq_jax.modules.embedding import gather_scores
from seq2seq_jax.overrides import override
from seq2seq_jax.run.inference import Inference

PROGRAM = "python -m studies.adversarial"
DESCRIPTION = """\
Train what is compared, one run after the other, each in a directory of its own in --results, and measure it. A run that
was interrupted continues, one that is finished is not trained again, and what was measured of it is kept in a file, so
that the study can be stopped at any time and started again. --only names runs by how their names begin.

synthetic: texts of an oracle. Maximum likelihood for 33 epochs; from its last checkpoint SeqGAN with three seeds,
RelGAN, SeqGAN with the rewards of other samples, and more maximum likelihood; CoT from nothing; of each the negative
log-likelihood of its texts under the oracle against that of held-out texts under it, at eight temperatures. multi30k:
from --start, adversarial training with teacher forcing, three seeds of it and of a constant reward; shuffled rewards,
BLEU in the reward, preference optimisation, self-play and more maximum likelihood; of each BLEU and chrF by greedy and
beam search.
"""
YIELD = "19"
"""What processes are started with as their priority."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialArguments:
    """Command line of the study."""

    task: Literal["synthetic", "multi30k"] = "synthetic"
    """What is trained."""
    results: str = "adversarial"
    """Directory of the runs and of what was measured."""
    only: tuple[str, ...] = ()
    """Runs, by the beginnings of their names; none = all."""
    oracle: str | None = None
    """File of the oracle's arrays (synthetic); None = an oracle of its own."""
    directory: str | None = None
    """Directory of the text (multi30k)."""
    start: str | None = None
    """Run that all start from (multi30k)."""
    texts: int = 10_000
    """Texts that are generated at each temperature (synthetic)."""
    temperatures: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    """Temperatures of the curves (synthetic)."""
    train: bool = True
    """Whether runs are trained; otherwise those that are there are measured."""
    options: tuple[str, ...] = ()
    """Further options of every training, such as --options=--training.steps=100."""
    plot: str | None = None
    """PNG file for the curves (synthetic)."""
    json: str | None = None
    """File for all that was measured, as JSON."""

    def __post_init__(self):
        if self.task == "multi30k" and (self.directory is None or self.start is None):
            raise ValueError("--task multi30k needs --directory, that of its text, and --start, the run to start from.")


class Run(NamedTuple):
    """A run of the study."""

    name: str
    config: str
    options: tuple[str, ...] = ()


def synthetic(chosen: AdversarialArguments) -> Iterator[Run]:
    """The runs on texts of an oracle."""
    oracle = () if chosen.oracle is None else ("--data.oracle", chosen.oracle)
    metric = ("--metrics", "oracle" if chosen.oracle is None else f"oracle,path={chosen.oracle}")
    first = "maximum_likelihood"
    yield Run(first, "synthetic/maximum_likelihood", (*oracle, *metric))
    start = (*oracle, *metric, "--init-from", f"{Path(chosen.results) / first}:latest")
    for seed in range(3):
        yield Run(f"seqgan_{seed}", "synthetic/seqgan", (*start, "--training.seed", str(seed)))
    yield Run("cooperative", "synthetic/cooperative", (*oracle, *metric))
    yield Run("relgan", "synthetic/relgan", start)
    yield Run("shuffled", "synthetic/seqgan", (*start, "--objective.reward_control", "shuffled"))
    yield Run("more_likelihood", "synthetic/maximum_likelihood", start)


def multi30k(chosen: AdversarialArguments) -> Iterator[Run]:
    """The runs on translation."""
    base = ("--data.directory", str(chosen.directory), "--init-from", str(chosen.start))
    for name in ("adversarial", "adversarial_constant"):
        for seed in range(3):
            yield Run(f"{name}_{seed}", f"multi30k/{name}", (*base, "--training.seed", str(seed)))
    for name in ("adversarial_shuffled", "adversarial_bleu", "preference", "self_play"):
        yield Run(name, f"multi30k/{name}", base)
    yield Run("leave_one_out", "multi30k/transformer_small_leave_one_out", base)
    more = ("--optimizer.learning_rate", "2e-4", "--optimizer.warmup_steps", "20", "--optimizer.final_fraction", "0")
    steps = ("--optimizer.ema_decay", "0.99", "--training.steps", "2500", "--training.evaluate_every", "625")
    yield Run("more_likelihood", "multi30k/transformer_small", (*base, *more, *steps))


RUNS: dict[str, Callable[[AdversarialArguments], Iterator[Run]]] = {"synthetic": synthetic, "multi30k": multi30k}


def command(run: Run, chosen: AdversarialArguments) -> list[str]:
    """The training of a run, without the program: a run that is there continues."""
    directory = str(Path(chosen.results) / run.name)
    return ["train", run.config, *run.options, *chosen.options, "--run-dir", directory]


def call(arguments: Sequence[str]) -> None:
    """Run `seq2seq` at the lowest priority.

    Raises:
        ValueError: it fails.
    """
    done = subprocess.run(["nice", "-n", YIELD, sys.executable, "-m", "seq2seq_jax", *arguments], check=False)
    if done.returncode:
        raise ValueError(f"seq2seq {' '.join(arguments)} ended with status {done.returncode}: see its message above.")


def log_probabilities(run: Inference, params: Any, texts: Sequence[str], temperature: float) -> float:
    """Negative log-likelihood of texts under the policy softmax(logits / temperature), nats per token, the EOS tokens
    left out, which texts of one length have for certain.
    """
    tokenizer, model = run.tokenizer, run.system.model
    ids = np.array([each[:-1] for each in tokenizer.encode_target(list(texts))])
    (source,) = tokenizer.encode_source(["."])
    policy = Policy(vocabulary=tokenizer.vocabulary, temperature=temperature, minimum_length=ids.shape[1])

    def rows(tokens):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        ones = jnp.ones(tokens.shape, jnp.int32)
        return TokenRows(tokens=tokens, segment_ids=ones, positions=positions, max_segments=1)

    @jax.jit
    def total(params, tokens):
        batch = Batch(source=rows(jnp.tile(jnp.asarray(source), (len(tokens), 1))), target=rows(tokens))
        found = policy.log_probabilities(model.apply({"params": params}, batch), batch.target.positions)
        return jnp.sum(gather_scores(found, tokens))

    parts = max(len(ids) // 200, 1)
    kept = ids[: len(ids) // parts * parts]
    sums = [float(total(params, jnp.asarray(part))) for part in np.split(kept, parts)]
    return -sum(sums) / kept.size


def measure_synthetic(run: Run, chosen: AdversarialArguments) -> dict[str, Any]:
    """Of the best and of the last checkpoint, at each temperature: NLL_oracle, NLL_test and distinct-2."""
    opened = Inference.open(Path(chosen.results) / run.name)
    data = opened.experiment.data
    opened = opened.with_parts(splits=["test"])
    held_out = [example["target"] for example in itertools.islice(opened.data.scored("test"), chosen.texts)]
    judge = OracleLikelihood(path=data.oracle, seed=data.oracle_seed, num_tokens=data.num_tokens, length=data.length)
    found = {}
    for which in ("best", "latest"):
        params, step = opened.parameters(which)
        curve = []
        for temperature in chosen.temperatures:
            method = dataclasses.replace(opened.experiment.generation, temperature=temperature)
            drawn = opened.system.generator_by(method).generate(params, ["."] * chosen.texts)
            scores = judge.corpus([each[0].text for each in drawn], [{}] * len(drawn))
            curve.append(
                {
                    "temperature": temperature,
                    "nll_test": log_probabilities(opened, params, held_out, temperature),
                    **{name: score.value for name, score in scores.items()},
                }
            )
        found[which] = {"step": step, "curve": curve, "signature": scores["oracle_nll"].signature}
    return found


def measure_multi30k(run: Run, chosen: AdversarialArguments) -> dict[str, Any]:
    """Scores on the test split by greedy and by beam search; the outputs are kept beside them, for tests of
    significance by `sacrebleu --paired-bs`.
    """
    directory, found = Path(chosen.results) / run.name, {}
    for name, beam in (("greedy", 1), ("beam", 5)):
        path = directory / f"{name}.json"
        options = ["--generation.beam_size", str(beam), "--json", str(path), "--output", str(directory / f"{name}.de")]
        call(["evaluate", str(directory), *options])
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


MEASURES = {"synthetic": measure_synthetic, "multi30k": measure_multi30k}


def lower_where(curve: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> str:
    """Where the first curve of NLL_oracle over NLL_test lies below the second, in words.

    At each NLL_test that both reach, the values between points of a curve are those of the line between them.
    """
    lines = []
    for points in (curve, other):
        ordered = sorted((point["nll_test"], point["oracle_nll"]) for point in points)
        lines.append(tuple(np.array(each) for each in zip(*ordered, strict=True)))
    low, high = max(line[0][0] for line in lines), min(line[0][-1] for line in lines)
    if low > high:
        return "the curves have no NLL_test in common"
    grid = np.linspace(low, high, 50)
    difference = np.interp(grid, *lines[0]) - np.interp(grid, *lines[1])
    share = float(np.mean(difference < 0))
    words = "everywhere" if share == 1.0 else "nowhere" if share == 0.0 else f"on {share:.0%} of the range"
    return f"lower {words} for NLL_test from {low:.2f} to {high:.2f}, by {-difference.mean():.3f} on average"


def picture(found: dict[str, Any]) -> Figure:
    """NLL_oracle over NLL_test of every run, a point for each temperature."""
    figure = Figure(figsize=(8, 6), dpi=100, layout="constrained")
    axes = figure.subplots()
    for (name, measured), marker in zip(found.items(), itertools.cycle("osD^vP*X")):
        for which, style in (("best", "-"), ("latest", "--")):
            points = measured[which]["curve"]
            places, heights = ([point[score] for point in points] for score in ("nll_test", "oracle_nll"))
            axes.plot(places, heights, style, marker=marker, label=f"{name}, {which}")
    axes.set_xlabel("NLL_test: held-out texts under the model (nats per token; less is more diverse)")
    axes.set_ylabel("NLL_oracle: texts of the model under the oracle (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    return figure


def table(chosen: AdversarialArguments, found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    if chosen.task == "synthetic":
        lines = ["| run | checkpoint | step | NLL_oracle | NLL_test | distinct-2 |", "| --- | --- |" + " ---: |" * 4]
        for name, measured in found.items():
            for which, values in measured.items():
                point = min(values["curve"], key=lambda each: abs(each["temperature"] - 1.0))
                lines.append(
                    f"| {name} | {which} | {values['step']} | {point['oracle_nll']:.3f} | {point['nll_test']:.3f} | "
                    f"{point['oracle_distinct_2'] / 100:.3f} |"
                )
        return "\n".join(lines) + "\n"
    lines = ["| run | greedy BLEU | greedy chrF | beam BLEU | beam chrF |", "| --- |" + " ---: |" * 4]
    for name, measured in found.items():
        cells = [measured[search][metric] for search in ("greedy", "beam") for metric in ("bleu", "chrf")]
        lines.append(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Parse the command line, train and measure what is missing, print a table.

    Raises:
        ValueError: a training fails, or a value does not fit.
    """
    chosen = override(AdversarialArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    runs = [
        run for run in RUNS[chosen.task](chosen) if not chosen.only or any(run.name.startswith(n) for n in chosen.only)
    ]
    if not runs:
        names = ", ".join(run.name for run in RUNS[chosen.task](chosen))
        raise ValueError(f"--only names none of the runs of {chosen.task}: {names}.")
    found = {}
    for run in runs:
        directory = Path(chosen.results) / run.name
        path = directory / "measured.json"
        if not path.is_file():
            if chosen.train:
                call(command(run, chosen))
            if not (directory / "experiment.json").is_file():
                continue
            write_whole(path, json.dumps(MEASURES[chosen.task](run, chosen), indent=1) + "\n")
        found[run.name] = json.loads(path.read_text(encoding="utf-8"))
    report.output().print(table(chosen, found), soft_wrap=True)
    if chosen.task == "synthetic" and len(found) > 1:
        first, *others = found
        for name in others:
            words = lower_where(found[name]["best"]["curve"], found[first]["best"]["curve"])
            report.output().print(f"NLL_oracle of {name} against {first}: {words}.", soft_wrap=True)
        if chosen.plot is not None:
            picture(found).savefig(chosen.plot)
    report.write_json({"task": chosen.task, "runs": found}, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
