"""python -m studies.little_data: what helps with 5,000 pairs of Multi30k and 24,000 German sentences, run by run."""

import dataclasses
import gzip
import hashlib
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seq2seq_jax.benchmark import report
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.significance import paired_bootstrap
from seq2seq_jax.files import write_whole
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.paths import user_path
from studies.jobs import Claim, Jobs, TrainingJobArguments, carry_out

PROGRAM = "python -m studies.little_data"
DESCRIPTION = """\
Train all systems of the study in DIR, in the order of their importance, and print the table: 5,000 pairs of Multi30k,
drawn by seed, with 24,000 German sentences (the targets of the others); the same with all 29,000; four directions in
one model; and the best recipe. A system that is finished is not trained again, and one that was killed continues: the
same command continues until all is done, and several of them at once share the jobs, best one per core (taskset -c 0,
taskset -c 1). --action table prints what there is, --action list the jobs.
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
MORE_LIKELIHOOD = "multi30k/transformer_small_more_likelihood"
BACK_TRANSLATIONS = ("bt_beam", "bt_sampling", "bt_beam_tagged", "bt_sampling_tagged")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LittleDataArguments(TrainingJobArguments):
    """Command line of the study."""

    data: str = "data/multi30k"
    """Directory with {train,val,test_2016_flickr}.{en,de,fr}, plain or gzipped."""
    steps: int = 1_400
    """Steps of a run on 5,000 pairs, and of its controls: 10 minutes on 2 cores, 20 where all is computed twice."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the baseline, back-translation, R-Drop, the best together and all pairs; others have the first one."""


class Study(Jobs):
    """All jobs."""

    def __init__(self, directory: Path, chosen: LittleDataArguments):
        super().__init__(directory)
        self.chosen = chosen
        self._define()

    def _define(self) -> None:
        """All jobs, the most important ones first: what back-translation and R-Drop gain with every seed, the other
        methods with the first one, then what needs all pairs.
        """
        steps, (first, *others) = self.chosen.steps, self.chosen.seeds
        for seed in self.chosen.seeds:
            self.add(
                f"data/seed={seed}", lambda claim, seed=seed: subset(user_path(self.chosen.data), claim.path, seed)
            )
        for index, options in enumerate(TUNED.values()):
            self._train_little(f"tuning/{index}", first, options)
        self.add("tuned", self._tuned, *(f"tuning/{index}/seed={first}" for index in range(len(TUNED))))
        self._train_reverse(first)
        for kind in ("beam", "sampling"):
            self.add(
                f"{kind}/seed={first}",
                lambda claim, kind=kind: self._translate(claim, first, kind),
                f"reverse/seed={first}",
            )
        self._train_little("baseline", first)
        for kind, (suffix, tag) in itertools.product(("beam", "sampling"), (("", "None"), ("_tagged", "<bt>"))):
            self._train_mixture(f"bt_{kind}{suffix}", first, f"{kind}/seed={first}", tag)
        self.add(
            "back_translations", self._best_back_translation, *(f"{name}/seed={first}" for name in BACK_TRANSLATIONS)
        )
        for seed in self.chosen.seeds:
            corpus = ()
            if seed in others:
                self._train_little("baseline", seed)
                self._train_reverse(seed)
                corpus = (
                    self.add(
                        f"corpus/seed={seed}",
                        lambda claim, seed=seed: self._translate(claim, seed, self._best_kind()),
                        "back_translations",
                        f"reverse/seed={seed}",
                    ),
                )
            self.add(
                f"back_translation/seed={seed}",
                lambda claim, seed=seed: self._back_translation(claim, seed),
                "back_translations",
                *corpus,
            )
            self._train(f"all_pairs/seed={seed}", "multi30k/transformer_small", self._all, seed, steps)
            self._train_little("r_drop", seed, METHODS["r_drop"])
        for name in METHODS:
            if name != "r_drop":
                self._train_little(name, first, METHODS[name])
        self.add(f"empty/seed={first}", lambda claim: self._empty(claim, first), f"data/seed={first}")
        self._train_mixture("empty_source", first, f"empty/seed={first}", "<bt>")
        self.add("best", self._best, *(f"{name}/seed={first}" for name in ("baseline", *METHODS)), "back_translations")
        for seed in self.chosen.seeds:
            self.add(
                f"best_together/seed={seed}",
                lambda claim, seed=seed: self._best_together(claim, seed),
                "best",
                *((f"corpus/seed={seed}",) if seed in others else ()),
            )
        self._define_recipe(first)
        self._define_multilingual(first)
        self._define_adversarial(first)

    def _train_reverse(self, seed: int) -> None:
        """What translates German into English."""
        self._train_little("reverse", seed, ("--data.source", "de", "--data.target", "en"))

    def _define_recipe(self, seed: int) -> None:
        """As configs have it, on all pairs: the recipe, policy gradients after it, and what R-Drop's time gives."""
        recipe = self._train(f"recipe/seed={seed}", "multi30k/transformer_small_recipe", self._all, seed, None)
        self._train(
            f"recipe_policy_gradient/seed={seed}", "multi30k/transformer_small_leave_one_out", self._all, seed, None,
            ("--init-from", str(self.path(recipe))), recipe,
        )  # fmt: skip
        self._train(f"all_pairs_r_drop/seed={seed}", "multi30k/transformer_small_r_drop", self._all, seed, None)
        self._train(f"all_pairs_twice/seed={seed}", "multi30k/transformer_small", self._all, seed, 11_200)

    def _define_adversarial(self, seed: int) -> None:
        """A discriminator in the place of more text, and its controls: from the baseline on."""
        start = f"baseline/seed={seed}"

        def work(config: str) -> Callable[[Claim], dict[str, Any]]:
            def of_claim(claim: Claim) -> dict[str, Any]:
                # The decoder has no dropout here.
                settings = self._settings()[:-2] if config != MORE_LIKELIHOOD else self._settings()
                given = ("--data.directory", self._little(seed), *settings, "--init-from", str(self.path(start)))
                return self._trained(claim, config, seed, None, given)

            return of_claim

        for name in ("adversarial", "adversarial_constant"):
            self.add(f"{name}/seed={seed}", work(f"multi30k/{name}"), start, "tuned")
        self.add(f"more_likelihood/seed={seed}", work(MORE_LIKELIHOOD), start, "tuned")

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
        self.add(
            name,
            lambda claim: (
                self._trained(claim, "multi30k/multilingual", seed, 4 * steps, options)
                | {"by_direction": directions(claim.path, user_path(self.chosen.data))}
            ),
        )

    @property
    def _all(self) -> tuple[str, ...]:
        return ("--data.directory", str(user_path(self.chosen.data)))

    def _little(self, seed: int) -> str:
        return str(self.path(f"data/seed={seed}"))

    def _settings(self) -> tuple[str, ...]:
        """Those of the baseline that was tuned."""
        return TUNED[self.result("tuned")["chosen"]]

    def _train_little(self, name: str, seed: int, options: tuple[str, ...] = ()) -> None:
        """A system on the 5,000 pairs."""

        def work(claim: Claim) -> dict[str, Any]:
            settings = () if name.startswith("tuning/") else self._settings()
            given = ("--data.directory", self._little(seed), *settings, *options)
            return self._trained(claim, "multi30k/transformer_small", seed, self.chosen.steps, given)

        tuned = () if name.startswith("tuning/") else ("tuned",)
        self.add(f"{name}/seed={seed}", work, f"data/seed={seed}", *tuned)

    def _train_mixture(self, name: str, seed: int, corpus: str, tag: str) -> None:
        """A system on the 5,000 pairs and the corpus of another job."""
        self.add(
            f"{name}/seed={seed}", lambda claim: self._trained_mixture(claim, seed, corpus, tag),
            f"data/seed={seed}", "tuned", corpus,
        )  # fmt: skip

    def _trained_mixture(
        self, claim: Claim, seed: int, corpus: str, tag: str, options: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        # Here the steps count, not the time.
        given = (*self._mixture(seed, corpus, tag), *self._settings(), *options)
        return self._trained(claim, "multi30k/back_translation", seed, self.chosen.steps, given)

    def _mixture(self, seed: int, corpus: str, tag: str) -> tuple[str, ...]:
        return (
            "--data.parts.0.source.directory", self._little(seed), "--data.parts.0.weights", str(REAL_WEIGHT),
            "--data.parts.1.source.directory", str(self.path(corpus)), "--data.parts.1.tag", tag,
        )  # fmt: skip

    def _train(
        self, name: str, config: str, data: tuple[str, ...], seed: int, steps: int | None,
        options: tuple[str, ...] = (), *needs: str,
    ) -> str:  # fmt: skip
        return self.add(name, lambda claim: self._trained(claim, config, seed, steps, (*data, *options)), *needs)

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
        return given + self.chosen.words_of(config)

    def _trained(
        self, claim: Claim, config: str, seed: int, steps: int | None, options: tuple[str, ...]
    ) -> dict[str, Any]:
        """Train a system, or go on with it, and score it."""
        path = claim.path
        claim.seq2seq("train", *self.training_arguments(path, config, seed, steps, options))
        found: dict[str, Any] = {}
        for split in ("validation", "test"):
            files = {name: path / f"{split}.{name}" for name in ("json", "txt")}
            claim.seq2seq(
                "evaluate", str(path), "--split", split, "--metrics", "bleu", "chrf",
                "--json", str(files["json"]), "--output", str(files["txt"]),
            )  # fmt: skip
            found[split] = json.loads(files["json"].read_text(encoding="utf-8"))
        return found

    def _tuned(self, claim: Claim) -> dict[str, Any]:
        """Which settings of the baseline are the best."""
        seed = self.chosen.seeds[0]
        scores = {name: self._validation_bleu(f"tuning/{index}", seed) for index, name in enumerate(TUNED)}
        return {"chosen": max(scores, key=lambda name: scores[name]), "validation": scores}

    def _validation_bleu(self, name: str, seed: int) -> float:
        return self.result(f"{name}/seed={seed}")["validation"]["bleu"]

    def _translate(self, claim: Claim, seed: int, kind: str) -> dict[str, Any]:
        """The German sentences in English."""
        chosen = ("--generation", "sampling") if kind == "sampling" else ()
        source, run = Path(self._little(seed)) / "mono.de.gz", self.path(f"reverse/seed={seed}")
        claim.seq2seq("translate-corpus", str(run), "--input", str(source), "--output", str(claim.path), *chosen)
        return {}

    def _empty(self, claim: Claim, seed: int) -> dict[str, Any]:
        """The German sentences, each with a source that says nothing."""
        claim.path.mkdir(parents=True, exist_ok=True)
        lines = [{"source": text, "output": "-"} for text in read_lines(Path(self._little(seed)) / "mono.de.gz")]
        write_gzipped(claim.path / "corpus.jsonl.gz", (json.dumps(line, ensure_ascii=False) for line in lines))
        return {}

    def _best_back_translation(self, claim: Claim) -> dict[str, Any]:
        """Which back-translation is the best, by validation with the first seed."""
        scores = {name: self._validation_bleu(name, self.chosen.seeds[0]) for name in BACK_TRANSLATIONS}
        return {"chosen": max(scores, key=lambda name: scores[name]), "validation": scores}

    def _best_kind(self) -> str:
        return self.result("back_translations")["chosen"].split("_")[1]

    def _corpus_and_tag(self, seed: int) -> tuple[str, str]:
        """Of the best back-translation."""
        corpus = self._best_kind() if seed == self.chosen.seeds[0] else "corpus"
        is_tagged = self.result("back_translations")["chosen"].endswith("_tagged")
        return f"{corpus}/seed={seed}", "<bt>" if is_tagged else "None"

    def _back_translation(self, claim: Claim, seed: int) -> dict[str, Any]:
        """The best back-translation: trained, unless it is the one that it was chosen as."""
        if seed != self.chosen.seeds[0]:
            return self._trained_mixture(claim, seed, *self._corpus_and_tag(seed))
        name = f"{self.result('back_translations')['chosen']}/seed={seed}"
        claim.path.mkdir(parents=True, exist_ok=True)
        write_whole(claim.path / "test.txt", (self.path(name) / "test.txt").read_bytes())
        return self.result(name)

    def _best(self, claim: Claim) -> dict[str, Any]:
        """The methods that gain noticeably, by validation with the first seed."""
        scores = {name: self._validation_bleu(name, self.chosen.seeds[0]) for name in ("baseline", *METHODS)}
        methods = [name for name in METHODS if scores[name] > scores["baseline"] + NOTICEABLE_GAIN]
        # Both compute everything twice.
        if {"r_drop", "fgm"} <= set(methods):
            methods.remove(min("r_drop", "fgm", key=lambda name: scores[name]))
        return {"methods": methods, "validation": scores}

    def _best_together(self, claim: Claim, seed: int) -> dict[str, Any]:
        options = tuple(word for name in self.result("best")["methods"] for word in METHODS[name])
        return self._trained_mixture(claim, seed, *self._corpus_and_tag(seed), options)


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
    """The rows of the table: a system's BLEU by seed and their mean, and where it is on the test set of the baseline
    what it gains on that, and how much of the gap between the baseline and all pairs it closes.

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
            if base is not None and system not in OTHER_TEST_SETS:
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
        path = study.path(f"{system}/seed={seed}") / "test.txt"
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
    carry_out(study, chosen, lambda: show(study))


if __name__ == "__main__":
    report.run_script(main)
