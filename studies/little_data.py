"""python -m studies.little_data: what helps with 5,000 pairs of Multi30k and 24,000 German sentences, run by run."""

import dataclasses
import fnmatch
import gzip
import hashlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from seq2seq_jax.benchmark import report
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.significance import paired_bootstrap
from seq2seq_jax.files import write_whole
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.paths import user_path

PROGRAM = "python -m studies.little_data"
DESCRIPTION = """\
Train all systems of the study in DIR, one after the other, and print the table: 5,000 pairs of Multi30k, drawn by
seed, with 24,000 German sentences (the targets of the others); the same with all 29,000; four directions in one model;
and the best recipe. A system that is finished is not trained again, and one that was killed continues: the same command
continues until all is done. --action table prints what there is, --action list the jobs.
"""

PAIRS, ALL_PAIRS = 5_000, 29_000
TEST = "test_2016_flickr"
NEVER_TRAINED = ("de", "fr")
"""The direction of zero shot."""
REAL_WEIGHT = 4.0
"""Copies of the 5,000 pairs per epoch beside the 24,000 synthetic ones."""
NOTICEABLE_GAIN = 0.3
"""BLEU (validation, first seed) from which on a method is part of the best together."""

TUNED: dict[str, tuple[str, ...]] = {
    f"vocabulary {size:,}, dropout {dropout}": (
        "--tokenizer.vocabulary_size", str(size),
        "--model.encoder.dropout", str(dropout), "--model.decoder.dropout", str(dropout),
    )
    for size, dropout in itertools.product((2_000, 4_000), (0.3, 0.5))
}  # fmt: skip
"""Settings that the baseline is chosen from, by validation BLEU with the first seed."""

METHODS: dict[str, tuple[str, ...]] = {
    "r_drop": ("--objective.r_drop_weight", "3"),
    "bpe_dropout": ("--data.augmentation.bpe_dropout", "0.1"),
    "word_noise": ("--data.augmentation.source.word_drop", "0.1", "--data.augmentation.source.word_replace", "0.1"),
    "fgm": ("--objective.perturbation", "fgm", "--objective.perturbation.radius", "1"),
}
"""Name -> options."""
BACK_TRANSLATIONS = ("bt_beam", "bt_sampling", "bt_beam_tagged", "bt_sampling_tagged")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LittleDataArguments:
    """Command line of the study."""

    data: str = "data/multi30k"
    """Directory with {train,val,test_2016_flickr}.{en,de,fr}, plain or gzipped."""
    steps: int = 1_400
    """Steps of a run on 5,000 pairs, and of its controls: 10 minutes on 2 cores, 20 where all is computed twice."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the baseline, back-translation, R-Drop, the best together and all pairs; others have the first one."""
    only: tuple[str, ...] = ()
    """Patterns of the names of jobs, such as bt_* or */seed=0, that are done now with what they need; empty = all."""
    action: Literal["train", "list", "table"] = "train"
    """Do the jobs and print the table; or print the jobs and which are done; or the table of what is done."""
    options: tuple[str, ...] = ()
    """Further options of every training, such as model.precision=float32."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A part of the study.

    Attributes:
        name: of the job, and of its directory below runs.
        needs: names of jobs that come first.
        work: does it, given its directory, and returns what is kept of it as JSON values.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[Path], dict[str, Any]]


class Study:
    """All jobs, in an order in which each comes after those that it needs."""

    def __init__(self, directory: Path, chosen: LittleDataArguments):
        self.directory = directory
        self.chosen = chosen
        self.jobs: dict[str, Job] = {}
        self._define()

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished job has kept; None = it is not finished."""
        path = self.directory / "done" / f"{name.replace('/', ',')}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def do(self, name: str) -> None:
        """Do a job and all that it needs, unless they are done."""
        if self.result(name) is not None:
            return
        job = self.jobs[name]
        for needed in job.needs:
            self.do(needed)
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        started = time.monotonic()
        path = self.directory / "runs" / name
        found = job.work(path) | {"seconds": round(time.monotonic() - started)}
        (self.directory / "done").mkdir(parents=True, exist_ok=True)
        write_whole(self.directory / "done" / f"{name.replace('/', ',')}.json", json.dumps(found, indent=1) + "\n")

    def _add(self, name: str, work: Callable[[Path], dict[str, Any]], *needs: str) -> str:
        self.jobs[name] = Job(name, needs, work)
        return name

    def _define(self) -> None:
        steps, (first, *_) = self.chosen.steps, self.chosen.seeds
        for seed in self.chosen.seeds:
            self._add(f"data/seed={seed}", lambda path, seed=seed: subset(user_path(self.chosen.data), path, seed))
        for index, options in enumerate(TUNED.values()):
            self._train_little(f"tuning/{index}", first, options)
        self._add("tuned", self._tuned, *(f"tuning/{index}/seed={first}" for index in range(len(TUNED))))
        for seed in self.chosen.seeds:
            self._train_little("baseline", seed)
            self._train_little("reverse", seed, ("--data.source", "de", "--data.target", "en"))
            for kind in ("beam", "sampling"):
                reverse = f"reverse/seed={seed}"
                self._add(
                    f"{kind}/seed={seed}", lambda path, seed=seed, kind=kind: self._translate(path, seed, kind), reverse
                )
                for suffix, tag in (("", "None"), ("_tagged", "<bt>")):
                    self._train_mixture(f"bt_{kind}{suffix}", seed, f"{kind}/seed={seed}", tag)
            self._train_little("r_drop", seed, METHODS["r_drop"])
            self._train(f"all_pairs/seed={seed}", "multi30k/transformer_small", self._all, seed, steps)
        for name in METHODS:
            if name != "r_drop":
                self._train_little(name, first, METHODS[name])
        self._add(f"empty/seed={first}", lambda path: self._empty(path, first), f"data/seed={first}")
        self._train_mixture("empty_source", first, f"empty/seed={first}", "<bt>")
        chosen_from = [f"{name}/seed={first}" for name in ("baseline", *BACK_TRANSLATIONS, *METHODS)]
        self._add("best", self._best, *chosen_from)
        for seed in self.chosen.seeds:
            self._add(
                f"best_together/seed={seed}", lambda path, seed=seed: self._best_together(path, seed),
                "best", *(f"{kind}/seed={seed}" for kind in ("beam", "sampling")),
            )  # fmt: skip
        self._define_multilingual(first)
        # As the configs have it: 5,600 steps, and those of policy gradients; and what the time of R-Drop gives without.
        recipe = self._train(f"recipe/seed={first}", "multi30k/transformer_small_r_drop", self._all, first, None, ())
        self._train(f"all_pairs_twice/seed={first}", "multi30k/transformer_small", self._all, first, 11_200)
        self._train(
            f"recipe_policy_gradient/seed={first}", "multi30k/transformer_small_self_critical", self._all, first, None,
            ("--init-from", str(self.directory / "runs" / recipe)), recipe,
        )  # fmt: skip

    def _define_multilingual(self, seed: int) -> None:
        """One model of four directions with the steps of four models of one each."""
        steps, directory = 2 * self.chosen.steps, str(user_path(self.chosen.data))
        for source, target in (("en", "de"), ("en", "fr"), ("de", "en"), ("fr", "en")):
            options = ("--data.source", source, "--data.target", target)
            self._train(f"{source}_{target}/seed={seed}", "multi30k/transformer_small", self._all, seed, steps, options)
        options = tuple(
            itertools.chain.from_iterable((f"--data.parts.{part}.source.directory", directory) for part in range(4))
        )
        name = f"multilingual/seed={seed}"
        self._add(
            name,
            lambda path: (
                self._trained(path, "multi30k/multilingual", seed, 4 * steps, options)
                | {"by_direction": directions(path, user_path(self.chosen.data))}
            ),
        )

    @property
    def _all(self) -> tuple[str, ...]:
        return ("--data.directory", str(user_path(self.chosen.data)))

    def _little(self, seed: int) -> str:
        return str(self.directory / "runs" / f"data/seed={seed}")

    def _settings(self) -> tuple[str, ...]:
        """Those of the baseline that was tuned."""
        return TUNED[self.result("tuned")["chosen"]]

    def _train_little(self, name: str, seed: int, options: tuple[str, ...] = ()) -> None:
        """A system on the 5,000 pairs."""

        def work(path: Path) -> dict[str, Any]:
            settings = () if name.startswith("tuning/") else self._settings()
            given = ("--data.directory", self._little(seed), *settings, *options)
            return self._trained(path, "multi30k/transformer_small", seed, self.chosen.steps, given)

        tuned = () if name.startswith("tuning/") else ("tuned",)
        self._add(f"{name}/seed={seed}", work, f"data/seed={seed}", *tuned)

    def _train_mixture(self, name: str, seed: int, corpus: str, tag: str) -> None:
        """A system on the 5,000 pairs and the corpus of another job."""

        def work(path: Path) -> dict[str, Any]:
            given = (*self._mixture(seed, corpus, tag), *self._settings())
            return self._trained(path, "multi30k/back_translation", seed, self.chosen.steps, given)

        self._add(f"{name}/seed={seed}", work, f"data/seed={seed}", "tuned", corpus)

    def _mixture(self, seed: int, corpus: str, tag: str) -> tuple[str, ...]:
        return (
            "--data.parts.0.source.directory", self._little(seed), "--data.parts.0.weights", str(REAL_WEIGHT),
            "--data.parts.1.source.directory", str(self.directory / "runs" / corpus), "--data.parts.1.tag", tag,
        )  # fmt: skip

    def _train(
        self, name: str, config: str, data: tuple[str, ...], seed: int, steps: int | None,
        options: tuple[str, ...] = (), *needs: str,
    ) -> str:  # fmt: skip
        return self._add(name, lambda path: self._trained(path, config, seed, steps, (*data, *options)), *needs)

    def training_arguments(
        self, path: Path, config: str, seed: int, steps: int | None, options: tuple[str, ...]
    ) -> list[str]:
        """The command line of a training.

        Args:
            steps: None = as the config has it.
        """
        given = [config, "--run-dir", str(path), "--training.seed", str(seed), *options]
        if steps is not None:
            often = str(max(1, steps // 6))
            given += ["--training.steps", str(steps)]
            given += ["--training.evaluate_every", often, "--training.checkpoint_every", often]
        return given + [word for each in self.chosen.options for word in ("--" + each).split("=", 1)]

    def _trained(
        self, path: Path, config: str, seed: int, steps: int | None, options: tuple[str, ...]
    ) -> dict[str, Any]:
        """Train a system, or go on with it, and score it."""
        command("train", *self.training_arguments(path, config, seed, steps, options))
        found: dict[str, Any] = {}
        for split in ("validation", "test"):
            files = {name: path / f"{split}.{name}" for name in ("json", "txt")}
            command(
                "evaluate", str(path), "--split", split, "--metrics", "bleu", "chrf",
                "--json", str(files["json"]), "--output", str(files["txt"]),
            )  # fmt: skip
            found[split] = json.loads(files["json"].read_text(encoding="utf-8"))
        return found

    def _tuned(self, path: Path) -> dict[str, Any]:
        """Which settings of the baseline are the best."""
        seed = self.chosen.seeds[0]
        scores = {
            name: self.result(f"tuning/{index}/seed={seed}")["validation"]["bleu"] for index, name in enumerate(TUNED)
        }
        return {"chosen": max(scores, key=lambda name: scores[name]), "validation": scores}

    def _translate(self, path: Path, seed: int, kind: str) -> dict[str, Any]:
        """The German sentences in English."""
        chosen = ("--generation", "sampling") if kind == "sampling" else ()
        source = Path(self._little(seed)) / "mono.de.gz"
        run = self.directory / "runs" / f"reverse/seed={seed}"
        command("translate-corpus", str(run), "--input", str(source), "--output", str(path), *chosen)
        return {}

    def _empty(self, path: Path, seed: int) -> dict[str, Any]:
        """The German sentences, each with a source that says nothing."""
        path.mkdir(parents=True, exist_ok=True)
        lines = [{"source": text, "output": "-"} for text in read_lines(Path(self._little(seed)) / "mono.de.gz")]
        write_gzipped(path / "corpus.jsonl.gz", (json.dumps(line, ensure_ascii=False) for line in lines))
        return {}

    def _best(self, path: Path) -> dict[str, Any]:
        """The best back-translation, and the methods that gain noticeably, by validation with the first seed."""
        seed = self.chosen.seeds[0]
        scores = {
            name: self.result(f"{name}/seed={seed}")["validation"]["bleu"]
            for name in ("baseline", *BACK_TRANSLATIONS, *METHODS)
        }
        methods = [name for name in METHODS if scores[name] > scores["baseline"] + NOTICEABLE_GAIN]
        # Both compute everything twice.
        if {"r_drop", "fgm"} <= set(methods):
            methods.remove(min("r_drop", "fgm", key=lambda name: scores[name]))
        back_translation = max(BACK_TRANSLATIONS, key=lambda name: scores[name])
        return {"back_translation": back_translation, "methods": methods, "validation": scores}

    def _best_together(self, path: Path, seed: int) -> dict[str, Any]:
        best = self.result("best")
        kind = best["back_translation"].split("_")[1]
        tag = "<bt>" if best["back_translation"].endswith("_tagged") else "None"
        options = [word for name in best["methods"] for word in METHODS[name]]
        given = (*self._mixture(seed, f"{kind}/seed={seed}", tag), *self._settings(), *options)
        # Here the steps count, not the time.
        return self._trained(path, "multi30k/back_translation", seed, self.chosen.steps, given)


def command(name: str, *arguments: str) -> None:
    """Run `seq2seq`, with what it prints in the terminal.

    Raises:
        ValueError: it failed.
    """
    words = [sys.executable, "-m", "seq2seq_jax", name, *arguments]
    if subprocess.run(words, check=False).returncode:
        raise ValueError(f"{' '.join(words[2:])} failed; the same command continues the study")


def subset(data: Path, path: Path, seed: int) -> dict[str, Any]:
    """5,000 training pairs drawn by a seed, the German sentences of the others, and validation and test as they are."""
    path.mkdir(parents=True, exist_ok=True)
    for split in ("val", TEST):
        for language in ("en", "de"):
            write_gzipped(path / f"{split}.{language}.gz", read_lines(file_of(data, split, language)))
    english, german = (list(read_lines(file_of(data, "train", language))) for language in ("en", "de"))
    order = sorted(range(len(english)), key=lambda line: hashlib.sha256(f"{seed} {line}".encode()).digest())
    chosen, others = sorted(order[:PAIRS]), sorted(order[PAIRS:])
    write_gzipped(path / "train.en.gz", (english[line] for line in chosen))
    write_gzipped(path / "train.de.gz", (german[line] for line in chosen))
    write_gzipped(path / "mono.de.gz", (german[line] for line in others))
    return {"pairs": len(chosen), "german": len(others)}


def file_of(data: Path, split: str, language: str) -> Path:
    """A file of Multi30k."""
    return find_file(str(data), f"{split}.{language}", split=split)


def write_gzipped(path: Path, lines: Iterator[str] | Sequence[str]) -> None:
    """Write lines, all or none."""
    write_whole(path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def directions(path: Path, data: Path) -> dict[str, float]:
    """BLEU of a multilingual run on the test set of each direction, one that was never trained among them."""
    from seq2seq_jax.run.inference import Inference

    run, scores = Inference.open(path), {}
    for source, target in (("en", "de"), ("en", "fr"), ("de", "en"), ("fr", "en"), NEVER_TRAINED):
        texts, references = (list(read_lines(file_of(data, TEST, language))) for language in (source, target))
        found = run.hypotheses([f"<2{target}> {text}" for text in texts])
        outputs = [best[0].text if best else "" for best in found]
        examples = [{"source": text, "target": reference} for text, reference in zip(texts, references, strict=True)]
        scores[f"{source}_{target}"] = Bleu().corpus(outputs, examples)["bleu"].value
    return scores


def rows_of(results: Mapping[str, Mapping[int, dict[str, Any]]], compare: Callable[[str, int], float | None]) -> list:
    """The rows of the table: a system's BLEU by seed and their mean, what it gains on the baseline, and how much of the
    gap between the baseline and all pairs it closes.

    Args:
        results: system -> seed -> what was kept of it.
        compare: system and seed -> p-value against the baseline of the same seed; None = there is none.
    """

    def bleu(system: str, seed: int) -> float | None:
        found = results.get(system, {}).get(seed)
        return None if found is None else found["test"]["bleu"]

    rows = []
    for system, seeds in results.items():
        gains, closed = [], []
        for seed in seeds:
            own, base, whole = (bleu(name, seed) for name in (system, "baseline", "all_pairs"))
            if base is not None:
                gains.append(own - base)
                if whole is not None and whole != base:
                    closed.append((own - base) / (whole - base))
        p_values = [f"{value:.3f}" for seed in seeds if (value := compare(system, seed)) is not None]
        scores = [bleu(system, seed) for seed in seeds]
        rows.append(
            [
                system,
                ", ".join(f"{score:.2f}" for score in scores),
                f"{statistics.mean(scores):.2f}",
                f"{statistics.mean(gains):+.2f}" if gains and system != "baseline" else "",
                ", ".join(p_values),
                f"{statistics.mean(closed):.0%}" if closed and system not in ("baseline", "all_pairs") else "",
            ]
        )
    return rows


def show(study: Study) -> None:
    """Print the table of what is done."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for name in study.jobs:
        system, _, seed = name.rpartition("/seed=")
        found = study.result(name)
        if found is not None and "test" in found:
            results.setdefault(system, {})[int(seed)] = found

    def texts(system: str, seed: int) -> list[str]:
        path = study.directory / "runs" / system / f"seed={seed}" / "test.txt"
        return path.read_text(encoding="utf-8").split("\n")[:-1]

    def compare(system: str, seed: int) -> float | None:
        if system == "baseline" or seed not in results.get("baseline", {}) or system in OTHER_TEST_SETS:
            return None
        data = user_path(study.chosen.data)
        sides = (list(read_lines(file_of(data, TEST, language))) for language in ("en", "de"))
        examples = [{"source": source, "target": target} for source, target in zip(*sides, strict=True)]
        systems = {name: texts(name, seed) for name in ("baseline", system)}
        return paired_bootstrap(systems, examples, Bleu())[system].p_value

    header = ("system", "BLEU by seed", "mean", "gain", "p", "of the gap")
    title = f"Multi30k {TEST}, beam 5; gain and p against the baseline of the same seed"
    report.output().print(report.table(header, rows_of(results, compare), title=title))
    for seed, found in results.get("multilingual", {}).items():
        alone = {name: results.get(name, {}).get(seed, {}).get("test", {}) for name in found["by_direction"]}
        rows = [
            [name, f"{bleu:.2f}", f"{alone[name]['bleu']:.2f}" if alone[name] else "never trained or not done"]
            for name, bleu in found["by_direction"].items()
        ]
        report.output().print(report.table(("direction", "in one model", "alone"), rows, title="Multilingual"))


OTHER_TEST_SETS = frozenset({"reverse", "en_fr", "de_en", "fr_en"})
"""Systems whose targets are not German."""


def main(arguments: list[str]) -> None:
    """Parse the command line, do what is left, print the table.

    Raises:
        ValueError: there is no directory, no such job, or a command failed.
    """
    directories, rest = split_names(arguments)
    chosen = override(LittleDataArguments(), rest, program=f"{PROGRAM} DIR", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs one DIR, new or with a study to go on with. See {PROGRAM} --help.")
    study = Study(user_path(directories[0]), chosen)
    wanted = [
        name for name in study.jobs if not chosen.only or any(fnmatch.fnmatch(name, each) for each in chosen.only)
    ]
    if not wanted:
        raise ValueError(f"--only {' '.join(chosen.only)} is no job; there are {', '.join(study.jobs)}.")
    if chosen.action == "list":
        for name in wanted:
            print(f"{'done' if study.result(name) is not None else 'open'}  {name}")
        return
    if chosen.action == "train":
        for name in wanted:
            study.do(name)
    show(study)


if __name__ == "__main__":
    report.run_script(main)
