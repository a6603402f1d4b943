"""Controls against the enumeration of all texts of small models, by definitions in NumPy."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import flags_for_devices
from table_model import END, NUM_STATES, PADDING, START, VOCABULARY, TableModel, random_model

from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.generation.diverse_search import diverse_beam_search
from seq2seq_jax.generation.phrases import Phrases
from seq2seq_jax.generation.processor import Processor
from seq2seq_jax.generation.sampling import Policy, draws_by_line, sample
from seq2seq_jax.generation.search import beam_search
from seq2seq_jax.generation.stochastic_search import stochastic_beam_search

WORDS = (3, 4, 5)
LIMIT = 4
ALPHA = 0.7
CASES = {
    "repetition": Controls(repetition_penalty=1.7),
    "rewarded repetition": Controls(repetition_penalty=0.6),
    "unigrams": Controls(no_repeat_ngram=1),
    "bigrams": Controls(no_repeat_ngram=2),
    "minimum": Controls(minimum_length=3),
    "forbidden": Controls(forbidden_ids=(4,)),
    "first": Controls(first_ids=(5, 3)),
    "all": Controls(repetition_penalty=1.3, no_repeat_ngram=2, minimum_length=3, forbidden_ids=(3,), first_ids=(4,)),
    "stuck": Controls(no_repeat_ngram=1, minimum_length=4, forbidden_ids=(3, 4)),
}


def processor_of(controls, sources, *, prefixes=None, **others):
    """What applies controls, and a prefix for each source."""
    prefixes = [controls.first_ids] * sources if prefixes is None else prefixes
    room = max(1, *map(len, prefixes))
    return Processor(
        controls=controls,
        vocabulary=VOCABULARY,
        forbidden=controls.forbidden_ids,
        minimum_lengths=jnp.full(sources, controls.minimum_length) if controls.minimum_length else None,
        prefix=jnp.array([[*prefix, *[0] * (room - len(prefix))] for prefix in prefixes]) if any(prefixes) else None,
        prefix_lengths=jnp.array([len(prefix) for prefix in prefixes]) if any(prefixes) else None,
        **jax.tree.map(jnp.asarray, others),
    )


def repeats(text, n):
    grams = [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]
    return len(set(grams)) < len(grams)


def allowed_after(before, controls, prefix=()):
    """The tokens that may follow, by the definitions of the controls."""
    if len(before) < len(prefix):
        return [prefix[len(before)]]
    allowed = [token for token in WORDS if token not in controls.forbidden_ids]
    if controls.no_repeat_ngram:
        n = controls.no_repeat_ngram
        before_grams = {tuple(before[start : start + n]) for start in range(len(before) - n + 1)}
        allowed = [token for token in allowed if (*before, token)[-n:] not in before_grams or len(before) < n - 1]
    if len(before) + 1 >= controls.minimum_length or not allowed:
        allowed = [*allowed, END]
    return allowed


def penalised(model, source, before, controls):
    """Logits after the repetition penalty."""
    inputs = np.array((START, *before)) + 1
    logits = model.table[source, inputs @ model.weights(len(inputs)) % NUM_STATES].astype(np.float64)
    for token in set(before):
        logits[token] *= controls.repetition_penalty if logits[token] < 0 else 1 / controls.repetition_penalty
    return logits


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum())


def enumerated(model, source, controls, prefix=(), limit=LIMIT):
    """Every text that the controls allow -> its score before the length penalty, and its probability by the model."""
    found = {}

    def extend(before, score):
        if before and before[-1] == END:
            found[before] = score, model.log_probability(source, before)
            return
        at_limit = len(before) + 1 == limit
        scores = log_softmax(penalised(model, source, before, controls))
        for token in [END] if at_limit else allowed_after(before, controls, prefix):
            extend((*before, token), score + scores[token])

    extend((), 0.0)
    return found


def policy_of(model, source, controls, prefix=(), limit=LIMIT):
    """Every text that is drawn under the controls -> its probability; it is cut at the limit."""
    found = {}

    def extend(before, probability):
        if (before and before[-1] == END) or len(before) == limit:
            found[before] = probability
            return
        logits = penalised(model, source, before, controls)
        allowed = allowed_after(before, controls, prefix)
        shares = np.exp(log_softmax(logits[allowed]))
        for token, share in zip(allowed, shares, strict=True):
            extend((*before, token), probability * share)

    extend((), 1.0)
    return found


def texts_of(result, source):
    found = {}
    for tokens, score, total, length in zip(
        *(
            np.asarray(leaf)[source]
            for leaf in (result.tokens, result.scores, result.log_probabilities, result.lengths)
        ),
        strict=True,
    ):
        if length:
            assert (tokens[length:] == PADDING).all()
            found[tuple(tokens[:length].tolist())] = score, total
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_wide_beam_finds_all_texts_that_controls_allow_with_their_scores(name):
    controls, model = CASES[name], random_model(3)
    context = model.context([LIMIT] * 3, processor=processor_of(controls, 3))
    result = jax.jit(lambda: beam_search(context, beam_size=40, n_best=40, length_penalty=ALPHA))()
    unlike = 0
    for source in range(3):
        expected = enumerated(model, source, controls, controls.first_ids)
        found = texts_of(result, source)
        assert set(found) == set(expected)
        for text, (score, total) in expected.items():
            np.testing.assert_allclose(
                found[text], (score / ((5 + len(text)) / 6) ** ALPHA, total), rtol=1e-4, atol=1e-5
            )
            unlike += abs(score - total) > 1e-3
        assert list(found) == sorted(found, key=lambda text: -found[text][0])
    # The log-probability is that of the model; penalties change the score alone.
    assert (unlike > 0) == (controls.repetition_penalty != 1)


@pytest.mark.parametrize("name", CASES)
def test_samples_come_as_often_as_the_policy_under_controls_says(name):
    controls, lines = CASES[name], 4000
    model = random_model(4, num_sources=1)
    repeated = TableModel(np.repeat(model.table, lines, axis=0))
    context = repeated.context([LIMIT] * lines, processor=processor_of(controls, lines))
    policy = Policy(vocabulary=VOCABULARY)
    draws = draws_by_line(context.lines, num_samples=5, seed=0)
    found = jax.jit(lambda: sample(context, policy=policy, draws=draws, num_samples=5))()
    found = jax.tree.map(np.asarray, found)
    expected, counts, totals = policy_of(model, 0, controls, controls.first_ids), {}, {}
    for tokens, length, log_probabilities in zip(
        found.tokens.reshape(-1, LIMIT),
        found.lengths.ravel(),
        found.log_probabilities.reshape(-1, LIMIT),
        strict=True,
    ):
        text = tuple(tokens[:length].tolist())
        counts[text] = counts.get(text, 0) + 1
        totals[text] = log_probabilities.sum()
    assert set(counts) <= set(expected) and sum(expected.values()) == pytest.approx(1)
    assert sum(abs(counts.get(text, 0) / (5 * lines) - share) for text, share in expected.items()) / 2 < 0.02
    for text, total in totals.items():
        assert total == pytest.approx(np.log(expected[text]), rel=1e-4, abs=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["repetition", "bigrams", "all"])
def test_stochastic_beam_search_finds_all_texts_under_controls_and_no_other(name):
    controls, model = CASES[name], random_model(5)
    context = model.context([LIMIT] * 3, processor=processor_of(controls, 3))
    policy = Policy(vocabulary=VOCABULARY)
    result = jax.jit(lambda: stochastic_beam_search(context, policy=policy, num_samples=125, seed=1).as_result())()
    for source in range(3):
        expected = policy_of(model, source, controls, controls.first_ids)
        found = texts_of(result, source)
        assert set(found) == set(expected)
        np.testing.assert_allclose(
            [found[text][1] for text in found], [np.log(expected[text]) for text in found], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", ["repetition", "bigrams", "minimum", "all"])
def test_greedy_decoding_takes_the_best_allowed_token(name):
    controls, model = CASES[name], random_model(6, num_sources=8)
    context = model.context([9] * 8, processor=processor_of(controls, 8))
    result = jax.jit(lambda: beam_search(context, beam_size=1, n_best=1, length_penalty=0.0))()
    for source in range(8):
        text = ()
        while not text or text[-1] != END:
            logits = penalised(model, source, text, controls)
            allowed = [END] if len(text) == 8 else allowed_after(text, controls, controls.first_ids)
            text = (*text, max(allowed, key=lambda token: logits[token]))
        assert list(texts_of(result, source)) == [text]


def test_groups_of_a_diverse_beam_keep_to_controls():
    controls, model, limits = CASES["all"], random_model(7, num_sources=20), [7] * 20
    processor = processor_of(controls, 20)

    def texts(groups, diversity):
        context = model.context(limits, processor=processor)
        settings = {"beam_size": 6, "n_best": 6, "length_penalty": 1.0}
        run = jax.jit(lambda: diverse_beam_search(context, groups=groups, diversity=diversity, **settings))
        return jax.tree.map(np.asarray, run())

    one = jax.jit(
        lambda: beam_search(model.context(limits, processor=processor), beam_size=6, n_best=6, length_penalty=1.0)
    )()
    jax.tree.map(np.testing.assert_array_equal, texts(1, 2.0), jax.tree.map(np.asarray, one))
    found = texts(3, 0.8)
    for source in range(20):
        assert texts_of(found, source)
        for text in texts_of(found, source):
            assert text[0] == 4 and 3 not in text and len(text) >= 3 and not repeats(text[:-1], 2)


def test_each_source_has_its_prefix_and_a_free_search_after_it():
    """As if the search had started from the state that the prefix leads to."""
    model, prefixes = random_model(8, num_sources=4), [(3, 4), (), (5,), (4, 4, 4)]
    settings = {"beam_size": 3, "n_best": 3, "length_penalty": 0.0}
    processor = processor_of(Controls(), 4, prefixes=prefixes)
    run = jax.jit(lambda: beam_search(model.context([8] * 4, processor=processor), **settings))
    result = run()
    for source, prefix in enumerate(prefixes):
        alone = TableModel(model.table[source : source + 1])

        def start(number, alone=alone, prefix=prefix):
            state = alone.start(number, 8)
            for token in (START, *prefix)[:-1]:
                _, state = alone.step(jnp.full(number, token), state)
            return state

        def step(tokens, state, alone=alone, prefix=prefix):
            return alone.step(jnp.where(tokens == START, (START, *prefix)[-1], tokens), state)

        free = beam_search(alone.context([8 - len(prefix)], start=start, step=step), **settings)
        expected = {
            (*prefix, *text): total + (model.log_probability(source, prefix) if prefix else 0.0)
            for text, (_, total) in texts_of(free, 0).items()
        }
        found = texts_of(result, source)
        assert list(found) == list(expected)
        np.testing.assert_allclose([total for _, total in found.values()], list(expected.values()), rtol=1e-4)


def test_lengths_can_differ_by_source():
    model = random_model(9, num_sources=4, spreads=(1.0,))
    processor = dataclasses.replace(processor_of(Controls(), 4), minimum_lengths=jnp.array([1, 3, 6, 9]))
    run = jax.jit(
        lambda: beam_search(model.context([9, 9, 9, 9], processor=processor), beam_size=4, n_best=4, length_penalty=0.0)
    )
    result = run()
    for source, minimum in enumerate([1, 3, 6, 9]):
        lengths = [len(text) for text in texts_of(result, source)]
        assert min(lengths) == minimum


def nothing_asked(sources):
    """Controls that are there, and bind nothing."""
    return processor_of(
        Controls(no_repeat_ngram=50, forbidden_ids=(PADDING,)),
        sources,
        prefixes=[()] * sources,
    ).replace(
        minimum_lengths=jnp.zeros(sources, jnp.int32),
        prefix=jnp.zeros((sources, 2), jnp.int32),
        prefix_lengths=jnp.zeros(sources, jnp.int32),
    )


@pytest.mark.long
def test_controls_that_bind_nothing_change_no_bit():
    model, limits = random_model(10, num_sources=6), [3, 5, 7, 9, 9, 2]
    policy = Policy(vocabulary=VOCABULARY, temperature=0.8)
    draws = draws_by_line(jnp.arange(6), num_samples=4, seed=3)
    methods = [
        lambda context: beam_search(context, beam_size=3, n_best=2, length_penalty=1.0),
        lambda context: beam_search(context, beam_size=3, n_best=2, length_penalty=1.0, sibling_penalty=0.4),
        lambda context: beam_search(context, beam_size=1, n_best=1, length_penalty=0.0),
        lambda context: diverse_beam_search(
            context, beam_size=4, groups=2, diversity=0.5, n_best=4, length_penalty=1.0
        ),
        lambda context: sample(context, policy=policy, draws=draws, num_samples=4),
        lambda context: stochastic_beam_search(context, policy=policy, num_samples=4, seed=0),
    ]
    for method in methods:
        free = jax.jit(lambda method=method: method(model.context(limits)))()
        controlled = jax.jit(lambda method=method: method(model.context(limits, processor=nothing_asked(6))))()
        jax.tree.map(np.testing.assert_array_equal, free, controlled)


def test_a_line_without_phrases_fares_as_if_there_were_none():
    model, limits = random_model(11, num_sources=6), [3, 5, 7, 9, 9, 2]
    phrases = Phrases.of([[], [], [(3, 4)], [], [], []], number=2, length=4)
    settings = {"beam_size": 3, "n_best": 3, "length_penalty": 1.0}
    processor = processor_of(Controls(), 6, phrases=phrases)
    free = jax.jit(lambda: beam_search(model.context(limits), **settings))()
    asked = jax.jit(lambda: beam_search(model.context(limits, processor=processor), **settings))()
    others = np.array([0, 1, 3, 4, 5])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), free, asked)


@pytest.mark.long
def test_sources_that_are_done_leave_the_batch_with_their_controls():
    rng = np.random.default_rng(0)
    model, limits = random_model(12, num_sources=40), [4 + index % 9 for index in range(40)]
    prefixes = [tuple(rng.choice(WORDS, index % 3).tolist()) for index in range(40)]
    phrases = Phrases.of([[(3, 5)] if index % 4 == 0 else [] for index in range(40)], number=1, length=4)
    controls = Controls(repetition_penalty=1.2, no_repeat_ngram=3)
    processor = processor_of(controls, 40, prefixes=prefixes, phrases=phrases)
    processor = processor.replace(minimum_lengths=jnp.array([1 + index % 4 for index in range(40)]))

    def run(number):
        context = model.context(limits, processor=processor)
        search = jax.jit(
            lambda: beam_search(context, beam_size=4, n_best=2, length_penalty=1.0, max_compactions=number)
        )
        return search()

    jax.tree.map(np.testing.assert_array_equal, run(0), run(2))


def test_the_coverage_penalty_is_that_of_the_definition():
    """Texts of a wide beam, with attention that depends on the prefix."""
    beta, model = 0.3, random_model(13)
    attention = np.random.default_rng(1).normal(size=(3, NUM_STATES, 4)) * 2
    weights = np.exp(attention) / np.exp(attention).sum(axis=-1, keepdims=True)
    mask = np.arange(4) < np.array([4, 2, 3])[:, None]

    def attending_step(tokens, state):
        logits, after = model.step(tokens, state)
        prefix = after.per_hypothesis["prefix"]
        number = prefix @ model.weights(prefix.shape[1]) % NUM_STATES
        rows = jnp.arange(len(tokens)) // (len(tokens) // 3)
        return logits, jnp.asarray(weights)[rows, number], after

    processor = processor_of(Controls(coverage_penalty=beta), 3, source_mask=jnp.asarray(mask))
    context = model.context([LIMIT] * 3, processor=processor, attending_step=attending_step)
    settings = {"beam_size": 40, "n_best": 40, "length_penalty": ALPHA}
    result = jax.jit(lambda: beam_search(context, **settings))()
    grouped = jax.jit(lambda: diverse_beam_search(context, groups=1, diversity=0.0, **settings))()
    jax.tree.map(np.testing.assert_array_equal, result, grouped)
    for source in range(3):
        expected = {}
        for text, (_, total) in enumerated(model, source, Controls()).items():
            attended = np.zeros(4)
            for index in range(len(text)):
                inputs = np.array((START, *text[:index])) + 1
                attended += weights[source, inputs @ model.weights(len(inputs)) % NUM_STATES]
            coverage = np.log(np.minimum(attended[mask[source]], 1.0)).sum()
            expected[text] = total / ((5 + len(text)) / 6) ** ALPHA + beta * coverage, total
        found = texts_of(result, source)
        assert list(found) == sorted(expected, key=lambda text: -expected[text][0])
        np.testing.assert_allclose([found[text] for text in found], [expected[text] for text in found], rtol=1e-4)


@pytest.mark.long
def test_controls_of_a_sharded_batch_need_no_exchange():
    """On two devices: the same texts, and nothing crosses between them but whether to go on."""
    program = textwrap.dedent("""
        import re
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        from seq2seq_jax.batch import DecodeState, Vocabulary
        from seq2seq_jax.generation.context import GenerationContext
        from seq2seq_jax.generation.controls import Controls
        from seq2seq_jax.generation.phrases import Phrases
        from seq2seq_jax.generation.processor import Processor
        from seq2seq_jax.generation.sampling import Policy, draws_by_line, sample
        from seq2seq_jax.generation.search import beam_search

        batch, beam, model, vocab, length = 16, 3, 8, 24, 10
        keys = jax.random.split(jax.random.key(0), 3)
        embedding, output = jax.random.normal(keys[0], (vocab, model)), jax.random.normal(keys[1], (model, vocab))
        state = DecodeState(
            per_source=jax.random.normal(keys[2], (batch, model)),
            per_hypothesis=jnp.zeros((batch * beam, model)),
        )

        def step(tokens, state):
            hidden = state.per_hypothesis * 0.5 + embedding[tokens]
            hidden = jnp.tanh(hidden.reshape(-1, beam, model) + state.per_source[:, None]).reshape(hidden.shape)
            return hidden @ output, state.replace(per_hypothesis=hidden)

        vocabulary = Vocabulary(source_size=vocab, target_size=vocab, joint=True, pad_id=0, bos_id=1, eos_id=2)
        rows = np.arange(batch)
        phrases = Phrases.of([[(5, 6), (7,)] if row % 2 else [] for row in rows], number=2, length=4)
        processor = Processor(
            controls=Controls(repetition_penalty=1.3, no_repeat_ngram=2),
            vocabulary=vocabulary,
            forbidden=(9, 10),
            minimum_lengths=jnp.asarray(rows % 5),
            prefix=jnp.asarray(rows[:, None] % 20 + np.array([3, 4])),
            prefix_lengths=jnp.asarray(rows % 3),
        )

        def search(state, limits, processor):
            context = GenerationContext(
                step=step, start=lambda number: state, limits=limits, max_length=length, vocabulary=vocabulary,
                processor=processor,
            )
            return beam_search(context, beam_size=beam, n_best=beam, length_penalty=1.0, max_compactions=1).tokens

        def draw(state, limits, processor):
            context = GenerationContext(
                step=step, start=lambda number: state, limits=limits, max_length=length, vocabulary=vocabulary,
                processor=processor,
            )
            draws = draws_by_line(jnp.arange(batch), num_samples=beam, seed=0)
            return sample(context, policy=Policy(vocabulary=vocabulary), draws=draws, num_samples=beam).tokens

        limits = 7 + jnp.arange(batch) % 4
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
        shard = lambda tree: jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))
        asked = processor.replace(phrases=jax.tree.map(jnp.asarray, phrases))
        for method, processor in ((search, asked), (draw, processor)):
            expected = jax.jit(method)(state, limits, processor)
            arguments = shard((state, limits, processor))
            with jax.set_mesh(mesh):
                compiled = jax.jit(method).lower(*arguments).compile()
            np.testing.assert_array_equal(compiled(*arguments), expected)
            kinds = "all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter"
            exchanged = re.findall(rf"= (\\S+) ((?:{kinds})(?:-start)?)\\(", compiled.as_text())
            assert {(shape.split("{")[0], kind) for shape, kind in exchanged} <= {("pred[]", "all-reduce")}, exchanged
    """)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags_for_devices(2),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path])),
    }
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
