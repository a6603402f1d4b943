"""Each expert's text is that of a search from its own start token; models without experts are refused."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import ARCHITECTURES, TINY_VOCABULARY, parameters
from batches import random_pairs, sequence

from seq2seq_jax.compilation.programs import stand_in_tokenizer
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.generation.context import GenerationContext
from seq2seq_jax.generation.methods import BeamSearch, MixtureOfExperts
from seq2seq_jax.run.system import System, build_mesh
from seq2seq_jax.run.training import TrainingRun

EXPERTS, ROOM = 3, 7
SOURCES = [pair[0] for pair in random_pairs(np.random.default_rng(1), (4, 2, 6), (1, 1, 1), TINY_VOCABULARY)]


@functools.cache
def experts(name):
    model = dataclasses.replace(ARCHITECTURES[name].config, num_experts=EXPERTS).build(TINY_VOCABULARY)
    return model, parameters(model, seed=3)


def context(name, *, limits=(7, 5, 1), first=None):
    """Of the sources; `first` = the start token that stands for the BOS token."""
    model, params = experts(name)
    apply = functools.partial(model.apply, {"params": params})
    source = jax.tree.map(jnp.asarray, sequence([[source] for source in SOURCES], 6, TINY_VOCABULARY.pad_id))
    memory = apply(source, deterministic=True, method="encode")

    def step(tokens, state):
        if first is not None:
            tokens = jnp.where(tokens == TINY_VOCABULARY.bos_id, first, tokens)
        return apply(tokens, state, method="step")

    return GenerationContext(
        step=step,
        start=lambda number: apply(memory, max_length=ROOM, beam_size=number, method="start"),
        limits=jnp.array(limits),
        max_length=ROOM,
        vocabulary=TINY_VOCABULARY,
    )


@pytest.mark.parametrize(("name", "beam_size"), [("transformer", 1), ("gru_additive_feeding", 2)])
def test_every_text_is_that_of_a_search_from_the_expert_s_start_token(name, beam_size):
    experts(name)  # before anything is traced
    method = MixtureOfExperts(experts=EXPERTS, beam_size=beam_size)
    found = jax.jit(lambda: method.generate(context(name)))()
    search = BeamSearch(beam_size=beam_size)
    for expert in range(EXPERTS):
        first = TINY_VOCABULARY.target_size + expert - 1 if expert else None
        alone = jax.jit(lambda first=first: search.generate(context(name, first=first)))()
        jax.tree.map(lambda all_, one, e=expert: np.testing.assert_array_equal(all_[:, e], one[:, 0]), found, alone)
    assert len(np.unique(found.log_probabilities)) == found.log_probabilities.size
    # One token is the EOS token, whatever the expert.
    assert (found.lengths[2] == 1).all()

    ranked = jax.jit(lambda: dataclasses.replace(method, order="score").generate(context(name)))()
    order = np.argsort(-np.asarray(found.scores), axis=1, kind="stable")
    np.testing.assert_array_equal(ranked.scores, np.take_along_axis(np.asarray(found.scores), order, axis=1))
    texts = np.take_along_axis(np.asarray(found.tokens), order[:, :, None], axis=1)
    np.testing.assert_array_equal(ranked.tokens, texts)


def test_a_model_without_experts_is_refused_in_one_line():
    base = load_config_by_name("dates/transformer")
    method = MixtureOfExperts()
    message = "^generation mixture_of_experts needs a model that was trained with objective mixture_of_experts[^\n]*$"
    with pytest.raises(ValueError, match=message):
        System(base, stand_in_tokenizer(base.tokenizer), build_mesh(base)).generator_by(method)
    with pytest.raises(ValueError, match=message):
        TrainingRun(Path("nowhere"), dataclasses.replace(base, generation=method)).begin("dates/transformer")
    with pytest.raises(ValueError, match="^generation.experts must be at most model.num_experts = 2, got 3: lower it$"):
        method.check(num_experts=2)
    method.check(num_experts=3)
    with pytest.raises(ValueError, match="^generation.experts must be at most model.num_experts = 3, got 4: lower it$"):
        method.with_num_texts(4).check(num_experts=3)
