"""What every decoder has to keep, given a memory made by hand: packing, causality, and steps that are its places."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import EVERY_DECODER, VOCABULARY, random_parameters
from batches import batch, by_example, random_pairs, sequence

from seq2seq_jax.batch import Memory, TokenRows, shift_right
from seq2seq_jax.modules.precision import activation_dtype

SOURCE_LENGTHS, TARGET_LENGTHS = (5, 1, 7, 3, 6, 2), (4, 6, 1, 5, 3, 7)
PAIRS = random_pairs(np.random.default_rng(0), SOURCE_LENGTHS, TARGET_LENGTHS, VOCABULARY)
ORDER = (4, 0, 1, 2, 5, 3)
SOURCE_ROW, TARGET_ROW = 12, 13
"""Tokens of a row, which three pairs fill."""
ALONE, PACKED = (
    jax.tree.map(jnp.asarray, batch(rows, SOURCE_ROW, TARGET_ROW, VOCABULARY))
    for rows in (
        [[pair] for pair in PAIRS],
        # Empty rows, so that both have one shape and are one program.
        [*([PAIRS[index] for index in ORDER[row : row + 3]] for row in (0, 3)), *[[]] * 4],
    )
)

every_decoder = pytest.mark.parametrize("name", EVERY_DECODER)


class Case:
    """A decoder, its parameters, and embeddings of both sides."""

    def __init__(self, name):
        self.row = row = EVERY_DECODER[name]
        rng = np.random.default_rng(1)
        self.tables = {
            part: jnp.asarray(rng.normal(size=(VOCABULARY.source_size, dim)), jnp.float32)
            for part, dim in (
                ("inputs", row.config.model_dim),
                ("states", row.memory_dim),
                ("values", row.memory_dim),
                ("summary", row.summary_dim),
                ("directions", row.config.model_dim),
            )
        }
        self.module = row.config.build(memory_dim=row.memory_dim, summary_dim=row.summary_dim, precision=row.precision)
        inputs = self.tables["inputs"][ALONE.target.tokens]
        self.params = random_parameters(
            self.module, inputs, ALONE.target, self.memory(ALONE.source), deterministic=True
        )
        self.differentiate = jax.jit(jax.grad(self.loss, argnums=(0, 1), has_aux=True, allow_int=True))

    def embedded(self, part, tokens):
        return self.tables[part][tokens].astype(activation_dtype(self.row.precision))

    def memory(self, source: TokenRows) -> Memory:
        """Of each token a state and a value; of each segment the sum over its tokens of something else."""
        segments = jnp.arange(1, source.tokens.shape[1] + 1)
        of_segment = (source.segment_ids[:, None] == segments[:, None]).astype(jnp.float32)
        summary = of_segment @ self.tables["summary"][source.tokens]
        return Memory(
            states=self.embedded("states", source.tokens),
            values=self.embedded("values", source.tokens),
            summary=summary.astype(activation_dtype(self.row.precision)),
            segment_ids=source.segment_ids,
        )

    def loss(self, params, memory, inputs, target):
        hidden = self.module.apply({"params": params}, inputs, target, memory, deterministic=True)
        weighed = jnp.sum(hidden.astype(jnp.float32) * self.tables["directions"][target.tokens], axis=-1)
        return jnp.sum(jnp.where(target.mask, weighed, 0.0)) / jnp.sum(target.mask), hidden

    def __call__(self, rows, memory=None):
        """The gradients by parameters and by the memory's states, values and summary; and the hidden states."""
        inputs = shift_right(rows.target, VOCABULARY.bos_id).tokens
        memory = self.memory(rows.source) if memory is None else memory
        embedded = self.embedded("inputs", inputs)
        (of_params, of_memory), hidden = self.differentiate(self.params, memory, embedded, rows.target)
        return of_params, of_memory, np.asarray(hidden, np.float32)


case = functools.cache(Case)


def assert_close(found, expected, tolerance):
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(
            np.asarray(left, np.float32), np.asarray(right, np.float32), rtol=tolerance, atol=tolerance
        ),
        found,
        expected,
    )


def of_examples(hidden, rows):
    return by_example(hidden, rows.target.segment_ids)


@every_decoder
def test_packed_equals_unpacked(name):
    tolerance = EVERY_DECODER[name].tolerance
    alone_gradient, of_alone, alone = case(name)(ALONE)
    packed_gradient, of_packed, packed = case(name)(PACKED)
    alone = of_examples(alone, ALONE)
    assert [len(hidden) for hidden in alone] == list(TARGET_LENGTHS)
    assert_close(of_examples(packed, PACKED), [alone[index] for index in ORDER], tolerance)
    assert_close(packed_gradient, alone_gradient, tolerance)
    # What an encoder would learn from.
    for part in ("states", "values"):
        of_pairs = by_example(np.asarray(getattr(of_alone, part), np.float32), ALONE.source.segment_ids)
        expected = [of_pairs[index] for index in ORDER]
        found = by_example(np.asarray(getattr(of_packed, part), np.float32), PACKED.source.segment_ids)
        assert_close(found, expected, tolerance)
    found = np.asarray(of_packed.summary, np.float32)[:2, :3].reshape(6, -1)
    assert_close(found, np.asarray(of_alone.summary, np.float32)[list(ORDER), 0], tolerance)


@every_decoder
def test_what_stands_in_padding_changes_nothing(name):
    """Whether there is any does not either: pairs alone in a row have padding, of three packed ones none has."""
    assert bool(PACKED.source.mask[:2].all() and PACKED.target.mask[:2].all() and not PACKED.source.mask[2:].any())
    rng = np.random.default_rng(2)

    def filled(side):
        anything = rng.integers(0, VOCABULARY.target_size, side.tokens.shape, dtype=np.int32)
        return side.replace(tokens=jnp.where(side.mask, side.tokens, anything))

    for rows in (ALONE, PACKED):
        gradient, _, hidden = case(name)(rows)
        memory = case(name).memory(rows.source)
        other = case(name).memory(filled(rows.source))
        unused = jnp.arange(1, SOURCE_ROW + 1) > rows.source.segment_ids.max(axis=1, keepdims=True)
        memory = memory.replace(
            states=other.states, values=other.values, summary=jnp.where(unused[..., None], 3.0, memory.summary)
        )
        filled_gradient, _, filled_hidden = case(name)(rows.replace(target=filled(rows.target)), memory)
        assert np.all(np.isfinite(filled_hidden))
        jax.tree.map(np.testing.assert_array_equal, of_examples(filled_hidden, rows), of_examples(hidden, rows))
        assert_close(filled_gradient, gradient, EVERY_DECODER[name].tolerance)


def with_tokens_from(side, position):
    """Other tokens from a place of each row on."""
    tokens = np.array(side.tokens)
    words = VOCABULARY.target_size - VOCABULARY.eos_id
    tokens[:, position:] = VOCABULARY.eos_id + (tokens[:, position:] - VOCABULARY.eos_id + 7) % words
    return side.replace(tokens=jnp.asarray(tokens))


@every_decoder
def test_future_targets_change_nothing(name):
    # The last segment of the first row stands at 7 to 12, that of the second row at 8 to 12: position 9 is in both.
    tolerance = EVERY_DECODER[name].tolerance
    _, _, hidden = case(name)(PACKED)
    for position in (0, 4, 9, 12):
        _, _, changed = case(name)(PACKED.replace(target=with_tokens_from(PACKED.target, position)))
        assert_close(changed[:, : position + 1], hidden[:, : position + 1], tolerance)
        if position == 9:
            # The label at 9 is the input at 10, and is seen there.
            assert np.all(np.abs(changed[:2, 10] - hidden[:2, 10]).max(axis=-1) > 2 * tolerance)


@every_decoder
def test_every_label_depends_on_the_memory_of_its_own_segment_alone(name):
    """And on all of it, the last token of a segment of six, or what is left of one at its end."""
    tolerance = EVERY_DECODER[name].tolerance
    _, _, hidden = case(name)(PACKED)
    _, _, changed = case(name)(PACKED, case(name).memory(with_tokens_from(PACKED.source, 6)))
    moved = np.abs(changed - hidden).max(axis=-1)
    segments = PACKED.target.segment_ids
    assert PACKED.source.segment_ids[:2, 6].tolist() == [2, 1]
    assert np.all(moved[0, segments[0] == 1] <= tolerance)
    assert np.all(moved[0, segments[0] > 1] > 2 * tolerance)
    assert np.all(moved[1, segments[1] > 0] > 2 * tolerance)


@every_decoder
def test_stepwise_decoding_equals_teacher_forcing(name):
    """Also where a search continues from another hypothesis of the same source: it moves what is per hypothesis
    alone."""
    beam, length, max_length = 2, 7, 18
    module = case(name).module
    rng = np.random.default_rng(3)
    sources = [source for source, _ in random_pairs(rng, (5, 1, 8), (1, 1, 1), VOCABULARY)]
    tokens = rng.integers(VOCABULARY.eos_id + 1, VOCABULARY.target_size, (length, len(sources), beam)).astype(np.int32)
    # Which hypothesis of its source each one continues from, after each step.
    parents = np.array([[0, 1], [1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 1]])

    @jax.jit
    def decode(params, memory, inputs, parents):
        apply = functools.partial(module.apply, {"params": params})
        state = apply(memory, max_length=max_length, beam_size=beam, method="start")

        def step(carried, each):
            inputs, parents = each
            hidden, after = apply(inputs, carried.replace(per_source=state.per_source), method="step")
            moved = jax.tree.map(
                lambda leaf: leaf.reshape(len(sources), beam, *leaf.shape[1:])[:, parents].reshape(leaf.shape),
                after.per_hypothesis,
            )
            return after.replace(per_source=None, per_hypothesis=moved), (hidden, after.per_source)

        _, (hidden, per_source) = jax.lax.scan(step, state.replace(per_source=None), (inputs, parents))
        return hidden.reshape(length, len(sources), beam, -1), state.per_source, per_source

    start = np.full((1, len(sources), beam), VOCABULARY.bos_id, np.int32)
    inputs = np.concatenate([start, tokens[:-1]]).reshape(length, -1)
    memory = case(name).memory(jax.tree.map(jnp.asarray, sequence([[each] for each in sources], 9, 0)))
    hidden, before, after = decode(case(name).params, memory, case(name).embedded("inputs", inputs), parents)

    # Back from each hypothesis of the last step to what led to it.
    slots = [np.arange(beam)]
    for step in reversed(range(length - 1)):
        slots.insert(0, parents[step][slots[0]])
    at = [(source, slot) for source in range(len(sources)) for slot in range(beam)]
    # What is read at a step is the label of the place before; that of the last place is read nowhere.
    texts = [
        [*(int(tokens[step - 1, source, slots[step][slot]]) for step in range(1, length)), VOCABULARY.eos_id]
        for source, slot in at
    ]
    stepwise = [[hidden[step, source, slots[step][slot]] for step in range(length)] for source, slot in at]
    forced = batch(
        [[(sources[source], text)] for (source, _), text in zip(at, texts, strict=True)],
        SOURCE_ROW,
        TARGET_ROW,
        VOCABULARY,
    )
    _, _, expected = case(name)(jax.tree.map(jnp.asarray, forced))
    assert len({tuple(text) for text in texts}) == len(texts)
    assert_close(np.array(stepwise), np.array(of_examples(expected, forced)), EVERY_DECODER[name].tolerance)
    # What the hypotheses of a source share is not changed by any step.
    jax.tree.map(lambda old, new: np.testing.assert_array_equal(new, np.broadcast_to(old, new.shape)), before, after)
