"""A policy of which all texts can be enumerated, for the tests of gradients that are estimated from samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.generation.sampling import Samples

LIMIT = 3
TINY = Vocabulary(source_size=5, target_size=5, joint=True, pad_id=0, bos_id=1, eos_id=2)
WORDS = (3, 4)
TEXTS = [
    *((*words, TINY.eos_id) for length in range(LIMIT) for words in itertools.product(WORDS, repeat=length)),
    *itertools.product(WORDS, repeat=LIMIT),
]
"""All texts over a vocabulary of three, the EOS token counted, of at most three tokens: fifteen."""


def given_samples(tuples):
    """Samples as if they had been drawn: the texts of each tuple for one row."""
    texts = [text for each in tuples for text in each]
    tokens = np.array([[*text, *[TINY.pad_id] * (LIMIT - len(text))] for text in texts])
    shape = (len(tuples), len(tuples[0]))
    mask = tokens != TINY.pad_id
    return Samples(
        tokens=jnp.asarray(tokens.reshape(*shape, LIMIT)),
        log_probabilities=jnp.zeros((*shape, LIMIT)),
        lengths=jnp.asarray(mask.sum(axis=1).reshape(shape)),
        ended=jnp.asarray([TINY.eos_id in text for text in texts]).reshape(shape),
    )


def assert_close(found, expected, tolerance=1e-5):
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    assert largest > 1e-2
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=0, atol=tolerance), found, expected)
