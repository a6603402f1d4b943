"""python -m studies.adversarial: what adversarial training gains, beside the controls that could gain as much."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.benchmark import report
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.metrics.oracle import OracleLikelihood
from seq2seq_jax.evaluation.significance import paired_bootstrap
from seq2seq_jax.generation.methods import Sampling
from seq2seq_jax.generation.sampling import Policy
from seq2seq_jax.modules.embedding import gather_scores
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.paths import user_path
from seq2seq_jax.run.inference import Inference
from studies.generated import opened, texts_of
from studies.jobs import Claim, Jobs, TrainingJobArguments, carry_out
from studies.quality_diversity import scores

PROGRAM = "python -m studies.adversarial"
DESCRIPTION = """\
Train in DIR what is compared, the most important first, and measure it. A run that was interrupted continues, one that
is finished is not trained again, so that the study can be stopped at any time and started again; several processes on
one DIR share the jobs, best one per core (taskset -c 0, taskset -c 1). --action table prints what there is, --action
list the jobs.

synthetic: texts of an oracle. Maximum likelihood for 33 epochs; from its last checkpoint SeqGAN with three seeds,
RelGAN, SeqGAN with the rewards of other samples, and more maximum likelihood; CoT and professor forcing from nothing;
of each the negative log-likelihood of its texts under the oracle against that of held-out texts under it, at eight
temperatures.

multi30k: from --start, adversarial training with teacher forcing, three seeds of it and of a constant reward; shuffled
rewards, BLEU in the reward, preference optimisation, self-play and more maximum likelihood; of each BLEU and chrF by
greedy and beam search, against more maximum likelihood and the constant reward of the same seed (paired bootstrap); 32
samples reranked by the discriminator; and 8 samples at each temperature.
"""
START, LIKELIHOOD, CONSTANT = "start", "more_likelihood", "adversarial_constant"
"""Names of what the runs on translation are compared with."""
SEARCHES = {"greedy": 1, "beam": 5}
"""Searches by which translations are scored, and their beams."""
RERANKED, SAMPLED = 32, 8
"""Samples of each source that are reranked, and whose diversity is measured."""
SAMPLING_TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0)
"""Of the samples whose diversity is measured."""
WATCHED = ("entropy", "ended_fraction", "distinct_2")
"""Of the records of training, what says whether a policy has collapsed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialArguments(TrainingJobArguments):
    """Command line of the study."""

    task: Literal["synthetic", "multi30k"] = "synthetic"
    """What is trained."""
    oracle: str | None = None
    """File of the oracle's arrays (synthetic); None = an oracle of its own."""
    data: str | None = None
    """Directory of the text (multi30k)."""
    start: str | None = None
    """Run that all start from (multi30k)."""
    texts: int = 10_000
    """Texts that are generated at each temperature (synthetic)."""
    temperatures: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    """Temperatures of the curves (synthetic)."""
    plot: str | None = None
    """PNG file for the curves (synthetic)."""
    json: str | None = None
    """File for all that was measured, as JSON."""

    def __post_init__(self):
        if self.task == "multi30k" and (self.data is None or self.start is None):
            raise ValueError(
                "--task multi30k needs --data, the directory of its text, and --start, a run to start from."
            )


class Synthetic(Jobs):
    """The runs on texts of an oracle."""

    def __init__(self, directory: Path, chosen: AdversarialArguments):
        super().__init__(directory)
        self.chosen = chosen
        oracle = () if chosen.oracle is None else ("--data.oracle", chosen.oracle)
        metric = ("--metrics", "oracle" if chosen.oracle is None else f"oracle,path={chosen.oracle}")
        base = (*oracle, *metric)
        first = self._train("maximum_likelihood", "synthetic/maximum_likelihood", base)
        start = (*base, "--init-from", f"{self.path(first)}:latest")
        self._train("seqgan_0", "synthetic/seqgan", start, first)
        self._train("cooperative", "synthetic/cooperative", base)
        self._train("relgan", "synthetic/relgan", start, first)
        for seed in (1, 2):
            self._train(f"seqgan_{seed}", "synthetic/seqgan", (*start, "--training.seed", str(seed)), first)
        self._train(LIKELIHOOD, "synthetic/maximum_likelihood", start, first)
        self._train("professor_forcing", "synthetic/professor_forcing", base)
        self._train("shuffled", "synthetic/seqgan", (*start, "--objective.reward_control", "shuffled"), first)

    def _train(self, name: str, config: str, options: Sequence[str], *needs: str) -> str:
        def work(claim: Claim) -> dict[str, Any]:
            claim.seq2seq("train", *training_arguments(claim, config, options, self.chosen))
            return measure_synthetic(claim.path, self.chosen)

        return self.add(name, work, *needs)

    def show(self) -> None:
        """Print the table of what is done, and draw it if --plot says where."""
        found = {name: result for name in self.jobs if (result := self.result(name)) is not None}
        report.output().print(table_of_synthetic(found), soft_wrap=True)
        if len(found) > 1:
            first, *others = found
            for name in others:
                words = lower_where(found[name]["best"]["curve"], found[first]["best"]["curve"])
                report.output().print(f"NLL_oracle of {name} against {first}: {words}.", soft_wrap=True)
            if self.chosen.plot is not None:
                picture(found).savefig(self.chosen.plot)
        report.write_json({"task": "synthetic", "runs": found}, self.chosen.json)


class Multi30k(Jobs):
    """The runs on translation, what they start from among them."""

    def __init__(self, directory: Path, chosen: AdversarialArguments):
        super().__init__(directory)
        self.chosen = chosen
        self.start = user_path(str(chosen.start))
        self.add(START, lambda claim: self._scored(claim, self.start))
        for name in ("adversarial_0", LIKELIHOOD, f"{CONSTANT}_0", "preference", "adversarial_bleu"):
            self._train(name)
        for seed, name in itertools.product((1, 2), ("adversarial", CONSTANT)):
            self._train(f"{name}_{seed}")
        self.add("rerank", self._rerank, "adversarial_0")
        for name in ("self_play", "leave_one_out", "adversarial_shuffled"):
            self._train(name)
        for name in (
            START,
            "adversarial_0",
            LIKELIHOOD,
            "preference",
            f"{CONSTANT}_0",
            "adversarial_bleu",
            "self_play",
        ):
            self.add(f"samples/{name}", lambda claim, name=name: self._sampled(claim, name), name)

    def _train(self, name: str) -> None:
        config, _, seed = name.rpartition("_")
        if not seed.isdigit():
            config, seed = name, "0"
        if config in (LIKELIHOOD, "leave_one_out"):
            config = f"transformer_small_{config}"
        options = ("--data.directory", str(self.chosen.data), "--init-from", str(self.start), "--training.seed", seed)

        def work(claim: Claim) -> dict[str, Any]:
            claim.seq2seq("train", *training_arguments(claim, f"multi30k/{config}", options, self.chosen))
            return self._scored(claim, claim.path) | {"records": last_of_records(claim.path)}

        self.add(name, work)

    def _scored(self, claim: Claim, run: Path) -> dict[str, Any]:
        """Scores of a run on the test split by greedy and by beam search; the outputs are kept."""
        found: dict[str, Any] = {}
        claim.path.mkdir(parents=True, exist_ok=True)
        for search, beam in SEARCHES.items():
            path = claim.path / f"{search}.json"
            claim.seq2seq(
                "evaluate", str(run), "--data.directory", str(self.chosen.data), "--generation.beam_size", str(beam),
                "--metrics", "bleu", "chrf", "--json", str(path), "--output", str(claim.path / f"{search}.txt"),
            )  # fmt: skip
            found[search] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _rerank(self, claim: Claim) -> dict[str, Any]:
        """BLEU of the first of the start's samples in the order of the likelihood alone, and with the discriminator;
        weights are tuned on the validation split.
        """
        claim.path.mkdir(parents=True, exist_ok=True)
        judge = f"discriminator,run={self.path('adversarial_0')}"
        sampling = ("--generation", "sampling", "--generation.samples", str(RERANKED), "--n", str(RERANKED))
        for split in ("val", TEST):
            source = str(self._text_file(split, "en"))
            lists, texts = (str(claim.path / f"{split}.{ending}") for ending in ("jsonl", "txt"))
            claim.seq2seq("generate", str(self.start), "--input", source, *sampling, "--json", lists, "--output", texts)
        found: dict[str, Any] = {}
        for name, features in (("log_probability", ()), ("with_discriminator", (judge,))):
            weights, output = claim.path / f"{name}.json", claim.path / f"{name}.txt"
            claim.seq2seq(
                "rerank", str(self.start), "--input", str(claim.path / "val.jsonl"), "--features", "log_probability",
                "length", *features, "--tune", str(self._text_file("val", "de")), "--json", str(weights),
            )  # fmt: skip
            claim.seq2seq(
                "rerank", str(self.start), "--input", str(claim.path / f"{TEST}.jsonl"), "--tuned", str(weights),
                "--output", str(output),
            )  # fmt: skip
            outputs = output.read_text(encoding="utf-8").split("\n")[:-1]
            found[name] = {
                score: metric.corpus(outputs, self._examples())[score].value
                for score, metric in (("bleu", Bleu()), ("chrf", ChrF()))
            }
        return found

    def _sampled(self, claim: Claim, name: str) -> dict[str, Any]:
        """How good and how different samples of a run are, at each temperature."""
        run = opened(
            str(self.start if name == START else self.path(name)),
            split="test", directory=self.chosen.data, precision=None,
        )  # fmt: skip
        examples = list(run.data.scored("test"))
        usual, curve = run.experiment.generation, []
        for temperature in SAMPLING_TEMPERATURES:
            method = Sampling(
                samples=SAMPLED,
                temperature=temperature,
                maximum_length_ratio=usual.maximum_length_ratio,
                maximum_length_extra=usual.maximum_length_extra,
                source_tokens_per_batch=usual.source_tokens_per_batch,
            )
            path = claim.path / f"temperature {temperature:g}.json"
            texts = texts_of(path, run, method, examples, split="test", family="sampling")
            curve.append({"temperature": temperature, **scores(texts, examples)})
        return {"curve": curve}

    def _text_file(self, split: str, language: str) -> Path:
        return find_file(str(self.chosen.data), f"{split}.{language}", split=split)

    def _examples(self) -> list[dict[str, str]]:
        sides = (read_lines(self._text_file(TEST, language)) for language in ("en", "de"))
        return [{"source": source, "target": target} for source, target in zip(*sides, strict=True)]

    def _compared(self, name: str, search: str) -> dict[str, float | None]:
        """P-values of BLEU against more maximum likelihood, and against the constant reward of the same seed."""
        seed = name.rpartition("_")[2]
        constant = f"{CONSTANT}_{seed if seed.isdigit() else 0}"
        found = {}
        for other in (LIKELIHOOD, constant):
            systems = {
                each: (self.path(each) / f"{search}.txt").read_text(encoding="utf-8").split("\n")[:-1]
                for each in (other, name)
                if self.result(each) is not None
            }
            if len(systems) == 2:
                found[other] = paired_bootstrap(systems, self._examples(), Bleu())[name].p_value
        return found

    def show(self) -> None:
        """Print the tables of what is done."""
        found = {name: result for name in self.jobs if (result := self.result(name)) is not None}
        trained = {name: result for name, result in found.items() if "greedy" in result}
        p_values = {name: {search: self._compared(name, search) for search in SEARCHES} for name in trained}
        report.output().print(table_of_translation(trained, p_values), soft_wrap=True)
        for name, values in found.get("rerank", {}).items():
            if name != "seconds":
                report.output().print(
                    f"{RERANKED} samples by {name}: BLEU {values['bleu']:.2f}, chrF {values['chrf']:.2f}"
                )
        curves = {name: result["curve"] for name, result in found.items() if "curve" in result}
        if curves:
            report.output().print(table_of_samples(curves), soft_wrap=True)
        report.write_json({"task": "multi30k", "jobs": found, "p_values": p_values}, self.chosen.json)


TASKS: dict[str, Callable[[Path, AdversarialArguments], Synthetic | Multi30k]] = {
    "synthetic": Synthetic,
    "multi30k": Multi30k,
}
TEST = "test_2016_flickr"


def training_arguments(claim: Claim, config: str, options: Sequence[str], chosen: AdversarialArguments) -> list[str]:
    """The command line of a training, whose run continues where it is there."""
    return [config, *options, *chosen.words_of(config), "--run-dir", str(claim.path)]


def last_of_records(run: Path) -> dict[str, float]:
    """What is watched, of the last record of training that has it."""
    found: dict[str, float] = {}
    for line in read_lines(run / "metrics.jsonl"):
        record = json.loads(line)
        found |= {name: record[name] for name in WATCHED if name in record}
    return found


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


def measure_synthetic(path: Path, chosen: AdversarialArguments) -> dict[str, Any]:
    """Of the best and of the last checkpoint of a run, at each temperature: NLL_oracle, NLL_test and distinct-2."""
    run = Inference.open(path)
    data = run.experiment.data
    run = run.with_parts(splits=["test"])
    held_out = [example["target"] for example in itertools.islice(run.data.scored("test"), chosen.texts)]
    judge = OracleLikelihood(path=data.oracle, seed=data.oracle_seed, num_tokens=data.num_tokens, length=data.length)
    found = {}
    for which in ("best", "latest"):
        params, step = run.parameters(which)
        curve = []
        for temperature in chosen.temperatures:
            method = dataclasses.replace(run.experiment.generation, temperature=temperature)
            drawn = run.system.generator_by(method).generate(params, ["."] * chosen.texts)
            values = judge.corpus([each[0].text for each in drawn], [{}] * len(drawn))
            curve.append(
                {
                    "temperature": temperature,
                    "nll_test": log_probabilities(run, params, held_out, temperature),
                    **{name: score.value for name, score in values.items()},
                }
            )
        found[which] = {"step": step, "curve": curve, "signature": values["oracle_nll"].signature}
    return found


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


def table_of_synthetic(found: Mapping[str, dict[str, Any]]) -> str:
    """What was measured at temperature 1, as Markdown."""
    lines = ["| run | checkpoint | step | NLL_oracle | NLL_test | distinct-2 |", "| --- | --- |" + " ---: |" * 4]
    for name, measured in found.items():
        for which in ("best", "latest"):
            values = measured[which]
            point = min(values["curve"], key=lambda each: abs(each["temperature"] - 1.0))
            lines.append(
                f"| {name} | {which} | {values['step']} | {point['oracle_nll']:.3f} | {point['nll_test']:.3f} | "
                f"{point['oracle_distinct_2'] / 100:.3f} |"
            )
    return "\n".join(lines) + "\n"


def table_of_translation(
    found: Mapping[str, dict[str, Any]], p_values: Mapping[str, Mapping[str, Mapping[str, float | None]]]
) -> str:
    """Scores by run, as Markdown; behind BLEU the p-values against more maximum likelihood and the constant reward."""
    lines = [
        "| run | greedy BLEU (p: more likelihood, constant reward) | greedy chrF | beam BLEU (p) | beam chrF | "
        "entropy | ended | distinct-2 |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, measured in found.items():
        cells = []
        for search in SEARCHES:
            p = [f"{value:.3f}" for value in p_values[name][search].values() if value is not None]
            cells.append(f"{measured[search]['bleu']:.2f}" + (f" ({', '.join(p)})" if p else ""))
            cells.append(f"{measured[search]['chrf']:.2f}")
        records = measured.get("records", {})
        cells += [f"{records[each]:.3f}" if each in records else "" for each in WATCHED]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_of_samples(curves: Mapping[str, Sequence[dict[str, float]]]) -> str:
    """BLEU of all samples and pairwise BLEU of those of a source, at each temperature, as Markdown."""
    temperatures = [point["temperature"] for point in next(iter(curves.values()))]
    lines = [
        f"| {SAMPLED} samples: BLEU, pairwise BLEU | {' | '.join(f'{each:g}' for each in temperatures)} |",
        "| --- |" + " ---: |" * len(temperatures),
    ]
    for name, curve in curves.items():
        cells = (f"{point['mean_bleu']:.2f}, {point['pairwise_bleu']:.2f}" for point in curve)
        lines.append(f"| {name.removeprefix('samples/')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Parse the command line, train and measure what is missing, print a table.

    Raises:
        ValueError: there is no directory, no such job, jobs failed, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(AdversarialArguments(), rest, program=f"{PROGRAM} DIR", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs one DIR, new or with a study to go on with. See {PROGRAM} --help.")
    study = TASKS[chosen.task](user_path(directories[0]), chosen)
    carry_out(study, chosen, study.show)


if __name__ == "__main__":
    report.run_script(main)
