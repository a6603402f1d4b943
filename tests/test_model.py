"""What every architecture has to keep, and what only some have: ties between embeddings, layers in a loop, remat."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import ARCHITECTURES, TINY_VOCABULARY, VOCABULARY, parameters, transformer
from batches import batch, by_example, random_pairs, sequence

from seq2seq_jax.batch import Batch, Vocabulary
from seq2seq_jax.generation.context import GenerationContext
from seq2seq_jax.generation.search import beam_search
from seq2seq_jax.model import ModelConfig

SOURCE_LENGTHS, TARGET_LENGTHS = (5, 1, 7, 3, 6, 2), (4, 6, 1, 5, 3, 7)
PAIRS = random_pairs(np.random.default_rng(0), SOURCE_LENGTHS, TARGET_LENGTHS, VOCABULARY)
PACKED_ORDER = (4, 0, 1, 2, 5, 3)
SOURCE_ROW, TARGET_ROW = 12, 13
"""Tokens of a row, which three pairs fill."""
ALONE, PACKED = (
    jax.tree.map(jnp.asarray, batch(rows, SOURCE_ROW, TARGET_ROW, VOCABULARY))
    for rows in (
        [[pair] for pair in PAIRS],
        # Empty rows, so that both have one shape and are one program.
        [*([PAIRS[index] for index in PACKED_ORDER[row : row + 3]] for row in (0, 3)), *[[]] * 4],
    )
)

PAIRED = (
    "rotary",
    "relative",
    "bfloat16",
    "gru_additive_feeding",
    "recurrent-transformer",
    "convolutional-convolutional",
    "transformer-recurrent_none",
    "copying_transformer",
    "copying_recurrent",
    "copying_convolutional",
)
"""An encoder and a decoder each keep their contracts by themselves (tests/encoders, tests/decoders); that they fit
together is seen in these pairs, and in all others when they, or the search, have changed."""

every_architecture = pytest.mark.parametrize(
    "name",
    [
        name
        if name in PAIRED
        else pytest.param(name, marks=pytest.mark.deep("seq2seq_jax.model", "seq2seq_jax.generation.search"))
        for name in ARCHITECTURES
    ],
)


@functools.cache
def built(name, vocabulary=VOCABULARY):
    model = ARCHITECTURES[name].config.build(vocabulary)
    return model, parameters(model)


def mean_loss(logits, target):
    """Nats a token."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), target.tokens[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(target.mask, picked, 0.0)) / jnp.sum(target.mask)


@functools.cache
def compiled(name):
    model, params = built(name)

    def loss(params, batch):
        logits = model.apply({"params": params}, batch)
        return mean_loss(logits, batch.target), logits

    differentiate = jax.jit(jax.grad(loss, has_aux=True))
    return lambda batch: differentiate(params, batch)


def assert_close(found, expected, tolerance):
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance), found, expected
    )


def logits_by_example(logits, rows):
    return by_example(logits, rows.target.segment_ids)


@every_architecture
def test_packed_equals_unpacked(name):
    alone_gradient, alone = compiled(name)(ALONE)
    packed_gradient, packed = compiled(name)(PACKED)
    alone = logits_by_example(alone, ALONE)
    assert [len(logits) for logits in alone] == list(TARGET_LENGTHS)
    expected = [alone[index] for index in PACKED_ORDER]
    assert_close(logits_by_example(packed, PACKED), expected, ARCHITECTURES[name].tolerance)
    assert_close(packed_gradient, alone_gradient, ARCHITECTURES[name].tolerance)


@every_architecture
def test_what_stands_in_padding_changes_nothing(name):
    """Whether there is any does not either: pairs alone in a row have padding, of three packed ones none has."""
    assert bool(PACKED.source.mask[:2].all() and PACKED.target.mask[:2].all() and not PACKED.source.mask[2:].any())

    def with_any_padding(side):
        anything = np.random.default_rng(1).integers(0, VOCABULARY.target_size, side.tokens.shape, dtype=np.int32)
        return side.replace(tokens=jnp.where(side.mask, side.tokens, anything))

    for rows in (ALONE, PACKED):
        gradient, logits = compiled(name)(rows)
        filled = Batch(source=with_any_padding(rows.source), target=with_any_padding(rows.target))
        filled_gradient, filled_logits = compiled(name)(filled)
        assert np.all(np.isfinite(filled_logits))
        in_padding, expected = (logits_by_example(each, rows) for each in (filled_logits, logits))
        jax.tree.map(np.testing.assert_array_equal, in_padding, expected)
        assert_close(filled_gradient, gradient, ARCHITECTURES[name].tolerance)


def with_tokens_from(rows, position, side):
    """Other tokens from a place of each row on."""
    chosen = getattr(rows, side)
    tokens = np.array(chosen.tokens)
    words = VOCABULARY.target_size - VOCABULARY.eos_id
    tokens[:, position:] = VOCABULARY.eos_id + (tokens[:, position:] - VOCABULARY.eos_id + 7) % words
    return rows.replace(**{side: chosen.replace(tokens=tokens)})


@every_architecture
def test_future_targets_change_nothing(name):
    # The last segment of the first row stands at 7 to 12, that of the second row at 8 to 12: position 9 is in both.
    tolerance = ARCHITECTURES[name].tolerance
    for position in (0, 4, 9, 12):
        _, logits = compiled(name)(PACKED)
        _, changed = compiled(name)(with_tokens_from(PACKED, position, "target"))
        assert_close(changed[:, : position + 1], logits[:, : position + 1], tolerance)
        if position == 9:
            # The label at 9 is the input at 10, and is seen there.
            assert np.all(np.abs(changed[:2, 10] - logits[:2, 10]).max(axis=-1) > 2 * tolerance)


@every_architecture
def test_every_label_depends_on_the_whole_source_of_its_own_segment_alone(name):
    tolerance = ARCHITECTURES[name].tolerance
    _, logits = compiled(name)(PACKED)
    _, changed = compiled(name)(with_tokens_from(PACKED, 6, "source"))
    # Six tokens of the first row's source are one segment; in the second row, position 6 is the end of the first one.
    moved = np.abs(changed - logits).max(axis=-1)
    segments = PACKED.target.segment_ids
    assert PACKED.source.segment_ids[:2, 6].tolist() == [2, 1]
    assert np.all(moved[0, segments[0] == 1] <= tolerance)
    assert np.all(moved[0, segments[0] > 1] > 2 * tolerance)
    assert np.all(moved[1, segments[1] > 0] > 2 * tolerance)


@every_architecture
def test_stepwise_decoding_equals_teacher_forcing(name):
    beam_size, max_length = 2, 18
    model, params = built(name)
    rng = np.random.default_rng(2)
    sources = [source for source, _ in random_pairs(rng, (5, 1, 8), (1, 1, 1), VOCABULARY)]
    targets = [target for _, target in random_pairs(rng, (1,) * 6, (7, 3, 6, 7, 1, 5), VOCABULARY)]
    pairs = [(sources[index // beam_size], target) for index, target in enumerate(targets)]
    forced = batch([[pair] for pair in pairs], SOURCE_ROW, TARGET_ROW, VOCABULARY)
    _, expected = compiled(name)(forced)

    @jax.jit
    def decode(params, source, tokens):
        apply = functools.partial(model.apply, {"params": params})
        memory = apply(source, deterministic=True, method="encode")
        state = apply(memory, max_length=max_length, beam_size=beam_size, method="start")

        def step(carried, tokens):
            logits, after = apply(tokens, carried.replace(per_source=state.per_source), method="step")
            return after.replace(per_source=None), (logits, after.per_source)

        _, (logits, per_source) = jax.lax.scan(step, state.replace(per_source=None), tokens)
        return logits, state.per_source, per_source

    start = np.full((len(targets), 1), VOCABULARY.bos_id, np.int32)
    inputs = np.concatenate([start, forced.target.tokens[:, :-1]], axis=1)
    source = sequence([[source] for source in sources], 9, VOCABULARY.pad_id)
    logits, before, after = decode(params, source, inputs.T)
    stepwise = [logits[: len(target), index] for index, target in enumerate(targets)]
    assert_close(stepwise, logits_by_example(expected, forced), ARCHITECTURES[name].tolerance)
    # What the hypotheses of a source share is not changed by any step.
    jax.tree.map(lambda old, new: np.testing.assert_array_equal(new, np.broadcast_to(old, new.shape)), before, after)


@every_architecture
def test_a_wide_beam_finds_what_brute_force_finds(name):
    words, eos_id = (3, 4, 5), TINY_VOCABULARY.eos_id
    beam_size, alpha = 40, 0.7
    limits, sources = (4, 3), ([3, 5, 4, eos_id], [5, eos_id])
    model, params = built(name, TINY_VOCABULARY)

    @jax.jit
    def search(params, source):
        apply = functools.partial(model.apply, {"params": params})
        memory = apply(source, deterministic=True, method="encode")
        context = GenerationContext(
            step=lambda tokens, state: apply(tokens, state, method="step"),
            start=lambda number: apply(memory, max_length=4, beam_size=number, method="start"),
            limits=jnp.array(limits),
            max_length=4,
            vocabulary=TINY_VOCABULARY,
        )
        return beam_search(context, beam_size=beam_size, n_best=beam_size, length_penalty=alpha)

    pairs = [
        (source, [*text, eos_id])
        for source, limit in zip(sources, limits, strict=True)
        for length in range(limit)
        for text in itertools.product(words, repeat=length)
    ]
    rows = batch([[pair] for pair in pairs], 4, 4, TINY_VOCABULARY)
    log_p = np.asarray(jax.nn.log_softmax(jax.jit(model.apply)({"params": params}, rows)), np.float64)
    picked = np.take_along_axis(log_p, rows.target.tokens[..., None], axis=-1)[..., 0]
    totals = np.sum(picked * rows.target.mask, axis=1)
    scores = {
        (*source, *target): total / ((5 + len(target)) / 6) ** alpha
        for (source, target), total in zip(pairs, totals, strict=True)
    }

    result = jax.device_get(search(params, sequence([[source] for source in sources], 4, TINY_VOCABULARY.pad_id)))
    # A log-probability adds up to four logits and normalisers, each with a rounding of its own.
    tolerance = 8 * ARCHITECTURES[name].tolerance
    for index, (source, number) in enumerate(zip(sources, (40, 13), strict=True)):
        found = [
            (*source, *tokens[:length])
            for tokens, length in zip(result.tokens[index], result.lengths[index], strict=True)
            if length
        ]
        assert len(found) == len(set(found)) == number
        found_scores = result.scores[index, :number]
        np.testing.assert_allclose(found_scores, [scores[pair] for pair in found], atol=tolerance)
        of_source = [score for pair, score in scores.items() if pair[: len(source)] == tuple(source)]
        np.testing.assert_allclose(found_scores, sorted(of_source, reverse=True), atol=tolerance)


@pytest.mark.parametrize(
    "name", ["relative", "gru_additive_feeding", "lstm_coverage", "convolutional_widths", "copying_transformer"]
)
def test_sources_that_are_done_leave_the_search(name):
    model, params = built(name)
    rng, number = np.random.default_rng(3), 17
    sources = [source for source, _ in random_pairs(rng, rng.integers(1, 9, number), (1,) * number, VOCABULARY)]
    limits = jnp.asarray(rng.integers(1, 13, number))

    @functools.partial(jax.jit, static_argnames="max_compactions")
    def search(params, source, max_compactions):
        apply = functools.partial(model.apply, {"params": params})
        memory = apply(source, deterministic=True, method="encode")
        context = GenerationContext(
            step=lambda tokens, state: apply(tokens, state, method="step"),
            start=lambda number: apply(memory, max_length=12, beam_size=number, method="start"),
            limits=limits,
            max_length=12,
            vocabulary=VOCABULARY,
        )
        return beam_search(context, beam_size=3, n_best=2, length_penalty=0.7, max_compactions=max_compactions)

    rows = sequence([[source] for source in sources], 8, VOCABULARY.pad_id)
    whole, shrinking = (jax.device_get(search(params, rows, max_compactions)) for max_compactions in (0, 1))
    np.testing.assert_array_equal(shrinking.tokens, whole.tokens)
    np.testing.assert_allclose(shrinking.scores, whole.scores, rtol=ARCHITECTURES[name].tolerance)


@functools.cache
def trained_by(**settings):
    """Gradient with dropout, and loss, of the first architecture with the settings, at the same parameters."""
    config = transformer(**settings)
    model, params = config.build(VOCABULARY), built("transformer")[1]

    def loss(params, rows, rng):
        return mean_loss(model.apply({"params": params}, rows, deterministic=False, rngs={"dropout": rng}), rows.target)

    value, gradient = jax.jit(jax.value_and_grad(loss))(params, PACKED, jax.random.key(5))
    return {"loss": value, "gradient": gradient}


@pytest.mark.parametrize(("scan_layers", "remat"), [(True, "none"), (False, "full"), (True, "save_products")])
def test_neither_the_loop_over_layers_nor_remat_changes_a_number(scan_layers, remat):
    assert_close(trained_by(scan_layers=scan_layers, remat=remat), trained_by(scan_layers=False, remat="none"), 1e-6)


def test_remat_keeps_less_for_the_backward_pass():
    def kept(remat):
        model = transformer(remat=remat, scan_layers=True).build(VOCABULARY)

        def backward(params):
            return jax.vjp(lambda params: model.apply({"params": params}, PACKED), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, built("transformer")[1])))

    assert kept("full") < kept("save_products") < kept("none")


@functools.cache
def in_precision(precision):
    # A smooth activation: the gradient of a ReLU jumps where a rounding changes a sign.
    model = transformer(activation="gelu", scan_layers=True, precision=precision).build(VOCABULARY)

    def loss(params):
        logits = model.apply({"params": params}, PACKED)
        return mean_loss(logits, PACKED.target), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(built("transformer")[1])
    return logits[PACKED.target.mask], gradient


def relative_error(found, expected):
    """Norm of the difference of two trees over the norm of the second."""
    squares = [
        (np.sum(np.square(left - right)), np.sum(np.square(right)))
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]
    error, norm = np.sum(squares, axis=0)
    return (error / norm) ** 0.5


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_products"])
def test_low_precision_stays_near_float32(precision):
    """One rounding to 8 bits is off by up to 0.002 of a value, 0.001 on average; here are some 20 in a row."""
    logits, gradient = in_precision(precision)
    expected_logits, expected_gradient = in_precision("float32")
    assert 5e-4 < relative_error(logits, expected_logits) < 0.03
    assert 5e-4 < relative_error(gradient, expected_gradient) < 0.03


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bfloat16_products"])
def test_parameters_gradients_and_logits_are_float32(precision):
    model = transformer(precision=precision).build(VOCABULARY)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters(model))} == {jnp.dtype(jnp.float32)}
    logits, gradient = in_precision(precision)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradient))} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bfloat16_products"])
def test_activations_and_caches_have_the_dtype_of_the_precision(precision):
    model = transformer(precision=precision).build(VOCABULARY)
    params = built("transformer")[1]
    memory = jax.eval_shape(lambda: model.apply({"params": params}, ALONE.source, deterministic=True, method="encode"))
    state = jax.eval_shape(
        lambda memory: model.apply({"params": params}, memory, max_length=3, beam_size=2, method="start"), memory
    )
    expected = jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)
    assert {memory.states.dtype, *(leaf.dtype for leaf in jax.tree.leaves(state.history))} == {expected}


@pytest.mark.parametrize(
    ("tied_embeddings", "tables"),
    [
        ("all", {"target_embedding"}),
        ("decoder", {"source_embedding", "target_embedding"}),
        ("inputs", {"target_embedding", "output"}),
        ("none", {"source_embedding", "target_embedding", "output"}),
    ],
)
def test_tied_embeddings_are_one_table(tied_embeddings, tables):
    is_one = tied_embeddings in ("all", "inputs")
    vocabulary = dataclasses.replace(VOCABULARY, source_size=VOCABULARY.target_size if is_one else 31)
    model = transformer(tied_embeddings=tied_embeddings).build(vocabulary)
    params = parameters(model)
    assert set(params) - {"encoder", "decoder"} == tables
    hidden = jnp.asarray(np.random.default_rng(3).normal(size=(len(PAIRS), 5, 16)), jnp.float32)
    memory = model.apply({"params": params}, ALONE.source, deterministic=True, method="encode")
    logits = model.apply({"params": params}, hidden, ALONE.target.segment_ids[:, :5], memory, method="logits")
    output = params["output" if "output" in tables else "target_embedding"]["table"]
    np.testing.assert_allclose(logits, hidden @ output.T, rtol=1e-5, atol=1e-5)
    source = params["target_embedding" if is_one else "source_embedding"]["table"]
    assert source.shape == (vocabulary.source_size, 16)


@pytest.mark.parametrize(
    ("table", "memory_moves", "hidden_moves"),
    [("source_embedding", True, False), ("target_embedding", False, True), ("output", False, False)],
)
def test_untied_each_side_reads_its_own_table(table, memory_moves, hidden_moves):
    model, params = built("rotary")
    moved = {**params, table: jax.tree.map(lambda leaf: leaf + 0.5, params[table])}
    memory = model.apply({"params": params}, ALONE.source, deterministic=True, method="encode")

    def encode(params):
        return model.apply({"params": params}, ALONE.source, deterministic=True, method="encode").states

    def decode(params):
        return model.apply({"params": params}, ALONE.target, memory, deterministic=True, method="decode")

    for compute, moves in ((encode, memory_moves), (decode, hidden_moves)):
        assert (np.abs(compute(moved) - compute(params)).max() > 1e-3) == moves


def test_dropout_is_drawn_from_its_key_alone_and_is_off_when_deterministic():
    model, params = built("transformer")

    @functools.partial(jax.jit, static_argnames="deterministic")
    def apply(rng, deterministic=False):
        return model.apply({"params": params}, PACKED, deterministic=deterministic, rngs={"dropout": rng})

    first, again, other = (apply(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    without = apply(jax.random.key(1), deterministic=True)
    np.testing.assert_allclose(without, compiled("transformer")(PACKED)[1], rtol=1e-5, atol=1e-5)
    assert np.abs(first - without).max() > 0.1


def test_the_source_and_the_target_of_a_joint_tokenizer_may_share_a_table_alone():
    sides = dataclasses.replace(VOCABULARY, joint=False)
    with pytest.raises(ValueError, match="^model.tied_embeddings = all needs a joint tokenizer[^\n]*$"):
        transformer().build(sides)
    assert transformer(tied_embeddings="decoder").build(sides).vocabulary == sides


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scaled_embeddings": "source"}, "scaled_embeddings = source needs a table per side"),
        ({"logit_scale": 0.0}, "logit_scale must be positive or None, and is 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=rf"^model\.{message}[^\n]*$"):
        dataclasses.replace(transformer(), **wrong)


def test_one_table_needs_one_width():
    with pytest.raises(ValueError, match="^model.tied_embeddings = all needs one model_dim[^\n]* 24 and 16[^\n]*$"):
        transformer(encoder={"model_dim": 24})
    assert isinstance(transformer(encoder={"model_dim": 24}, tied_embeddings="decoder"), ModelConfig)


def test_vocabularies_may_differ_in_size():
    vocabulary = Vocabulary(source_size=11, target_size=7, joint=False, pad_id=0, bos_id=2, eos_id=3)
    model = transformer(tied_embeddings="decoder").build(vocabulary)
    params = parameters(model)
    rows = batch([[([10, 9, 3], [6, 5, 4, 3])]], 3, 4, vocabulary)
    assert jax.eval_shape(model.apply, {"params": params}, rows).shape == (1, 4, 7)
