"""Beam search against brute force, against a plain search without early stopping, and against hand-computed cases."""

import dataclasses
import itertools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import flags_for_devices
from table_model import (
    END,
    NUM_STATES,
    PADDING,
    START,
    VOCAB_SIZE,
    VOCABULARY,
    TableModel,
    constant_model,
    random_model,
)

from seq2seq_jax.batch import TokenRows
from seq2seq_jax.generation.context import GenerationResult, length_limits
from seq2seq_jax.generation.methods import BeamSearch, Greedy, Sampling
from seq2seq_jax.generation.search import beam_search

WORDS = (3, 4, 5)
ALPHAS = (0.0, 1.0, 2.5)


def search(model, *, beam_size, limits, alpha, max_length=None, n_best=None, max_compactions=0) -> GenerationResult:
    @jax.jit
    def run(max_lengths):
        return beam_search(
            dataclasses.replace(model.context(limits, max_length=max_length), limits=max_lengths),
            beam_size=beam_size,
            n_best=beam_size if n_best is None else n_best,
            length_penalty=alpha,
            max_compactions=max_compactions,
        )

    result = jax.block_until_ready(run(jnp.array(limits)))
    jax.effects_barrier()
    return result


def hypotheses_of(result, source) -> list[tuple[int, ...]]:
    """The returned token sequences, after a check of what surrounds them."""
    found = []
    leaves = (result.tokens, result.scores, result.log_probabilities, result.lengths)
    for tokens, score, log_probability, length in zip(*(np.asarray(leaf)[source] for leaf in leaves), strict=True):
        assert (tokens[length:] == PADDING).all()
        if length == 0:
            assert score == log_probability == -np.inf
            continue
        assert tokens[length - 1] == END
        assert set(tokens[: length - 1].tolist()) <= set(WORDS)
        found.append(tuple(tokens[:length].tolist()))
    return found


def normalised(log_probability, length, alpha):
    return log_probability / ((5 + length) / 6) ** alpha


def brute_force(model, source, limit, alpha):
    """Every finished sequence within the limit as (score, tokens), best first."""
    everything = [(*words, END) for num_words in range(limit) for words in itertools.product(WORDS, repeat=num_words)]
    scored = [(normalised(model.log_probability(source, tokens), len(tokens), alpha), tokens) for tokens in everything]
    return sorted(scored, key=lambda pair: -pair[0])


def plain_search(model, source, beam_size, limit, alpha):
    """Beam search on lists that always goes on to the limit: (score, tokens), best first."""
    live, finished = [(0.0, ())], []
    for length in range(1, limit + 1):
        allowed = (END,) if length == limit else (END, *WORDS)
        candidates = []
        for total, prefix in live:
            following = model.log_probabilities(source, prefix)
            candidates += [(total + following[token], (*prefix, token)) for token in allowed]
        candidates = sorted(candidates, key=lambda pair: -pair[0])[: 2 * beam_size]
        finished += [(normalised(total, length, alpha), tokens) for total, tokens in candidates if tokens[-1] == END]
        finished = sorted(finished, key=lambda pair: -pair[0])[:beam_size]
        live = [pair for pair in candidates if pair[1][-1] != END][:beam_size]
    return finished


def assert_same(result, source, expected):
    assert hypotheses_of(result, source) == [tokens for _, tokens in expected]
    np.testing.assert_allclose(result.scores[source, : len(expected)], [score for score, _ in expected], rtol=2e-5)
    assert np.all(np.asarray(result.scores[source, len(expected) :]) == -np.inf)


def trap_model():
    """The most probable first word leads nowhere; the second leads to one certain text."""
    table = np.full((1, NUM_STATES, VOCAB_SIZE), 0.0)
    model = TableModel(table)
    for prefix, logits in {
        (): {3: 2.0, 4: 1.9, 5: -9.0, END: 1.0},
        (3,): {3: 0.0, 4: 0.0, 5: 0.0, END: 0.0},
        (4,): {3: -9.0, 4: -9.0, 5: 9.0, END: -9.0},
        (4, 5): {3: -9.0, 4: -9.0, 5: -9.0, END: 9.0},
    }.items():
        inputs = np.array((START, *prefix)) + 1
        number = inputs @ model.weights(len(inputs)) % NUM_STATES
        model.table[0, number] = -9.0
        for token, logit in logits.items():
            model.table[0, number, token] = logit
    return model


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_wide_beam_finds_what_brute_force_finds(alpha):
    model = random_model(seed=7, num_sources=6, spreads=(0.3, 2.0, 6.0))
    limits = (4, 4, 4, 2, 1, 3)
    result = search(model, beam_size=40, limits=limits, alpha=alpha)
    for source, limit in enumerate(limits):
        assert_same(result, source, brute_force(model, source, limit, alpha)[:40])


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("beam_size", [2, 3])
def test_a_narrow_beam_equals_a_plain_search_that_never_stops_early(alpha, beam_size):
    model = random_model(seed=11, num_sources=24, spreads=(0.5, 2.0, 5.0))
    limits = (9, 1, 12, 2, 5, 12, 7, 3, 10, 12, 12, 8) * 2
    result = search(model, beam_size=beam_size, limits=limits, alpha=alpha)
    for source, limit in enumerate(limits):
        assert_same(result, source, plain_search(model, source, beam_size, limit, alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n_best", [1, 2])
def test_fewer_than_the_beam_are_its_best(alpha, n_best):
    model = random_model(seed=11, num_sources=24, spreads=(0.5, 2.0, 5.0))
    limits = (9, 1, 12, 2, 5, 12, 7, 3, 10, 12, 12, 8) * 2
    result = search(model, beam_size=3, limits=limits, alpha=alpha, n_best=n_best)
    for source, limit in enumerate(limits):
        assert_same(result, source, plain_search(model, source, 3, limit, alpha)[:n_best])
    calls = model.calls
    search(model, beam_size=3, limits=limits, alpha=alpha)
    assert calls <= model.calls - calls


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("beam_size", [2, 3])
def test_adversarial_models(alpha, beam_size):
    model = constant_model(
        [
            [0, 0, -20, 1, 2, 3],  # does not want to end
            [0, 0, 20, 1, 2, 3],  # wants to end at once
            [9, 9, 1, 1.5, 1.2, 1.1],  # wants to pad and to start
            [-30, -30, 0.01, 5, -30, -30],  # knows one word
        ]
    )
    result = search(model, beam_size=beam_size, limits=(8,) * 4, alpha=alpha)
    for source in range(4):
        expected = [score for score, _ in plain_search(model, source, beam_size, 8, alpha)]
        # Orders of the same words are equally likely but for rounding, so that only the scores are sure.
        assert len(set(hypotheses_of(result, source))) == len(expected)
        np.testing.assert_allclose(result.scores[source], expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_beam_gets_out_of_the_trap_that_greedy_falls_into(alpha):
    model = trap_model()
    greedy = search(model, beam_size=1, limits=(5,), alpha=alpha)
    beam = search(model, beam_size=2, limits=(5,), alpha=alpha)
    assert hypotheses_of(greedy, 0)[0][0] == 3
    assert hypotheses_of(beam, 0)[0] == (4, 5, END) == brute_force(model, 0, 5, alpha)[0][1]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_equal_candidates_keep_the_order_of_their_indices(alpha):
    model = constant_model([[0.0] * VOCAB_SIZE])
    result = search(model, beam_size=3, limits=(6,), alpha=alpha)
    assert_same(result, 0, plain_search(model, 0, 3, 6, alpha))
    assert hypotheses_of(result, 0) == [(END,), (3, END), (4, END)]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_beam_of_one_takes_the_likeliest_token_each_time(alpha):
    model = random_model(seed=3, num_sources=12)
    limits = (5,) * 12
    result = search(model, beam_size=1, limits=limits, alpha=alpha)
    lengths = set()
    for source, limit in enumerate(limits):
        tokens = ()
        while END not in tokens:
            following = model.log_probabilities(source, tokens)
            allowed = (END,) if len(tokens) == limit - 1 else (END, *WORDS)
            tokens += (max(allowed, key=following.__getitem__),)
        assert_same(result, source, [(normalised(model.log_probability(source, tokens), len(tokens), alpha), tokens)])
        lengths.add(len(tokens))
    assert {1, 5} <= lengths  # from those that end at once to those that the limit ends


def test_scores_are_normalised_log_probabilities_of_teacher_forcing():
    model = random_model(seed=5, spreads=(0.5, 1.0, 2.0))
    result = search(model, beam_size=4, limits=(7, 7, 7), alpha=0.8)
    for source in range(3):
        found = hypotheses_of(result, source)
        totals = [model.log_probability(source, tokens) for tokens in found]
        np.testing.assert_allclose(result.log_probabilities[source], totals, rtol=2e-5)
        expected = [normalised(total, len(tokens), 0.8) for total, tokens in zip(totals, found, strict=True)]
        np.testing.assert_allclose(result.scores[source], expected, rtol=2e-5)


def test_n_best_are_sorted_and_distinct():
    result = search(random_model(seed=13, num_sources=6), beam_size=5, limits=(8,) * 6, alpha=1.0)
    for source in range(6):
        assert len(set(hypotheses_of(result, source))) == 5
    assert np.all(np.diff(result.scores, axis=1) <= 0)
    assert not np.array_equal(np.sort(result.log_probabilities)[:, ::-1], result.log_probabilities)


def test_low_precision_logits_are_scored_in_float32():
    model = random_model(seed=17, dtype=jnp.bfloat16)
    model.table = np.asarray(model.table.astype(jnp.bfloat16), dtype=np.float32)
    result = search(model, beam_size=3, limits=(9, 9, 9), alpha=1.0)
    assert result.scores.dtype == result.log_probabilities.dtype == jnp.float32
    for source in range(3):
        assert_same(result, source, plain_search(model, source, 3, 9, 1.0))


ENDS_AT_ONCE = [-40.0, -40.0, 20.0, 0.0, -5.0, -5.0]
NEVER_ENDS = [-40.0, -40.0, -40.0, 0.0, -1.0, -2.0]


@pytest.mark.parametrize(
    ("beam_size", "alpha", "calls"),
    [
        (1, 1.0, 1),
        # [END] at 0 and [3, END] at -20 have ended after two steps; what lives, at -40 and less, cannot pass them.
        (2, 0.0, 2),
        # The worst finished is -20 / (7 / 6) = -17.1. The best live hypothesis stands at -20n after n steps, and would
        # have -20n / (55 / 6) at the limit of 50: -15.3 after seven, -17.5 after eight.
        (2, 1.0, 8),
    ],
)
def test_the_loop_ends_when_nothing_can_improve(beam_size, alpha, calls):
    model = constant_model([ENDS_AT_ONCE])
    search(model, beam_size=beam_size, limits=(50,), alpha=alpha)
    assert model.calls == calls


def test_the_loop_ends_when_the_best_is_sure():
    """[END] at 0 has ended after one step; the second best would take another one."""
    model = constant_model([ENDS_AT_ONCE])
    search(model, beam_size=2, n_best=1, limits=(50,), alpha=0.0)
    assert model.calls == 1


def test_the_loop_goes_on_for_the_last_source():
    model = constant_model([ENDS_AT_ONCE, NEVER_ENDS, ENDS_AT_ONCE])
    search(model, beam_size=2, limits=(50, 12, 50), max_length=50, alpha=0.0)
    assert model.calls == 12


def test_limits_hold_for_each_source():
    limits = (1, 3, 7, 0, 99)
    result = search(constant_model([NEVER_ENDS] * 5), beam_size=2, limits=limits, max_length=10, alpha=1.0)
    assert [hypotheses_of(result, source)[0] for source in range(5)] == [
        (END,),
        (3, 3, END),
        (3, 3, 3, 3, 3, 3, END),
        (END,),
        (3, 3, 3, 3, 3, 3, 3, 3, 3, END),
    ]
    assert [len(hypotheses_of(result, source)) for source in range(5)] == [1, 2, 2, 1, 2]
    assert result.tokens.shape == (5, 2, 10)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_source_fares_alone_as_in_a_batch(beam_size):
    model = random_model(seed=19, num_sources=6)
    limits = (4, 15, 9, 15, 2, 12)
    together = search(model, beam_size=beam_size, limits=limits, max_length=15, alpha=1.0)
    for source in (0, 2, 5):
        model_of_one = TableModel(model.table[source : source + 1])
        alone = search(model_of_one, beam_size=beam_size, limits=limits[source : source + 1], max_length=15, alpha=1.0)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[source])
        np.testing.assert_array_equal(alone.lengths[0], together.lengths[source])
        np.testing.assert_allclose(alone.scores[0], together.scores[source], rtol=1e-6)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_sources_that_are_done_leave_the_batch(beam_size):
    model = random_model(seed=29, num_sources=37)
    limits = tuple(np.random.default_rng(0).integers(1, 16, 37).tolist())
    whole = search(model, beam_size=beam_size, limits=limits, max_length=15, alpha=1.0)
    calls, model.calls, rows = model.calls, 0, set()

    def step(tokens, state, step=model.step):
        rows.add(len(tokens) // beam_size)
        return step(tokens, state)

    model.step = step
    shrinking = search(model, beam_size=beam_size, limits=limits, max_length=15, alpha=1.0, max_compactions=3)
    assert rows == {37, 19, 10} and model.calls == calls
    jax.tree.map(np.testing.assert_array_equal, whole, shrinking)


def test_the_memory_that_hypotheses_share_is_the_same_array_in_every_step():
    model = random_model(seed=23)
    state = model.start(2, 6)
    seen = []

    def step(tokens, inner):
        seen.append((inner.per_source["table"] is state.per_source["table"], inner.per_hypothesis["prefix"].shape))
        return model.step(tokens, inner)

    context = model.context([6, 6, 6], step=step, start=lambda number: state)
    beam_search(context, beam_size=2, n_best=2, length_penalty=1.0)
    assert set(seen) == {(True, (6, 6))}


def test_a_sharded_batch_needs_no_exchange_of_states():
    """On four devices: the same result, and nothing crosses between them but whether to go on."""
    program = textwrap.dedent("""
        import functools, re
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        from seq2seq_jax.batch import DecodeState, Vocabulary
        from seq2seq_jax.generation.context import GenerationContext
        from seq2seq_jax.generation.search import beam_search

        batch, beam, model, vocab, length = 128, 3, 16, 24, 10
        keys = jax.random.split(jax.random.key(0), 4)
        embedding, output = jax.random.normal(keys[0], (vocab, model)), jax.random.normal(keys[1], (model, vocab))
        state = DecodeState(
            per_source=jax.random.normal(keys[2], (batch, model)),
            per_hypothesis={"hidden": jnp.zeros((batch * beam, model)), "cache": jnp.zeros((batch * beam, length, 2))},
        )

        def step(tokens, state):
            hidden = state.per_hypothesis["hidden"] * 0.5 + embedding[tokens]
            hidden = jnp.tanh(hidden.reshape(-1, beam, model) + state.per_source[:, None]).reshape(hidden.shape)
            return hidden @ output, state.replace(per_hypothesis={**state.per_hypothesis, "hidden": hidden})

        vocabulary = Vocabulary(source_size=vocab, target_size=vocab, joint=True, pad_id=0, bos_id=1, eos_id=2)

        def search(max_compactions):
            def run(state, max_lengths):
                context = GenerationContext(
                    step=step, start=lambda number: state, limits=max_lengths, max_length=length, vocabulary=vocabulary
                )
                return beam_search(
                    context, beam_size=beam, n_best=beam, length_penalty=1.0, max_compactions=max_compactions
                )

            return jax.jit(run)

        limits = 3 + jnp.arange(batch) % 8
        expected = search(0)(state, limits)
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        shard = lambda tree: jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))
        arguments = shard(state), shard(limits)
        for max_compactions in (0, 2):
            with jax.set_mesh(mesh):
                compiled = search(max_compactions).lower(*arguments).compile()
            found = compiled(*arguments)
            np.testing.assert_array_equal(found.tokens, expected.tokens)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
            assert [len(shard.data) for shard in found.tokens.addressable_shards] == [32] * 4
            kinds = "all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter"
            exchanged = re.findall(rf"= (\\S+) ((?:{kinds})(?:-start)?)\\(", compiled.as_text())
            assert {(shape.split("{")[0], kind) for shape, kind in exchanged} == {("pred[]", "all-reduce")}, exchanged
    """)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags_for_devices(4),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path])),
    }
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_texts_may_start_with_the_token_that_ends_them_and_never_have_some():
    vocabulary = dataclasses.replace(VOCABULARY, bos_id=END, never_ids=(4,))
    assert vocabulary.suppressed_ids == (PADDING, 4)
    model = random_model(seed=3, num_sources=3)
    found = beam_search(model.context([6] * 3, vocabulary=vocabulary), beam_size=1, n_best=1, length_penalty=0.0)
    for source in range(3):
        expected = []
        while END not in expected:
            inputs = np.array((END, *expected)) + 1
            logits = model.table[source, inputs @ model.weights(len(inputs)) % NUM_STATES].copy()
            logits[[PADDING, 4]] = -np.inf
            expected.append(END if len(expected) == 5 else int(logits.argmax()))
        assert found.tokens[source, 0, : found.lengths[source, 0]].tolist() == expected
    # The start token of other models is a word like any other here.
    assert START in np.asarray(found.tokens)


def test_an_eos_token_that_is_the_pad_token_is_refused():
    context = random_model(seed=0, num_sources=1).context(
        [3], vocabulary=dataclasses.replace(VOCABULARY, eos_id=PADDING)
    )
    with pytest.raises(ValueError, match="eos_id"):
        beam_search(context, beam_size=2, n_best=2, length_penalty=1.0)


def test_a_negative_length_penalty_is_refused():
    context = random_model(seed=0, num_sources=1).context([3])
    with pytest.raises(ValueError, match="length_penalty"):
        beam_search(context, beam_size=2, n_best=2, length_penalty=-0.5)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (BeamSearch, {"beam_size": 0}),
        (BeamSearch, {"n_best": 0}),
        (BeamSearch, {"n_best": 5}),
        (BeamSearch, {"length_penalty": -0.1}),
        (BeamSearch, {"length_penalty": float("nan")}),
        (Greedy, {"max_compactions": -1}),
        (Greedy, {"maximum_length_ratio": -1.0}),
        (Greedy, {"maximum_length_ratio": float("inf")}),
        (Sampling, {"maximum_length_extra": 0}),
        (Sampling, {"source_tokens_per_batch": 0}),
        (Sampling, {"samples": 0}),
        (Sampling, {"temperature": 0.0}),
        (Sampling, {"top_k": 0}),
        (Sampling, {"top_p": 1.5}),
        (Sampling, {"seed": 2**32}),
    ],
)
def test_a_config_refuses_what_makes_no_sense(method, wrong):
    with pytest.raises(ValueError, match=f"^[^\n]*{next(iter(wrong))}[^\n]*$"):
        method(**wrong)


def test_the_limit_grows_with_the_source():
    segment_ids = np.array([[0] * 21, [1] + [0] * 20, [1] * 2 + [0] * 19, [1] * 21])
    source = TokenRows(tokens=segment_ids, segment_ids=segment_ids, positions=segment_ids)
    limits, room = length_limits(source, ratio=1.5, extra=4, position_limit=None)
    assert (limits.tolist(), room) == ([0, 5, 7, 35], 35)
    limits, room = length_limits(source, ratio=1.5, extra=4, position_limit=6)
    assert (limits.tolist(), room) == ([0, 5, 6, 6], 6)
