"""python -m studies.reward_agreement: the compiled rewards beside the libraries that define them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jiwer
import numpy as np
from nltk.translate.gleu_score import sentence_gleu
from rich.progress import track
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from seq2seq_jax.benchmark import report
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.overrides import override
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.reward import RewardConfig

PROGRAM = "python -m studies.reward_agreement"
DESCRIPTION = """\
Score the training references of Multi30k against corrupted copies of themselves, and a file of hypotheses if one is
given, with the rewards of seq2seq_jax.rewards and with the libraries: sacrebleu, rouge-score, jiwer, nltk. They are
installed by the extra "test".
"""
TOLERANCE = 1e-4
"""Absolute difference above which two scores are not equal: float32 rounds at less than a hundredth of it."""

_BLEU, _CHRF = BLEU(effective_order=True), CHRF()
_ROUGE = {name: RougeScorer([name]) for name in ("rouge1", "rouge2", "rougeL")}


def words_13a(text: str) -> list[str]:
    """The words that sacrebleu's BLEU is computed from."""
    return _BLEU.tokenizer(text.rstrip()).split()


def _rouge(name: str) -> Callable[[str, str], float]:
    return lambda hypothesis, reference: _ROUGE[name].score(reference, hypothesis)[name].fmeasure


LIBRARIES: dict[str, tuple[str, Callable[[str, str], float]]] = {
    "bleu": ("sacrebleu", lambda hypothesis, reference: _BLEU.sentence_score(hypothesis, [reference]).score / 100),
    "gleu": ("nltk", lambda hypothesis, reference: sentence_gleu([words_13a(reference)], words_13a(hypothesis))),
    "chrf": ("sacrebleu", lambda hypothesis, reference: _CHRF.sentence_score(hypothesis, [reference]).score / 100),
    "rouge_1": ("rouge-score", _rouge("rouge1")),
    "rouge_2": ("rouge-score", _rouge("rouge2")),
    "rouge_l": ("rouge-score", _rouge("rougeL")),
    "word_error_rate": ("jiwer", lambda hypothesis, reference: -jiwer.wer(reference, hypothesis)),
    "character_error_rate": ("jiwer", lambda hypothesis, reference: -jiwer.cer(reference, hypothesis)),
}
"""The library that defines each metric, and its score of a hypothesis and a reference, more being better."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgreementArguments:
    """Command line of the comparison of rewards."""

    directory: str = "data/multi30k"
    """Directory of train.{en,de}[.gz]."""
    hypotheses: str | None = None
    """File of hypotheses to compare on as well, one a line."""
    references: str | None = None
    """File of their references, one a line."""
    batch_size: int = 500
    """Pairs that are scored in one call."""
    seed: int = 0
    """Of the corruptions."""
    json: str | None = None
    """File for all measurements, as JSON."""

    def __post_init__(self):
        if (self.hypotheses is None) != (self.references is None):
            raise ValueError("--hypotheses and --references need each other: give both files or neither.")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, and is {self.batch_size}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a metric compares with its library."""

    metric: str
    """Field of RewardConfig."""
    library: str
    """Name of the library."""
    pairs: int
    """Pairs of texts compared."""
    mean: float
    """The library's mean score."""
    largest_difference: float
    """Largest absolute difference of a pair's two scores."""
    unequal: int
    """Pairs whose scores differ by more than TOLERANCE."""


def corrupt(text: str, rng: np.random.Generator) -> str:
    """The text with some words deleted, swapped, repeated, capitalised, or with odd punctuation."""
    words = text.split()
    for _ in range(rng.integers(0, 6)):
        if not words:
            break
        place, other = rng.integers(0, len(words), 2)
        match rng.integers(0, 7):
            case 0:
                del words[place]
            case 1:
                words[place], words[other] = words[other], words[place]
            case 2:
                words[place:place] = words[place : place + rng.integers(1, 4)] * int(rng.integers(1, 4))
            case 3:
                words[place] = words[place].swapcase()
            case 4:
                words[place] += rng.choice(["...", ",,5", "-", "'s", " 3,5.", "&quot;", "?!", "/und", "..a", " 1-2-"])
            case 5:
                words[place] = words[place][: rng.integers(0, len(words[place]) + 1)] + words[other]
            case 6:
                words = words[: rng.integers(0, len(words) + 1)] if rng.random() < 0.2 else words
    return " ".join(words)


def rows(tokenizer: Tokenizer, texts: Sequence[str], length: int | None = None) -> np.ndarray:
    """Target ids of texts, [texts, length], padded; by default as long as the longest text."""
    encoded = tokenizer.encode_target(list(texts))
    length = max(map(len, encoded)) if length is None else length
    ids = np.full((len(encoded), length), tokenizer.vocabulary.pad_id, np.int32)
    for row, text in zip(ids, encoded, strict=True):
        row[: len(text)] = text
    return ids


def compare(
    reward: Callable,
    tokenizer: Tokenizer,
    hypotheses: np.ndarray,
    references: np.ndarray,
    *,
    batch_size: int,
    description: str,
) -> list[Agreement]:
    """How the compiled rewards compare with the libraries on the texts that ids decode to.

    Args:
        reward: a Reward of the tokenizer, jitted, with all metrics that have a library.
        hypotheses: target ids, [pairs, length].
        references: target ids, [pairs, length].
        batch_size: pairs of one call.
        description: beside the progress bar.
    """
    ours: dict[str, list[float]] = {name: [] for name in LIBRARIES}
    theirs: dict[str, list[float]] = {name: [] for name in LIBRARIES}
    for start in track(range(0, len(hypotheses), batch_size), description):
        pairs = [ids[start : start + batch_size] for ids in (hypotheses, references)]
        missing = batch_size - len(pairs[0])
        full = [np.pad(ids, ((0, missing), (0, 0))) for ids in pairs]
        _, scores = reward(full[0][:, None], RewardExample(references=full[1][:, None]))
        texts = [[tokenizer.decode_target(row) for row in ids.tolist()] for ids in pairs]
        for name, (_, score) in LIBRARIES.items():
            ours[name].extend(np.asarray(scores[name])[: len(pairs[0]), 0].tolist())
            theirs[name].extend(map(score, *texts))
    agreements = []
    for name, (library, _) in LIBRARIES.items():
        differences = np.abs(np.subtract(ours[name], theirs[name]))
        agreements.append(
            Agreement(
                metric=name,
                library=library,
                pairs=len(differences),
                mean=float(np.mean(theirs[name])),
                largest_difference=float(differences.max()),
                unequal=int(np.sum(~(differences <= TOLERANCE))),
            )
        )
    return agreements


def _lines(path: Path) -> list[str]:
    """The lines of a text file, or of the same file with .gz behind its name.

    Raises:
        ValueError: there is neither, or it cannot be read.
    """
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return list(read_lines(candidate))
    raise ValueError(f"there is no file {path}, nor {path.name}.gz beside it.")


def main(arguments: list[str]) -> None:
    """Parse the command line, train the tokenizer of configs/multi30k, compare, print tables.

    Raises:
        ValueError: a file is missing, or a value does not fit.
    """
    chosen = override(AgreementArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    english, german = (_lines(Path(chosen.directory) / f"train.{language}") for language in ("en", "de"))
    tokenizer = Tokenizer.train(
        zip(english, german, strict=True), TokenizerConfig(kind="bpe", normalization="nfkc", vocabulary_size=8_000)
    )
    reward = jax.jit(RewardConfig(**dict.fromkeys(LIBRARIES, 1.0)).build(tokenizer))
    rng = np.random.default_rng(chosen.seed)
    texts = {"train, corrupted": ([corrupt(text, rng) for text in german], german)}
    if chosen.hypotheses is not None:
        hypotheses, references = _lines(Path(chosen.hypotheses)), _lines(Path(chosen.references))
        if len(hypotheses) != len(references):
            raise ValueError(
                f"{chosen.hypotheses} has {len(hypotheses)} lines and {chosen.references} {len(references)}: "
                "give one reference for each hypothesis."
            )
        texts[chosen.hypotheses] = (hypotheses, references)
    figures = []
    for name, sides in texts.items():
        ids = [rows(tokenizer, side) for side in sides]
        found = compare(reward, tokenizer, *ids, batch_size=chosen.batch_size, description=name)
        figures.append({"texts": name, "metrics": [dataclasses.asdict(each) for each in found]})
        lines = [
            [
                each.metric,
                each.library,
                f"{each.pairs:,}",
                f"{each.mean:.4f}",
                f"{each.largest_difference:.1e}",
                f"{each.unequal:,}",
            ]
            for each in found
        ]
        header = ("metric", "library", "pairs", "mean", "largest difference", f"above {TOLERANCE:g}")
        report.output().print(report.table(header, lines, title=f"Rewards beside their libraries: {name}"))
    report.write_json(figures, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
