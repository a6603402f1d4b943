"""A text depends on its source and the number of its line alone: a small version of the study."""

import dataclasses
import functools
import random

import jax
import pytest
from architectures import parameters, transformer

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.parallel.mesh_config import MeshConfig
from studies.invariance import METHODS, InvarianceArguments, arranged, compare

ALL_TEXTS = ["".join(random.Random(seed).choices("abcdefgh", k=1 + seed % 28)) for seed in range(70)]
SOURCES, OTHERS = ALL_TEXTS[:20], ALL_TEXTS[20:]


@functools.cache
def generator(method, num_devices=1):
    """Batches of 4, 2 or 1 rows by length; a model with other parameters for every run of the study's."""
    tokenizer = Tokenizer.train(
        [("abcdefgh", "hgfedcba")], TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False)
    )
    model = transformer(tied_embeddings="none").build(tokenizer.vocabulary)
    limits = {"maximum_length_ratio": 0.5, "maximum_length_extra": 3, "source_tokens_per_batch": 64}
    mesh = MeshConfig(data=num_devices).build(jax.devices()[:num_devices])
    method = dataclasses.replace(method, **limits)
    generate = Generator(model, tokenizer, method, source=Tokens(max_length=32), mesh=mesh)
    params = parameters(model, seed=2)
    return lambda texts, lines: generate.generate(params, texts, lines=lines)


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_texts_are_the_same_however_sources_come(name):
    method = METHODS[name]
    lines = list(range(1, len(SOURCES) + 1))
    expected = generator(method, 1)(SOURCES, lines)
    assert len({tuple(each.text for each in texts) for texts in expected}) > len(SOURCES) // 2
    found = arranged(generator, method, SOURCES, OTHERS, InvarianceArguments(meshes=(1,)))
    names = ["reversed", "among 50 others", "one at a time", "mesh of 1"]
    assert list(found) == (names + ["16 samples"] if name in ("sampling", "restricted") else names)
    for texts in found.values():
        compared = compare(expected, texts())
        assert compared.different == [] and compared.largest_difference < 1e-4
    if name == "sampling":
        others = compare(expected, generator(method, 1)(SOURCES, lines[::-1]))
        assert len(others.different) > len(SOURCES) // 2, "another line is drawn differently"


def test_what_differs_is_counted():
    def texts(*names):
        return [[Hypothesis(text=name, score=0.0, log_probability=-float(len(name)), num_tokens=1)] for name in names]

    compared = compare(texts("a", "bb", "c"), [*texts("a", "x"), [*texts("c")[0], *texts("d")[0]]])
    assert (compared.num_sources, compared.different, compared.largest_difference) == (3, [1], 0.0)
