"""A model small enough for brute force, for the tests of searching and sampling."""

import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import DecodeState, Vocabulary
from seq2seq_jax.generation.context import GenerationContext

PADDING, START, END = 0, 1, 2
VOCAB_SIZE = 6
NUM_STATES = 97
VOCABULARY = Vocabulary(
    source_size=VOCAB_SIZE, target_size=VOCAB_SIZE, joint=True, pad_id=PADDING, bos_id=START, eos_id=END
)


class TableModel:
    """A model whose logits depend on the source and on every token so far, through a table of states.

    The prefix is a per-hypothesis leaf with dimensions of its own, as a KV cache is; a search that reorders it wrongly
    reads wrong rows. `log_probabilities` is the same model in plain NumPy, float64.
    """

    def __init__(self, table: np.ndarray, dtype=jnp.float32):
        self.table = np.asarray(table, dtype=np.float32)
        self.dtype = dtype
        self.calls = 0

    def start(self, beam_size: int, max_length: int) -> DecodeState:
        hypotheses = len(self.table) * beam_size
        return DecodeState(
            per_source={"table": jnp.asarray(self.table)},
            per_hypothesis={
                "prefix": jnp.zeros((hypotheses, max_length), dtype=jnp.int32),
                "position": jnp.zeros((hypotheses,), dtype=jnp.int32),
            },
        )

    def context(self, limits, *, max_length: int | None = None, **others) -> GenerationContext:
        """All sources, to be generated from."""
        room = max(limits) if max_length is None else max_length
        arguments = {
            "step": self.step,
            "start": lambda number: self.start(number, room),
            "limits": jnp.asarray(limits),
            "max_length": room,
            "vocabulary": VOCABULARY,
            "lines": jnp.arange(len(limits)),
        }
        return GenerationContext(**(arguments | others))

    def step(self, tokens, state):
        jax.debug.callback(self._count)
        table, position = state.per_source["table"], state.per_hypothesis["position"]
        rows = jnp.arange(len(tokens))
        prefix = state.per_hypothesis["prefix"].at[rows, position].set(tokens + 1)
        number = prefix @ self.weights(prefix.shape[1]) % NUM_STATES
        logits = table[rows // (len(tokens) // len(table)), number].astype(self.dtype)
        return logits, state.replace(per_hypothesis={"prefix": prefix, "position": position + 1})

    def log_probabilities(self, source: int, generated: tuple[int, ...]) -> np.ndarray:
        inputs = np.array((START, *generated)) + 1
        logits = self.table[source, inputs @ self.weights(len(inputs)) % NUM_STATES].astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    def log_probability(self, source: int, tokens: tuple[int, ...]) -> float:
        return sum(self.log_probabilities(source, tokens[:index])[token] for index, token in enumerate(tokens))

    def _count(self):
        self.calls += 1

    @staticmethod
    def weights(length):
        return np.arange(3, 3 + 2 * length, 2) ** 2 % NUM_STATES


def random_model(seed, num_sources=3, spreads=(2.0,), **arguments):
    """Sources from flat to peaked distributions, by the spread of their logits."""
    table = np.random.default_rng(seed).normal(size=(num_sources, NUM_STATES, VOCAB_SIZE))
    return TableModel(np.resize(spreads, (num_sources, 1, 1)) * table, **arguments)


def constant_model(logits_by_source):
    """The same next-token logits after every prefix."""
    return TableModel(np.repeat(np.array(logits_by_source)[:, None, :], NUM_STATES, axis=1))
