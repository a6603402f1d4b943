"""The study of little data: its jobs, its subsets, its command lines, and its table; nothing is trained."""

import gzip
import itertools
import json

import pytest

from seq2seq_jax.commands.options import parse
from seq2seq_jax.data.mixture import Mixture
from studies import little_data
from studies.jobs import Claim
from studies.little_data import LittleDataArguments, Study, rows_of, subset

GOOD = {"validation": {"bleu": 20.0}, "test": {"bleu": 20.0}}


@pytest.fixture
def data(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    for split, size in (("train", 40), ("val", 3), ("test_2016_flickr", 3)):
        for language in ("en", "de", "fr"):
            (directory / f"{split}.{language}").write_text("".join(f"{language} {i}\n" for i in range(size)))
    return directory


def lines(path):
    return gzip.open(path, "rt").read().splitlines()


def test_the_subset_and_the_sentences_without_pairs_are_all_of_the_training_text(data, tmp_path, monkeypatch):
    monkeypatch.setattr(little_data, "PAIRS", 15)
    subset(data, tmp_path / "a", 0)
    subset(data, tmp_path / "b", 0)
    subset(data, tmp_path / "c", 1)
    english, german, mono = (lines(tmp_path / "a" / f"{name}.gz") for name in ("train.en", "train.de", "mono.de"))
    assert [text[3:] for text in english] == [text[3:] for text in german] and len(english) == 15
    assert sorted(german + mono) == sorted(f"de {i}" for i in range(40))
    assert lines(tmp_path / "b" / "train.en.gz") == english != lines(tmp_path / "c" / "train.en.gz")


@pytest.fixture
def study(data, tmp_path, monkeypatch):
    """A study whose commands are noted instead of run."""
    study = Study(tmp_path / "study", LittleDataArguments(data=str(data), seeds=(0, 1)))
    study.commands = []

    def command(claim, name, *arguments):
        study.commands.append((name, *arguments))
        given = dict(itertools.pairwise(arguments))
        for option, text in (("--json", json.dumps(GOOD["test"])), ("--output", "x\n")):
            if name == "evaluate":
                path = tmp_path / given[option]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)

    monkeypatch.setattr(Claim, "seq2seq", command)
    monkeypatch.setattr(little_data, "directions", lambda path, data: {"de_fr": 1.0})
    monkeypatch.setattr(little_data, "PAIRS", 15)
    return study


def test_all_jobs_are_done_once_in_an_order_that_suits_their_needs(study):
    assert study.do(study.jobs) == {}
    assert all(study.result(name) is not None for name in study.jobs)
    trained = [command for command in study.commands if command[0] == "train"]
    directories = [command[command.index("--run-dir") + 1] for command in trained]
    assert len(set(directories)) == len(directories)
    assert study.result("back_translations")["chosen"] == "bt_beam"
    # The best back-translation of the first seed is there already; that of another needs one corpus alone.
    trained = [directory.partition("/runs/")[2] for directory in directories]
    assert "back_translation/seed=0" not in trained and "back_translation/seed=1" in trained
    made = [given for name, *given in study.commands if name == "translate-corpus"]
    assert [given[given.index("--output") + 1].partition("/runs/")[2] for given in made] == [
        "beam/seed=0", "sampling/seed=0", "corpus/seed=1",
    ]  # fmt: skip


def test_command_lines_are_those_that_training_takes(study):
    """What is trained on what: parsed as the command would, with the configs themselves."""
    study.do(study.jobs)
    wanted = [
        "baseline/seed=1", "all_pairs/seed=1", "bt_sampling_tagged/seed=0", "back_translation/seed=1", "r_drop/seed=0",
        "fgm/seed=0", "bpe_dropout/seed=0", "empty_source/seed=0", "multilingual/seed=0", "recipe/seed=0",
        "recipe_policy_gradient/seed=0", "adversarial/seed=0", "more_likelihood/seed=0",
    ]  # fmt: skip
    experiments = {}
    for command, *arguments in study.commands:
        if command == "train":
            name = arguments[arguments.index("--run-dir") + 1].partition("/runs/")[2]
            if name in wanted:
                experiments[name] = parse("train", arguments).arguments.experiment
    assert set(experiments) == set(wanted)
    baseline = experiments["baseline/seed=1"]
    assert baseline.data.directory.endswith("data/seed=1") and baseline.training.seed == 1
    assert experiments["all_pairs/seed=1"].training.steps == baseline.training.steps
    tagged, plain = (experiments[name].data for name in ("bt_sampling_tagged/seed=0", "back_translation/seed=1"))
    assert isinstance(tagged, Mixture) and (tagged.parts[1].tag, plain.parts[1].tag) == ("<bt>", None)
    assert tagged.parts[1].source.directory.endswith("sampling/seed=0") and tagged.parts[0].weights == (4.0,)
    assert plain.parts[1].source.directory.endswith("corpus/seed=1")
    assert experiments["r_drop/seed=0"].objective.r_drop_weight == 3.0
    assert experiments["fgm/seed=0"].objective.perturbation.radius == 1.0
    assert experiments["bpe_dropout/seed=0"].data.augmentation.bpe_dropout == 0.1
    assert experiments["empty_source/seed=0"].data.parts[1].source.directory.endswith("empty/seed=0")
    assert [part.source.directory for part in experiments["multilingual/seed=0"].data.parts] == [study.chosen.data] * 4
    assert experiments["recipe_policy_gradient/seed=0"].init_from.endswith("recipe/seed=0")
    assert experiments["recipe/seed=0"].objective.r_drop_weight == 5.0
    for name in ("adversarial", "more_likelihood"):
        experiment = experiments[f"{name}/seed=0"]
        assert experiment.init_from.endswith("baseline/seed=0") and experiment.data.directory.endswith("data/seed=0")
        assert experiment.tokenizer.vocabulary_size == baseline.tokenizer.vocabulary_size
    assert experiments["adversarial/seed=0"].model.decoder.dropout == 0.0


def test_the_table_by_hand():
    def kept(**scores):
        return {int(seed[1:]): {"test": {"bleu": score}} for seed, score in scores.items()}

    results = {
        "baseline": kept(s0=20.0, s1=22.0),
        "bt_beam": kept(s0=25.0, s1=25.0),
        "all_pairs": kept(s0=30.0, s1=32.0),
        # Another target language, of which the baseline has no score.
        "en_fr": kept(s0=50.0),
    }
    found = rows_of(results, lambda system, seed: None if system in ("baseline", "en_fr") else 0.001)
    assert found == [
        ["baseline", "20.00, 22.00", "21.00", "", "", ""],
        ["bt_beam", "25.00, 25.00", "25.00", "+4.00", "0.001, 0.001", "40%"],
        ["all_pairs", "30.00, 32.00", "31.00", "+10.00", "0.001, 0.001", ""],
        ["en_fr", "50.00", "50.00", "", "", ""],
    ]


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="needs one DIR"):
        little_data.main([])
    with pytest.raises(ValueError, match="--only nothing is no job; there are data/seed=0"):
        little_data.main([str(tmp_path), "--only", "nothing"])
