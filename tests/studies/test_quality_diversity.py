"""The study of quality and diversity: its methods, files, scores, table and picture."""

import dataclasses
import json

import pytest

from seq2seq_jax.generation.methods import MinimumBayesRisk
from studies.generated import Texts
from studies.quality_diversity import (
    BASELINE,
    QualityDiversityArguments,
    against_baseline,
    best_texts,
    markdown,
    methods,
    picture,
    scores,
)

EXAMPLES = [{"source": "x", "target": "a cat sat here now"}, {"source": "y", "target": "two dogs run very fast"}]


def texts(*of_each, method="Sampling", family="sampling", n=2):
    return Texts(method=method, n=n, texts=list(of_each), examples=len(of_each), split="test", family=family)


BEAM = texts(["a cat sat here now"], ["two dogs ran very fast"], method="BeamSearch", family="beam", n=1)
SAMPLES = texts(["a cat sat", "a cat sat here now"], ["two dogs", "some dogs run very fast"])


def test_methods_have_names_of_their_own_and_the_limits_of_the_run():
    found = list(methods(QualityDiversityArguments(n=8), maximum_length_ratio=1.25))
    names = [name for name, _, _ in found]
    assert len(names) == len(set(names)) and names[0] == BASELINE
    assert sum(name.startswith("sampling, temperature") for name in names) == 8
    assert all(method.maximum_length_ratio == 1.25 for _, _, method in found)
    assert all(method.num_texts == 8 for name, _, method in found if name != BASELINE)
    assert {method.samples for _, _, method in found if isinstance(method, MinimumBayesRisk)} == {16, 64, 256}


def test_scores_of_the_first_of_all_and_of_the_best_text():
    one, several = scores(BEAM, EXAMPLES), scores(SAMPLES, EXAMPLES)
    assert "pairwise_bleu" not in one and "pairwise_bleu" in several
    assert several["bleu"] < several["mean_bleu"] < several["oracle_bleu"]
    assert "|method:Sampling|n:2|" in several["signatures"]["distinct_2"]


def test_the_table_has_a_row_per_method_and_p_values():
    results = {BASELINE: BEAM, "sampling, temperature 1": SAMPLES}
    p_values = against_baseline(results, EXAMPLES)
    assert p_values[BASELINE] == {"bleu": None, "chrf": None} and 0 < p_values["sampling, temperature 1"]["bleu"] <= 1
    assert against_baseline({"sampling, temperature 1": SAMPLES}, EXAMPLES) == {}
    figures = {name: scores(each, EXAMPLES) | {"p_values": p_values[name]} for name, each in results.items()}
    header, line, beam, sampling = markdown(figures).splitlines()
    assert header.startswith("| method | BLEU | chrF |") and line.count("---:") == header.count("|") - 2
    assert beam.startswith(f"| {BASELINE} | {figures[BASELINE]['bleu']:.2f} | ") and beam.endswith("|  |  |  |  |  |")
    assert f"({p_values['sampling, temperature 1']['chrf']:.3f})" in sampling


def test_a_family_is_a_line_of_the_picture():
    figures = {
        f"sampling, temperature {t}": {"family": "sampling", "pairwise_bleu": 50.0 - t, "mean_bleu": 30.0 - t,
        "oracle_bleu": 40.0 + t} for t in (0.5, 1.0)
    } | {"beam 5": {"family": "beam", "bleu": 40.0}}  # fmt: skip
    for axes, heights in zip(picture(figures).axes, ([29.5, 29.0], [40.5, 41.0]), strict=True):
        [line] = axes.get_lines()
        assert line.get_label() == "sampling" and list(line.get_xdata()) == [49.5, 49.0]
        assert list(line.get_ydata()) == heights
        assert [text.get_text() for text in axes.texts] == ["0.5", "1.0"]


def test_files_are_those_of_the_same_examples(tmp_path):
    path = tmp_path / "sampling.json"
    SAMPLES.write(path)
    assert Texts.read(path, EXAMPLES, "test") == SAMPLES
    with pytest.raises(ValueError, match="has texts of 2 examples of test, not of the 1 of test"):
        Texts.read(path, EXAMPLES[:1], "test")
    with pytest.raises(ValueError, match="not of the 2 of validation. Give another --results"):
        Texts.read(path, EXAMPLES, "validation")
    path.write_text(json.dumps(dataclasses.asdict(SAMPLES) | {"more": 1}))
    with pytest.raises(ValueError, match="is not the file of a method's texts"):
        Texts.read(path, EXAMPLES, "test")


def test_the_best_texts_are_each_once_and_of_equal_ones_the_earlier():
    assert best_texts(["a", "b", "a", "c"], [0.5, 0.7, 0.5, 0.7], number=3) == ["b", "c", "a"]
    assert best_texts(["a", "a"], [0.5, 0.5], number=2) == ["a"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 1}, "--n must be at least 2"),
        ({"n": 8, "groups": (3,)}, "--groups must divide --n, and 3 does not divide 8"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        QualityDiversityArguments(**settings)
