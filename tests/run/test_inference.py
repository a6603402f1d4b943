"""A run in use."""

from types import SimpleNamespace

import numpy as np
import pytest

from seq2seq_jax.generation.generator import Hypothesis
from seq2seq_jax.generation.methods import Greedy
from seq2seq_jax.run import inference
from seq2seq_jax.run.inference import Inference


class Echo:
    """In place of a generator: each text as its own best."""

    def __init__(self):
        self.sources = self
        self.texts = []
        self.long = []

    def __len__(self):
        return len(self.texts)

    def fit(self, texts, **options):
        self.texts = texts
        return self

    def generate_fitted(self, params, fitted, *, controls=None):
        return [[Hypothesis(text=text, score=0.0, log_probability=0.0, num_tokens=1)] for text in fitted.texts]


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(Inference, "system", SimpleNamespace(generator_by=lambda method, **options: Echo()))
    monkeypatch.setattr(Inference, "parameters", lambda run: (None, 0))
    run = Inference.__new__(Inference)
    run.experiment = SimpleNamespace(generation=Greedy(), data=None)
    return run


@pytest.mark.parametrize(
    "texts",
    [["a", "bc"], ("a", "bc"), np.array(["a", "bc"]), (text for text in ("a", "bc")), {"a": 1, "bc": 2}.keys()],
    ids=["list", "tuple", "array", "generator", "keys"],
)
def test_texts_may_come_in_anything_that_gives_strings(echo, texts):
    texts = echo.generate(texts)
    assert texts == ["a", "bc"]
    assert all(type(text) is str for text in texts)


def test_one_string_is_one_text(echo):
    assert echo.generate("one text") == ["one text"]
    assert echo.generate(np.array(["one text"])[0]) == ["one text"]
    assert [best[0].text for best in echo.hypotheses("")] == [""]
    assert echo.generate([]) == []


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (None, "sources must be strings, in a list or another iterable, not a NoneType"),
        (b"bytes", "not a bytes"),
        ({"text": "a"}, "not a dict"),
        (3, "not a int"),
        (["a", None], r"sources\[1\] must be a string, not a NoneType"),
        ([["a"]], r"sources\[0\] must be a string, not a list"),
        (np.array([1.5]), r"sources\[0\] must be a string, not a float64"),
    ],
)
def test_what_is_no_text_is_named(texts, said):
    """Without the checks of signatures, which the tests alone have."""
    with pytest.raises(TypeError, match=said):
        inference.list_of_texts(texts, "sources")
