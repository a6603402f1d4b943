"""Training with copying: the loss from the model's own probabilities, its gradient by finite differences, what exists
at once, texts with tokens that the vocabulary cannot give, and what copying does not go with.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from architectures import ARCHITECTURES, VOCABULARY, parameters, recurrent, transformer
from batches import batch, random_pairs

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.generation.context import GenerationContext
from seq2seq_jax.generation.search import beam_search
from seq2seq_jax.modules.embedding import Scoring
from seq2seq_jax.modules.pointer import coverage_losses
from seq2seq_jax.objectives.maximum_likelihood import Copied, MaximumLikelihoodConfig, _vocabulary_loss
from seq2seq_jax.objectives.objective import Prepared, Turn, values_of

PAIRS = random_pairs(np.random.default_rng(0), (6, 3, 8), (6, 3, 4), VOCABULARY)
# Half of the labels stand in their source.
PAIRS = [(source, [*source[: len(target) // 2], *target[len(target) // 2 :]]) for source, target in PAIRS]
PACKED = jax.tree.map(jnp.asarray, batch([PAIRS[:2], PAIRS[2:]], 9, 12, VOCABULARY))
ALONE = jax.tree.map(jnp.asarray, batch([[pair] for pair in PAIRS], 9, 12, VOCABULARY))
TURN = Turn(0, "model")


@functools.cache
def built(name="copying_transformer"):
    model = ARCHITECTURES[name].config.build(VOCABULARY)
    return model, parameters(model)


def compute(rows, name="copying_transformer", params=None, **settings):
    """Logged figures and gradient of the summed loss."""
    model, own = built(name)
    params = own if params is None else params
    objective = MaximumLikelihoodConfig(**settings).build(model)

    def loss_sum(params, rows):
        loss, logged = objective.loss(TURN, {"model": params}, Prepared(rows=rows), step=jnp.int32(0), rng=None)
        return loss.sum, {"loss": loss, **logged}

    gradient, logged = jax.jit(jax.grad(loss_sum, has_aux=True))(params, rows)
    return values_of(logged), gradient


def by_definition(name):
    """Mean negative log-likelihood of the labels, that of all tokens by the vocabulary alone, coverage, 1 - p_gen."""
    model, params = built(name)

    @jax.jit
    def everything(params):
        apply = functools.partial(model.apply, {"params": params})
        memory = apply(ALONE.source, deterministic=True, method="encode")
        hidden = apply(ALONE.target, memory, deterministic=True, method="decode")
        pointed = apply(hidden, ALONE.target.segment_ids, memory, method="point")
        scores = jnp.einsum("btm,vm->btv", hidden, apply(method="output_table"))
        return apply(ALONE), jax.nn.log_softmax(scores), coverage_losses(pointed), jax.nn.sigmoid(-pointed.score)

    log_p, of_vocabulary, coverage, copying = everything(params)
    nll = -jnp.take_along_axis(log_p, ALONE.target.tokens[..., None], axis=-1)[..., 0]
    per_token = nll, -jnp.mean(of_vocabulary, axis=-1), coverage, copying
    return [float(jnp.mean(values[ALONE.target.mask])) for values in per_token]


@pytest.mark.parametrize("name", ["copying_transformer", "copying_recurrent", "copying_convolutional"])
def test_the_loss_is_that_of_the_models_own_probabilities(name):
    nll, uniform, coverage, copying = by_definition(name)
    for rows, chunk in ((PACKED, None), (PACKED, 4), (ALONE, 3)):
        found, _ = compute(rows, name, label_smoothing=0.2, coverage_weight=0.7, loss_chunk=chunk)
        assert found["nll"] == pytest.approx(nll, rel=1e-5)
        assert found["coverage"] == pytest.approx(coverage, rel=1e-4)
        assert found["copy_probability"] == pytest.approx(copying, rel=1e-5)
        assert found["loss"] == pytest.approx(0.8 * nll + 0.2 * uniform + 0.7 * coverage, rel=1e-5)
    assert coverage > 0.05 and 0.1 < copying < 0.9


def test_packed_rows_and_chunks_have_the_same_gradient():
    settings = {"label_smoothing": 0.1, "z_loss": 0.01, "coverage_weight": 0.5}
    expected = compute(ALONE, **settings)[1]
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(expected["pointer"]))
    for found in (compute(PACKED, **settings)[1], compute(ALONE, loss_chunk=4, **settings)[1]):
        jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-4, atol=2e-5), found, expected)


@pytest.mark.parametrize("chunk", [None, 6])
def test_the_gradient_is_that_of_finite_differences(chunk):
    config = MaximumLikelihoodConfig(label_smoothing=0.1, z_loss=0.01, loss_chunk=chunk)
    rng = np.random.default_rng(0)
    labels, mask = PACKED.target.tokens, PACKED.target.mask
    with jax.enable_x64(True):
        table, hidden, generated, copied = (
            jnp.asarray(rng.normal(size=size) / 2) for size in ((29, 8), (2, 12, 8), (2, 12), (2, 12))
        )
        arguments = table, hidden, -jnp.abs(generated), -jnp.abs(copied) - 1.0

        @jax.jit
        def loss(table, hidden, generated, copied):
            of_copying = Copied(log_generated=generated, log_copied=copied)
            return _vocabulary_loss(config, Scoring("float32"), table, None, of_copying, hidden, labels, mask)[0]

        gradient = jax.jit(jax.grad(loss, argnums=range(4)))(*arguments)
        for index, of_argument in enumerate(gradient):
            direction = jnp.sign(of_argument) * jnp.abs(rng.normal(size=of_argument.shape))
            moved = [
                loss(*arguments[:index], arguments[index] + sign * 1e-3 * direction, *arguments[index + 1 :])
                for sign in (1, -1)
            ]
            expected = float(jnp.sum(of_argument * direction))
            assert (moved[0] - moved[1]) / 2e-3 == pytest.approx(expected, rel=2e-3) and abs(expected) > 0.1


@pytest.mark.parametrize("part", ["pointer", "decoder", "target_embedding"])
def test_the_gradient_of_the_model_is_that_of_finite_differences(part):
    """Along the gradient itself, where the difference is far above the rounding of a float32 loss."""
    settings = {"label_smoothing": 0.1, "coverage_weight": 0.5, "loss_chunk": 4}
    params = built()[1]
    gradient = compute(PACKED, **settings)[1][part]
    norm = math.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradient)))
    num_tokens, losses = int(PACKED.target.mask.sum()), []
    for step in (2e-3, -2e-3):
        moved = jax.tree.map(lambda leaf, along, step=step: leaf + step * along / norm, params[part], gradient)
        losses.append(compute(PACKED, params={**params, part: moved}, **settings)[0]["loss"] * num_tokens)
    assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(norm, rel=1e-2)


def shapes_in(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


def test_scores_of_all_labels_never_exist_at_once():
    """With chunks nothing is larger than the scores of a chunk that has the vocabulary as a dim, but its table."""
    vocabulary = Vocabulary(source_size=997, target_size=997, joint=True, pad_id=0, bos_id=2, eos_id=3)
    model = ARCHITECTURES["copying_transformer"].config.build(vocabulary)
    params = parameters(model)

    def shapes(chunk):
        objective = MaximumLikelihoodConfig(loss_chunk=chunk, coverage_weight=1.0).build(model)

        def loss(params):
            rows = Prepared(rows=PACKED)
            return objective.loss(TURN, {"model": params}, rows, step=jnp.int32(0), rng=None)[0].sum

        found = [shape for shape in shapes_in(jax.make_jaxpr(jax.grad(loss))(params).jaxpr) if 997 in shape]
        return max(math.prod(shape) for shape in found if shape != (997, 16) and shape != (16, 997))

    assert shapes(None) == 2 * 12 * 997
    assert shapes(3) == 2 * 3 * 997


SEEN, UNSEEN = (4, 17), (17, 29)
"""Token ids, from the first to the one before the last, that a model is trained on, and the others."""


def first_tokens(seed, tokens, number):
    """Pairs of three to six tokens and the first two of them."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(*tokens, rng.integers(3, 7)).tolist() for _ in range(number)]
    eos = [VOCABULARY.eos_id]
    return jax.tree.map(
        jnp.asarray, batch([[(source + eos, source[:2] + eos)] for source in sources], 8, 3, VOCABULARY)
    )


@functools.cache
def trained(copying):
    """A small model that has learned to give the first two tokens of its source."""
    config = transformer(num_layers=1, model_dim=32, dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0)
    model = dataclasses.replace(config, copying=copying).build(VOCABULARY)
    objective = MaximumLikelihoodConfig(label_smoothing=0.0).build(model)
    optimizer = optax.adam(5e-3)
    rows = first_tokens(0, SEEN, 1024)
    params = jax.tree.map(
        lambda leaf: leaf.value,
        objective.players[0].initialize(jax.random.key(0)),
        is_leaf=lambda leaf: hasattr(leaf, "value"),
    )

    def update(carry, start):
        params, state = carry
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, 64), rows)

        def loss(params):
            turn = objective.loss(TURN, {"model": params}, Prepared(rows=part), step=jnp.int32(0), rng=None)[0]
            return turn.mean

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    starts = jnp.arange(400) % 16 * 64
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, starts))((params, optimizer.init(params)))
    return model, params


def fraction_right(copying, tokens):
    """Of the first two tokens of new sources, by greedy search."""
    model, params = trained(copying)
    rows = first_tokens(1, tokens, 64)

    @jax.jit
    def search(params):
        apply = functools.partial(model.apply, {"params": params})
        memory = apply(rows.source, deterministic=True, method="encode")
        context = GenerationContext(
            step=lambda tokens, state: apply(tokens, state, method="step"),
            start=lambda number: apply(memory, max_length=3, beam_size=number, method="start"),
            limits=jnp.full(64, 3),
            max_length=3,
            vocabulary=VOCABULARY,
        )
        return beam_search(context, beam_size=1, n_best=1, length_penalty=0.0).tokens[:, 0]

    return float(np.mean(np.asarray(search(params))[:, :2] == np.asarray(rows.target.tokens)[:, :2]))


def test_pieces_that_the_vocabulary_loss_has_never_seen_are_copied():
    """Both models give tokens that they know; of tokens that were never a label nor in a source, one gives none."""
    assert fraction_right(True, SEEN) > 0.95
    assert fraction_right(True, UNSEEN) > 0.4
    assert fraction_right(False, UNSEEN) == 0.0


def test_copying_needs_attention_and_a_joint_tokenizer_and_an_order_needs_copying():
    with pytest.raises(ValueError, match="model.copying needs a decoder with attention"):
        dataclasses.replace(recurrent(decoder={"attention": None}), copying=True)
    separate = dataclasses.replace(VOCABULARY, joint=False)
    with pytest.raises(ValueError, match="model.copying needs a joint tokenizer.*tokenizer.joint is False"):
        dataclasses.replace(transformer(tied_embeddings="decoder"), copying=True).build(separate)
    with pytest.raises(ValueError, match="model.copying_in_order has no effect without copying"):
        dataclasses.replace(transformer(), copying_in_order=True)


@pytest.mark.parametrize(
    ("settings", "copying", "message"),
    [
        ({"coverage_weight": 1.0}, False, "coverage_weight = 1.0 has no effect without copying"),
        ({"unlikelihood_weight": 1.0}, True, "unlikelihood_weight = 1.0 is not supported with model.copying"),
        (
            {
                "sampling_schedule": "linear",
                "sampling_limit": 0.5,
                "sampling_steps": 9,
                "sampling_choice": "argmax",
            },
            True,
            "sampling_schedule = linear is not supported with model.copying",
        ),
    ],
)
def test_what_does_not_go_with_copying_is_one_line(settings, copying, message):
    model = dataclasses.replace(transformer(), copying=copying)
    with pytest.raises(ValueError, match=message):
        MaximumLikelihoodConfig(**settings).check(model, accumulation=1)
    with pytest.raises(ValueError, match="coverage_weight must not be negative"):
        MaximumLikelihoodConfig(coverage_weight=-1.0)
