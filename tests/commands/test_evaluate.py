"""What `evaluate` finds is what training logged."""

import json
import math
import pathlib
import sys

import jiwer
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.run.description import read_description, write_description
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.training.telemetry import read_records


def validations(run):
    return {record["step"]: record for record in read_records(run / "metrics.jsonl") if record["kind"] == "validation"}


@pytest.mark.parametrize("which", ["best", "latest"])
def test_figures_are_those_that_training_logged(seq2seq, trained, tmp_path, which):
    outcome = seq2seq(
        "evaluate", trained, "--split", "validation", "--checkpoint", which, "--json", tmp_path / "figures"
    )
    assert outcome.status == 0
    figures = json.loads((tmp_path / "figures").read_text())
    logged = validations(trained)
    best = max(logged, key=lambda step: (logged[step]["chrf"], -logged[step]["loss"], step))
    step = max(logged) if which == "latest" else best
    assert (figures["step"], figures["split"], figures["examples"]) == (step, "validation", 12)
    for name in ("loss", "nll", "bleu", "chrf", "exact_match"):
        assert figures[name] == logged[step][name]
    # Figures that could differ: something was learnt, and the checkpoints are not alike.
    assert figures["bleu"] > 10
    assert len({record["loss"] for record in logged.values()}) == len(logged) == 3
    assert f"checkpoint of step {step}" in outcome.output
    assert f"{figures['bleu']:.2f}" in outcome.output
    assert figures["metrics"] == logged[step]["metrics"] and list(figures["metrics"]) == ["bleu", "chrf", "exact_match"]
    signature = figures["metrics"]["bleu"]["signature"]
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp") and signature in outcome.output


def test_scores_are_those_of_the_written_texts(seq2seq, trained, workplace, tmp_path):
    outcome = seq2seq("evaluate", trained, "--json", tmp_path / "figures", "--output", tmp_path / "texts")
    assert outcome.status == 0
    figures = json.loads((tmp_path / "figures").read_text())
    texts = (tmp_path / "texts").read_text(encoding="utf-8").splitlines()
    references = (workplace / "text" / "test.de").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(references) == 12
    assert figures["split"] == "test"
    assert figures["bleu"] == BLEU().corpus_score(texts, [references]).score
    assert figures["chrf"] == CHRF().corpus_score(texts, [references]).score
    matches = sum(text == reference for text, reference in zip(texts, references, strict=True))
    assert figures["exact_match"] == pytest.approx(100 * matches / 12)
    # generate writes the same for the same sources.
    generated = seq2seq("generate", trained, "--input", workplace / "text" / "test.en").output
    assert generated.splitlines() == texts


def test_texts_contain_the_phrases_of_a_field(seq2seq, trained, workplace, tmp_path):
    options = ("--phrases-field", "target", "--output", tmp_path / "texts")
    assert seq2seq("evaluate", trained, *options).status == 0
    texts = (tmp_path / "texts").read_text(encoding="utf-8").splitlines()
    references = (workplace / "text" / "test.de").read_text(encoding="utf-8").splitlines()
    assert all(reference in text for text, reference in zip(texts, references, strict=True))
    outcome = seq2seq("evaluate", trained, "--phrases-field", "values")
    assert outcome.status == 2
    assert "expected the field 'values' (--phrases-field) of example 1; it has source" in outcome.error_line


def test_other_search_settings_change_scores_and_no_loss(seq2seq, trained, tmp_path):
    figures = []
    for extra in ("1", "10"):
        seq2seq(
            "evaluate", trained, "--json", tmp_path / "figures", "--generation.maximum_length_ratio", "0",
            "--generation.maximum_length_extra", extra,
        )  # fmt: skip
        figures.append(json.loads((tmp_path / "figures").read_text()))
    assert figures[0]["loss"] == figures[1]["loss"]
    assert figures[0]["chrf"] == 0.0 < figures[1]["chrf"]


def test_a_long_source_is_scored_as_empty_and_counted(seq2seq, trained, workplace, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for path in (workplace / "text").iterdir():
        (text / path.name).write_bytes(path.read_bytes())
    (text / "test.en").write_text("two red cows\n" + "two red cows " * 30 + "\n")
    (text / "test.de").write_text("es sind zwei rote Kühe im Haus\nes sind zwei rote Kühe im Haus\n")
    outcome = seq2seq("evaluate", trained, "--data.directory", text, "--json", tmp_path / "figures")
    assert outcome.status == 0
    figures = json.loads((tmp_path / "figures").read_text())
    assert (figures["examples"], figures["skipped_losses"], figures["skipped_sources"]) == (2, 1, 1)
    assert figures["exact_match"] == 50.0
    assert "1 sources scored as empty" in outcome.output
    assert "longer than the model takes" in outcome.errors and "--data.too_long truncate" in outcome.errors

    outcome = seq2seq(
        "evaluate", trained, "--data.directory", text, "--json", tmp_path / "figures", "--data.too_long", "truncate",
        "--output", tmp_path / "texts",
    )  # fmt: skip
    assert outcome.status == 0
    figures = json.loads((tmp_path / "figures").read_text())
    counted = ("skipped_losses", "skipped_sources", "cut_losses", "cut_sources")
    assert [figures[name] for name in counted] == [0, 0, 1, 1]
    assert "1 pairs cut for the loss, 1 sources for generation" in outcome.output
    assert len((tmp_path / "texts").read_text().splitlines()[1]) > 5, "something was generated from its beginning"


def only_test_files(workplace, directory, sources=None):
    """A directory with the test files alone, and other sources if they are given."""
    directory.mkdir()
    for name in ("test.en", "test.de"):
        (directory / name).write_bytes((workplace / "text" / name).read_bytes())
    if sources is not None:
        (directory / "test.en").write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    return directory


@pytest.mark.long
@pytest.mark.parametrize("names", [[], ["--data.train", "None", "--data.validation", "None"]])
def test_the_files_of_the_split_are_enough(seq2seq, trained, workplace, tmp_path, names):
    whole = seq2seq("evaluate", trained, "--json", tmp_path / "whole")
    assert whole.status == 0
    directory = only_test_files(workplace, tmp_path / "text")
    outcome = seq2seq("evaluate", trained, "--data.directory", directory, *names, "--json", tmp_path / "figures")
    assert outcome.status == 0
    assert json.loads((tmp_path / "figures").read_text()) == json.loads((tmp_path / "whole").read_text())
    assert "tokenizer" in outcome.output and "text as it is (normalization identity)" in outcome.output
    missing = seq2seq("evaluate", trained, "--data.directory", directory, "--split", "train")
    assert missing.status == 2
    assert "train.en" in missing.error_line and "None" not in missing.error_line
    none = seq2seq("evaluate", trained, "--data.directory", directory, "--data.test", "None")
    assert none.status == 2
    assert "the data has no split 'test'" in none.error_line and "--data.test" in none.error_line


def test_blank_sources_are_scored_as_the_empty_text_and_counted(seq2seq, trained, workplace, tmp_path):
    sources = ["two red cows", "", "\u200b", *["six white dogs"] * 9]
    directory = only_test_files(workplace, tmp_path / "text", sources)
    outcome = seq2seq(
        "evaluate",
        trained,
        "--data.directory",
        directory,
        "--output",
        tmp_path / "texts",
        "--json",
        tmp_path / "figures",
    )
    assert outcome.status == 0
    texts = (tmp_path / "texts").read_text(encoding="utf-8").split("\n")
    assert [not text for text in texts] == [False, True, True, *[False] * 9, True]
    assert json.loads((tmp_path / "figures").read_text())["blank_sources"] == 2
    assert "2 sources without text" in outcome.output


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_outputs_are_refused_before_the_work(seq2seq, trained, tmp_path, monkeypatch, option):
    monkeypatch.setattr(Inference, "parameters", lambda *arguments: pytest.fail("worked"))
    outcome = seq2seq("evaluate", trained, option, tmp_path / "none" / "file")
    assert outcome.status == 2
    assert f"{option} {tmp_path / 'none' / 'file'} cannot be written" in outcome.error_line


def test_scores_are_shown_though_a_file_cannot_be_written(seq2seq, trained, tmp_path):
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    outcome = seq2seq("evaluate", trained, "--output", "/dev/full", "--json", tmp_path / "figures")
    assert outcome.status == 2
    assert "No space left on device: '/dev/full'" in outcome.errors.splitlines()[-1]
    figures = json.loads((tmp_path / "figures").read_text())
    assert f"{figures['chrf']:.2f}" in outcome.output


OWN = """
import dataclasses

from seq2seq_jax.evaluation.metric import Metric, Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Longer(Metric):
    by: int = 0

    @property
    def names(self):
        return ("longer",)

    def corpus(self, outputs, examples):
        longer = sum(len(output) > len(example["source"]) + self.by for output, example in zip(outputs, examples))
        score = Score(value=1.0 * longer, unit="texts", higher_is_better=False, signature="-", label="longer texts")
        return {"longer": score}
"""


def test_metrics_are_chosen_by_name(seq2seq, trained, workplace, tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    chosen = ["rouge,stemmer=False", "wer", "perplexity", "perplexity,per=word", "own_metric:Longer,by=2"]
    outcome = seq2seq(
        "evaluate", trained, "--json", tmp_path / "figures", "--output", tmp_path / "texts", "--metrics", *chosen
    )
    assert outcome.status == 0, outcome.errors
    figures = json.loads((tmp_path / "figures").read_text())
    outputs, sources, references = (
        path.read_text(encoding="utf-8").splitlines()
        for path in (tmp_path / "texts", workplace / "text" / "test.en", workplace / "text" / "test.de")
    )
    scorer = RougeScorer(["rougeL"])
    pairs = list(zip(outputs, references, strict=True))
    rouge = sum(scorer.score(reference, output)["rougeL"].fmeasure for output, reference in pairs) / len(pairs)
    assert figures["rougeL"] == pytest.approx(100 * rouge)
    assert figures["wer"] == pytest.approx(100 * jiwer.wer(references, outputs))
    assert figures["longer"] == sum(len(o) > len(s) + 2 for o, s in zip(outputs, sources, strict=True))
    assert figures["perplexity_per_token"] == pytest.approx(math.exp(figures["nll"]))
    # Seven words in every reference, and their tokens as the run's tokenizer makes them.
    tokenizer = Tokenizer.load(trained)
    tokens = sum(map(len, tokenizer.encode_target(references)))
    words = sum(len(reference.split()) for reference in references)
    assert figures["perplexity_per_word"] == pytest.approx(math.exp(figures["nll"] * tokens / words), rel=1e-5)
    assert "bleu" not in figures and "|stemmer:no|" in figures["metrics"]["rougeL"]["signature"]
    lines = outcome.output.splitlines()
    assert any("ROUGE-L " in line and f"{figures['rougeL']:.2f}   nrefs:1|stemmer:no" in line for line in lines)
    assert any("longer texts" in line for line in lines)


def test_without_metrics_nothing_is_generated(seq2seq, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("seq2seq_jax.generation.generator.Generator.generate_from_ids", None)
    for metrics in ([], ["perplexity"]):
        outcome = seq2seq("evaluate", trained, "--json", tmp_path / "figures", "--metrics", *metrics)
        assert outcome.status == 0, outcome.errors
        assert {"loss", "nll"} <= json.loads((tmp_path / "figures").read_text()).keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metrics", "blue"], "there is no metric 'blue'. Name one of bleu, chrf,"),
        (["--metrics", "bleu,tokenizer=cn"], "metrics.bleu.tokenizer must be one of 13a"),
        (["--metrics", "rouge", "rouge,stemmer=False"], "both have a score rouge1"),
        (["--metrics", "nowhere:Metric"], "metric nowhere:Metric cannot be imported"),
        (["--split", "dev"], "--split must be one of train, validation, test, and is 'dev'"),
    ],
)
def test_a_metric_that_cannot_be_had_is_one_line(seq2seq, trained, arguments, said):
    outcome = seq2seq("evaluate", trained, *arguments)
    assert outcome.status == 2 and said in outcome.error_line


def test_documents_have_no_references_to_score(seq2seq, denoised):
    outcome = seq2seq("evaluate", denoised, "--metrics", "chrf")
    assert outcome.status == 2
    assert "metric chrf needs outputs and target, which documents do not have" in outcome.error_line
    outcome = seq2seq("evaluate", denoised, "--metrics", "perplexity")
    assert outcome.status == 0 and "perplexity per token" in outcome.output


def test_a_package_that_a_metric_needs_is_named(seq2seq, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    outcome = seq2seq("evaluate", trained, "--metrics", "cer")
    assert outcome.status == 2
    assert "metric cer needs jiwer, which is not installed: pip install jiwer" in outcome.error_line


@pytest.mark.long
def test_a_metric_that_a_run_names_is_imported_only_if_it_is_trusted(seq2seq, copy_of_run, tmp_path, monkeypatch):
    """With or without an option that names others: it stands in the default of --metrics."""
    (tmp_path / "planted.py").write_text(OWN + f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    description = read_description(copy_of_run)
    description["experiment"]["metrics"] = [{"class": "planted:Longer", "by": 1}]
    description["experiment"]["training"]["select_by"] = "longer"
    write_description(copy_of_run, description)
    outcome = seq2seq("evaluate", copy_of_run)
    assert outcome.status == 2
    assert "names the metric planted:Longer, which would be imported and executed" in outcome.error_line
    assert "--trust-code True" in outcome.error_line
    assert "planted:Longer,by=1" in seq2seq("evaluate", copy_of_run, "--help").output
    assert seq2seq("evaluate", copy_of_run, "--metrics", "exact_match").status == 0
    assert seq2seq("generate", copy_of_run, stdin=b"two red cows\n").status == 0
    assert not (tmp_path / "executed").exists()
    outcome = seq2seq("evaluate", copy_of_run, "--trust-code", "True")
    assert outcome.status == 0 and "longer texts" in outcome.output
    assert (tmp_path / "executed").exists()


def test_several_texts_of_a_source_are_compared(seq2seq, trained, tmp_path):
    settings = ["--generation", "sampling", "--generation.samples", "3", "--generation.temperature", "2"]
    outcome = seq2seq("evaluate", trained, "--json", tmp_path / "figures", "--diversity", "True", *settings)
    assert outcome.status == 0, outcome.errors
    figures = json.loads((tmp_path / "figures").read_text())
    assert {"bleu", "chrf", "exact_match", "pairwise_bleu", "distinct_2", "oracle_bleu"} <= figures.keys()
    assert 0 < figures["pairwise_bleu"] < 100 and figures["oracle_bleu"] >= figures["mean_bleu"]
    signature = figures["metrics"]["pairwise_bleu"]["signature"]
    assert "|method:Sampling," in signature and "samples=3,temperature=2.0|n:3|" in signature
    outcome = seq2seq("evaluate", trained, "--metrics", "diversity", "--generation", "greedy")
    assert outcome.status == 2
    assert "metric diversity needs alternatives" in outcome.error_line and "--generation.n_best 4" in outcome.error_line


@pytest.fixture
def short_run(copy_of_run):
    """The trained run whose outputs end after four tokens."""
    description = read_description(copy_of_run)
    description["experiment"]["generation"] |= {"maximum_length_ratio": 0.0, "maximum_length_extra": 4}
    write_description(copy_of_run, description)
    return copy_of_run


@pytest.mark.long
def test_runs_are_compared(seq2seq, trained, short_run, workplace, tmp_path):
    outcome = seq2seq("evaluate", trained, short_run, "--json", tmp_path / "both", "--bounds", "2")
    assert outcome.status == 2 and "no source has ≤ 2 words" in outcome.error_line
    metrics = ["--metrics", "chrf", "bleu", "exact_match", "perplexity"]
    outcome = seq2seq("evaluate", trained, short_run, "--json", tmp_path / "both", *metrics)
    assert outcome.status == 0, outcome.errors
    both = json.loads((tmp_path / "both").read_text())
    texts = {}
    for run, figures in zip((trained, short_run), both["runs"], strict=True):
        alone = seq2seq("evaluate", run, "--json", tmp_path / "one", "--output", tmp_path / "texts", *metrics)
        assert alone.status == 0
        generation = figures.pop("generation")
        assert generation.startswith("BeamSearch,") and figures == json.loads((tmp_path / "one").read_text())
        texts[figures["run"]] = (tmp_path / "texts").read_text(encoding="utf-8").splitlines()
    first, second = texts
    references = (workplace / "text" / "test.de").read_text(encoding="utf-8").splitlines()
    signatures, expected = PairedTest(
        list(texts.items()), {"BLEU": BLEU(), "chrF2": CHRF()}, [references], test_type="bs", n_samples=1000
    )()
    for name, library in (("bleu", "BLEU"), ("chrf", "chrF2")):
        assert both["bootstrap"][name]["signature"] == str(signatures[library]) and "|bs:1000|" in str(
            signatures[library]
        )
        found = both["bootstrap"][name]["systems"]
        assert found[first]["p_value"] is None and found[second]["p_value"] == expected[library][1].p_value < 0.05
        assert found[second]["confidence"] == pytest.approx(expected[library][1].ci)
        assert found[second]["score"] == expected[library][1].score < found[first]["score"]
    assert both["bootstrap"].keys() == {"bleu", "chrf"} and "|bs:1000|" in str(signatures["BLEU"])
    # All sources have three words.
    [group] = both["by_source_length"]
    assert (group["words"], group["examples"]) == ("all", 12)
    assert group["scores"].keys() == {"chrf", "bleu", "exact_match"}
    assert group["scores"]["bleu"] == {each["run"]: each["bleu"] for each in both["runs"]}
    assert "p = 0.001" in outcome.output and "BLEU, all words (12)" in outcome.output


def test_a_run_and_its_copy_do_not_differ(seq2seq, trained, copy_of_run, tmp_path):
    outcome = seq2seq("evaluate", trained, copy_of_run, "--json", tmp_path / "both", "--metrics", "bleu")
    assert outcome.status == 0
    [first, second] = json.loads((tmp_path / "both").read_text())["bootstrap"]["bleu"]["systems"].values()
    assert second["p_value"] == 1.0 and second["score"] == first["score"]


def test_runs_that_cannot_be_compared(seq2seq, trained, copy_of_run, denoised, workplace, tmp_path):
    description = read_description(copy_of_run)
    text = only_test_files(workplace, tmp_path / "text", ["three red cows"] * 12)
    description["experiment"]["data"]["directory"] = str(text)
    write_description(copy_of_run, description)
    for arguments, said in {
        (trained, copy_of_run): f"{copy_of_run} has other data than {trained}: example 1 of test differs.",
        (trained, denoised): "metric bleu needs outputs and target, which documents do not have",
        (trained, trained): f"{trained} is named twice",
        (trained, workplace / "none"): "none",
        (trained, "--bounds", "2"): "--bounds has no effect with one RUN",
    }.items():
        outcome = seq2seq("evaluate", *arguments)
        assert outcome.status == 2 and said in outcome.error_line
    outcome = seq2seq(
        "evaluate", trained, copy_of_run, "--data.directory", workplace / "text", "--output", tmp_path / "texts"
    )
    assert outcome.status == 2 and "--output takes the texts of one RUN" in outcome.error_line
