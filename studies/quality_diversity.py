"""python -m studies.quality_diversity: how good and how different the texts of each method of generation are."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from seq2seq_jax.benchmark import report
from seq2seq_jax.evaluation.metric import Alternatives, Evaluated, Example, compute_scores
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.metrics.diversity import Diversity
from seq2seq_jax.evaluation.significance import paired_bootstrap
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.methods import (
    BeamSearch,
    DiverseBeamSearch,
    MinimumBayesRisk,
    Sampling,
    StochasticBeamSearch,
)
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.run.inference import Inference
from studies.generated import Texts, opened, texts_of
from studies.minimum_bayes_risk import Device

PROGRAM = "python -m studies.quality_diversity"
DESCRIPTION = """\
Generate texts for the sources of a split by many methods, with the best checkpoint of RUN: how good the first text, all
texts and the best text of a source are (BLEU, chrF), and how much they differ (pairwise BLEU, distinct bigrams). Each
method's texts are kept in a file of their own in --results, and a method that has one is not run again, so that a
study can be stopped and continued. Other programs may add files there (see `studies.generated.Texts`): the table and
the picture show them, too.
"""
Family = Literal["beam", "diverse", "stochastic", "sampling", "restricted", "mbr"]
BASELINE = "beam 5"
"""The method that the others are compared with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityDiversityArguments:
    """Command line of the study."""

    results: str = "quality_diversity"
    """Directory of the files of the methods' texts."""
    families: tuple[Family, ...] = ("beam", "diverse", "stochastic", "sampling", "restricted", "mbr")
    """Kinds of methods that are run; none = show what is in --results."""
    n: int = 8
    """Texts per source."""
    temperatures: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    """Of sampling."""
    groups: tuple[int, ...] = (8, 4)
    """Of diverse beam search with a beam of --n."""
    strengths: tuple[float, ...] = (0.2, 0.5, 1.0)
    """Of its penalty (generation.diversity)."""
    stochastic_temperatures: tuple[float, ...] = (1.0,)
    """Of stochastic beam search."""
    mbr_samples: tuple[int, ...] = (16, 64, 256)
    """Samples of minimum Bayes risk."""
    mbr_utilities: tuple[Literal["chrf", "bleu", "aggregated_chrf"], ...] = ("chrf", "aggregated_chrf")
    """Its utilities."""
    mbr_betas: tuple[float, ...] = (2.0,)
    """Weight of recall where the utility is chrF."""
    mbr_epsilons: tuple[float, ...] = (0.02,)
    """Probability that a token must have to be sampled for it."""
    mbr_temperatures: tuple[float, ...] = (1.0,)
    """Temperature of its samples."""
    split: str = "test"
    """Split that is generated for: validation for choosing settings, test for reporting them."""
    sentences: int | None = None
    """The first n sources of the split; None = all."""
    precision: Precision | None = None
    """Of the model; None = the run's."""
    directory: str | None = None
    """Directory of the data; None = the run's."""
    plot: str | None = None
    """PNG file for the picture."""
    markdown: str | None = None
    """File for the table, as Markdown."""
    json: str | None = None
    """File for all scores with their signatures, as JSON."""

    def __post_init__(self):
        if self.n < 2:
            raise ValueError(f"--n must be at least 2 texts per source, and is {self.n}.")
        for groups in self.groups:
            if self.n % groups:
                raise ValueError(f"--groups must divide --n, and {groups} does not divide {self.n}.")


def methods(chosen: QualityDiversityArguments, **limits: Any) -> Iterator[tuple[str, str, GenerationMethod]]:
    """Name, family and method of all that are compared.

    Args:
        limits: fields that all methods have, such as maximum_length_ratio.
    """
    n = chosen.n
    if "beam" in chosen.families:
        yield BASELINE, "beam", BeamSearch(beam_size=5, **limits)
        yield f"beam {n}, {n} best", "beam", BeamSearch(beam_size=n, n_best=n, **limits)
    if "diverse" in chosen.families:
        for groups, strength in itertools.product(chosen.groups, chosen.strengths):
            method = DiverseBeamSearch(beam_size=n, n_best=n, groups=groups, diversity=strength, **limits)
            yield f"diverse beam {n}, {groups} groups, λ {strength:g}", f"diverse beam, {groups} groups", method
    if "stochastic" in chosen.families:
        for temperature in chosen.stochastic_temperatures:
            method = StochasticBeamSearch(samples=n, temperature=temperature, **limits)
            yield f"stochastic beam, temperature {temperature:g}", "stochastic beam", method
    if "sampling" in chosen.families:
        for temperature in chosen.temperatures:
            method = Sampling(samples=n, temperature=temperature, **limits)
            yield f"sampling, temperature {temperature:g}", "sampling", method
    if "restricted" in chosen.families:
        yield "sampling, top-p 0.9", "top-p", Sampling(samples=n, top_p=0.9, **limits)
        yield "sampling, ε 0.02", "ε", Sampling(samples=n, epsilon=0.02, **limits)
    if "mbr" in chosen.families:
        utilities = [
            (utility, beta)
            for utility in chosen.mbr_utilities
            for beta in ((2.0,) if utility == "bleu" else chosen.mbr_betas)
        ]
        settings = itertools.product(utilities, chosen.mbr_epsilons, chosen.mbr_temperatures, chosen.mbr_samples)
        for (utility, beta), epsilon, temperature, samples in settings:
            method = MinimumBayesRisk(
                samples=samples,
                utility=utility,
                chrf_beta=beta,
                epsilon=epsilon,
                temperature=temperature,
                n_best=n,
                **limits,
            )
            family = f"MBR, {utility.replace('_', ' ')}{'' if beta == 2 else f', β {beta:g}'}"
            drawn = "" if epsilon == 0.02 and temperature == 1 else f", ε {epsilon:g}, temperature {temperature:g}"
            yield f"{family}, {samples} samples{drawn}", f"{family}{drawn}", method


def scores(texts: Texts, examples: Sequence[Example]) -> dict[str, Any]:
    """Scores of a method's texts, as JSON values: `bleu` and `chrf` of the first texts, and where there are several per
    source those of Diversity.
    """
    outputs = [each[0] if each else "" for each in texts.texts]
    alternatives = Alternatives(texts.texts, number=texts.n, method=texts.method)
    metrics = (Bleu(), ChrF(), Diversity()) if texts.n > 1 else (Bleu(), ChrF())
    found = compute_scores(metrics, Evaluated(outputs, examples, alternatives=alternatives))
    return {
        **{name: score.value for name, score in found.items()},
        "signatures": {name: score.signature for name, score in found.items()},
    }


def against_baseline(
    results: Mapping[str, Texts], examples: Sequence[Example]
) -> dict[str, dict[Literal["bleu", "chrf"], float | None]]:
    """P-values of each method's first texts against the baseline's by paired bootstrap; empty without a baseline."""
    if BASELINE not in results or len(results) < 2:
        return {}
    ordered = {BASELINE: results[BASELINE], **results}
    systems = {name: [each[0] if each else "" for each in texts.texts] for name, texts in ordered.items()}
    found = {"bleu": paired_bootstrap(systems, examples, Bleu()), "chrf": paired_bootstrap(systems, examples, ChrF())}
    return {name: {metric: of_all[name].p_value for metric, of_all in found.items()} for name in systems}


COLUMNS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "mean_bleu": "BLEU of all",
    "oracle_bleu": "BLEU of the best",
    "pairwise_bleu": "pairwise BLEU",
    "distinct_2": "distinct-2",
    "mean_length": "words",
}
"""Score -> its column of the table."""


def markdown(found: Mapping[str, dict[str, Any]]) -> str:
    """The table of `scores` by method, with p-values against the baseline in brackets, as Markdown."""
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for name, values in found.items():
        cells = []
        for column in COLUMNS:
            p_value = (values.get("p_values") or {}).get(column)
            better = "" if p_value is None else f" ({p_value:.3f})"
            cells.append(f"{values[column]:.2f}{better}" if column in values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(found: Mapping[str, dict[str, Any]]) -> Figure:
    """BLEU of all texts and of the best one over pairwise BLEU; a family is a line.

    Args:
        found: `scores` by method, with their `family`.
    """
    figure = Figure(figsize=(15, 5.4), dpi=100, layout="constrained")
    panels = {"mean_bleu": "BLEU of all texts", "oracle_bleu": "BLEU of the best text of each source"}
    families: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, values in found.items():
        if "pairwise_bleu" in values:
            families.setdefault(values["family"], []).append((name, values))
    for axes, (score, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        # Ten colours and eleven markers: no two of 110 families look alike.
        for (family, members), marker in zip(families.items(), itertools.cycle("osD^vP*Xd<>")):
            places = [values["pairwise_bleu"] for _, values in members]
            heights = [values[score] for _, values in members]
            axes.plot(places, heights, marker=marker, label=family)
            if len(members) > 1:
                for (name, _), place, height in zip(members, places, heights, strict=True):
                    label = name.rsplit(" ", 1)[-1] if not name.endswith("samples") else name.split()[-2]
                    axes.annotate(label, (place, height), (4, 4), textcoords="offset points", fontsize=7)
        axes.set_xlabel("pairwise BLEU of the texts of a source (less is more diverse)")
        axes.set_title(title)
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("BLEU (percent)")
    # Beside the panels, where it covers no point however many families there are.
    figure.legend(
        *figure.axes[1].get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False
    )
    return figure


def _choose(
    path: Path,
    run: Inference,
    method: MinimumBayesRisk,
    examples: Sequence[Example],
    *,
    split: str,
    family: str,
    drawn: int,
) -> None:
    """Write the file of minimum Bayes risk, unless it exists: the method's choice among the first of samples that are
    drawn once, `drawn` per source, for all numbers and utilities; what is drawn does not depend on the number.
    """
    if path.exists():
        return
    sampling = Sampling(
        samples=drawn,
        temperature=method.temperature,
        epsilon=method.epsilon,
        maximum_length_ratio=method.maximum_length_ratio,
        maximum_length_extra=method.maximum_length_extra,
        source_tokens_per_batch=min(method.source_tokens_per_batch, 16_384 // drawn),
    )
    name = f"ε {method.epsilon:g}, temperature {method.temperature:g}, {drawn} samples.json"
    found = texts_of(path.parent / "samples" / name, run, sampling, examples, split=split, family="samples")
    texts = [of_source[: method.samples] for of_source in found.texts]
    utilities = Device(run.tokenizer, texts, batch=8).utilities(method.utility, chrf_beta=method.chrf_beta)
    best = [best_texts(*pair, number=method.n_best) for pair in zip(texts, utilities.tolist(), strict=True)]
    Texts(
        method=method.described, n=method.n_best, texts=best, examples=len(examples), split=split, family=family
    ).write(path)  # fmt: skip


def best_texts(texts: Sequence[str], utilities: Sequence[float], *, number: int) -> list[str]:
    """The texts of the highest utilities, best first, of equal ones the earlier, each once."""
    ordered = sorted(range(len(texts)), key=lambda index: (-utilities[index], index))
    return list(dict.fromkeys(texts[index] for index in ordered))[:number]


def main(arguments: list[str]) -> None:
    """Parse the command line, generate what is missing, print a table.

    Raises:
        ValueError: the directory is not that of a run or has no such split, a file is of other examples, or a value
            does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(QualityDiversityArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of one RUN. See {PROGRAM} --help.")
    run = opened(directories[0], split=chosen.split, directory=chosen.directory, precision=chosen.precision)
    examples = list(itertools.islice(run.data.scored(chosen.split), chosen.sentences))
    results = Path(chosen.results)
    results.mkdir(parents=True, exist_ok=True)
    usual = run.experiment.generation
    limits = {
        name: getattr(usual, name)
        for name in ("maximum_length_ratio", "maximum_length_extra", "source_tokens_per_batch")
    }
    order = []
    for name, family, method in methods(chosen, **limits):
        path = results / f"{name}.json"
        order.append(path)
        if isinstance(method, MinimumBayesRisk):
            _choose(path, run, method, examples, split=chosen.split, family=family, drawn=max(chosen.mbr_samples))
        else:
            texts_of(path, run, method, examples, split=chosen.split, family=family)
    paths = [*order, *sorted(path for path in results.glob("*.json") if path not in order)]
    if not paths:
        raise ValueError(f"{results} has no file of a method, and --families names none. Name some.")
    found = {path.stem: Texts.read(path, examples, chosen.split) for path in paths}
    p_values = against_baseline(found, examples)
    figures = {
        name: {
            "method": texts.method,
            "family": texts.family,
            "n": texts.n,
            "seconds": texts.seconds,
            "environment": texts.environment,
            **scores(texts, examples),
            "p_values": p_values.get(name),
        }
        for name, texts in found.items()
    }
    table = markdown(figures)
    report.output().print(table, soft_wrap=True)
    report.write_json({"run": directories[0], "split": chosen.split, "methods": figures}, chosen.json)
    if chosen.markdown is not None:
        Path(chosen.markdown).write_text(table, encoding="utf-8")
    if chosen.plot is not None:
        picture(figures).savefig(chosen.plot)


if __name__ == "__main__":
    report.run_script(main)
