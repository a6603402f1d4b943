"""Restrictions against their definitions in NumPy, and draws under them against the probabilities of all texts."""

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
from table_model import END, PADDING, START, VOCAB_SIZE, random_model

from seq2seq_jax.generation.methods import Sampling
from seq2seq_jax.generation.restrictions import Epsilon, Eta, MinP, TopK, TopP, Typical, restricted

WORDS = (3, 4, 5)


def by_mass(order, probabilities, mass):
    """The first indices of an order that have the mass together."""
    cumulative = np.cumsum(probabilities[order])
    needed = len(order) if mass >= 1 else np.searchsorted(cumulative, mass - 1e-9) + 1
    return set(order[:needed].tolist())


def entropy(p):
    return -np.sum(p[p > 0] * np.log(p[p > 0]))


DEFINITIONS = {
    TopK: lambda p, k: set(np.argsort(-p, kind="stable")[:k].tolist()),
    TopP: lambda p, mass: by_mass(np.argsort(-p, kind="stable"), p, mass),
    MinP: lambda p, share: set(np.flatnonzero(p >= share * p.max()).tolist()),
    Typical: lambda p, mass: by_mass(np.argsort(np.abs(-np.log(p) - entropy(p)), kind="stable"), p, mass),
    Epsilon: lambda p, least: set(np.flatnonzero(p >= least).tolist()) | {int(p.argmax())},
    Eta: lambda p, eta: set(np.flatnonzero(p >= min(eta, eta**0.5 * np.exp(-entropy(p)))).tolist()) | {int(p.argmax())},
}
CASES = [
    (TopK, 1), (TopK, 3), (TopK, 299), (TopK, 4_000), (TopP, 1e-6), (TopP, 0.3), (TopP, 0.9), (TopP, 1.0), (MinP, 0.05),
    (MinP, 1.0), (Typical, 0.2), (Typical, 0.95), (Epsilon, 0.01), (Epsilon, 0.9), (Eta, 0.02), (Eta, 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_what_is_kept_is_what_the_definition_says(kind, value):
    logits = 3 * np.random.default_rng(0).normal(size=(40, 300)) * np.linspace(0.05, 1, 40)[:, None]
    log_probabilities = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    kept = np.asarray(jax.jit(kind(value).kept)(log_probabilities))
    for row, of_row in enumerate(np.exp(np.asarray(log_probabilities, np.float64))):
        assert set(np.flatnonzero(kept[row]).tolist()) == DEFINITIONS[kind](of_row, value), row


@pytest.mark.long
def test_devices_keep_tokens_of_their_own_rows_and_exchange_nothing():
    program = textwrap.dedent("""
        import re

        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec

        from seq2seq_jax.generation.restrictions import TopK, TopP, Typical

        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        rows = jax.nn.log_softmax(3 * jax.random.normal(jax.random.key(0), (12, 300)))
        for restriction in TopK(7), TopP(0.9), Typical(0.5):
            expected = jax.jit(restriction.kept)(rows)
            arguments = jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
            with jax.set_mesh(mesh):
                compiled = jax.jit(restriction.kept).lower(arguments).compile()
            np.testing.assert_array_equal(compiled(arguments), expected)
            kinds = "all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter"
            assert not re.findall(rf"({kinds})(?:-start)?\\(", compiled.as_text())
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


def test_equal_probabilities_are_kept_together():
    log_probabilities = jnp.log(jnp.array([[0.2, 0.3, 0.3, 0.2]]))
    assert TopK(3).kept(log_probabilities).all() and TopP(0.65).kept(log_probabilities).all()
    assert TopK(1).kept(log_probabilities).tolist() == TopP(0.5).kept(log_probabilities).tolist()
    assert TopK(1).kept(log_probabilities).tolist() == [[False, True, True, False]]


def test_each_restriction_sees_what_the_one_before_it_has_left():
    log_probabilities = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    # Of the first two, 4/7 and 3/7, the first has the mass alone.
    found = np.exp(restricted(log_probabilities, (TopK(2), TopP(0.5))))
    np.testing.assert_allclose(found, [[1, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(
        np.exp(restricted(log_probabilities, (TopP(0.5), TopK(2)))), [[4 / 7, 3 / 7, 0, 0]], rtol=1e-6
    )
    np.testing.assert_array_equal(restricted(log_probabilities, ()), log_probabilities)


FIELDS = {TopK: "top_k", TopP: "top_p", MinP: "min_p", Typical: "typical_p", Epsilon: "epsilon", Eta: "eta"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [(TopK, 2), (TopP, 0.7), (MinP, 0.3), (Typical, 0.6), (Epsilon, 0.15), (Eta, 0.3)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_texts_come_as_often_as_the_restricted_policy_says(kind, value):
    """Chi-square over all texts of up to 3 tokens, 20,000 draws, p > 1e-3; log-probabilities are the policy's own."""
    model, draws = random_model(5, num_sources=1), 20_000
    method = Sampling(samples=draws, temperature=0.9, **{FIELDS[kind]: value})
    found = jax.tree.map(np.asarray, jax.jit(lambda: method.generate(model.context([3])))())

    def policy(prefix):
        logits = model.log_probabilities(0, prefix) / 0.9
        logits[[PADDING, START]] = -np.inf
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        allowed = [token for token in (*WORDS, END) if p[token] > 0]
        kept = [allowed[index] for index in DEFINITIONS[kind](p[allowed], value)]
        result = np.zeros(VOCAB_SIZE)
        result[kept] = p[kept] / p[kept].sum()
        return result

    whole = ((*words, END) for length in range(3) for words in itertools.product(WORDS, repeat=length))
    expected = {
        text: np.prod([policy(text[:index])[token] for index, token in enumerate(text)])
        for text in [*whole, *itertools.product(WORDS, repeat=3)]
    }
    assert sum(expected.values()) == pytest.approx(1)
    counts = dict.fromkeys(expected, 0)
    for tokens, length, log_probability in zip(
        found.tokens[0], found.lengths[0], found.log_probabilities[0], strict=True
    ):
        text = tuple(tokens[:length].tolist())
        assert expected[text] > 0, "outside the support"
        if not counts[text]:
            assert log_probability == pytest.approx(np.log(expected[text]), abs=1e-4)
        counts[text] += 1
    often = [text for text, p in expected.items() if p * draws >= 5]
    observed = np.array([counts[text] for text in often] + [draws - sum(counts[text] for text in often)])
    predicted = draws * np.array(
        [expected[text] for text in often] + [max(1e-9, 1 - sum(expected[text] for text in often))]
    )
    used = predicted >= 1
    statistic = ((observed - predicted)[used] ** 2 / predicted[used]).sum()
    # By Wilson and Hilferty, the value that chi-square is above once in a thousand.
    freedom = max(1, used.sum() - 1)
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
