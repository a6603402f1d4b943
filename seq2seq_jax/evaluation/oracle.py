"""A language model of which everything is known, to generate with and to be judged by: the oracle of SeqGAN's task."""

import functools
import hashlib
import io
import zipfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from seq2seq_jax.paths import user_path

GATES = ("input", "forget", "output", "candidate")
TEXTS_AT_A_TIME = 500
START_TOKEN = 0
"""First input, which is a token, too."""


class Oracle:
    """An LSTM over tokens 0, 1, ..., whose texts have one length and no end.

    The state begins at 0 and the first input is token 0; i, f, o = σ(x W + h U + b), g = tanh(...), c = f c + i g,
    h = o tanh(c), and the logits of the next token are h W + b. Computed in float32, the softmax in float64.

    Source: Yu et al. 2017 (SeqGAN), section 5.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        """Args:
        arrays: `embedding` [tokens, hidden]; `W_*` and `U_*` [hidden, hidden] and `b_*` [hidden] for the gates
            input, forget, output and candidate; `W_logits` [hidden, tokens] and `b_logits` [tokens].

        Raises:
            ValueError: one is missing, or has another shape.
        """
        names = ["embedding", *(f"{kind}_{gate}" for gate in GATES for kind in "WUb"), "W_logits", "b_logits"]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"expected arrays {', '.join(names)}; {missing[0]} is missing")
        tokens, hidden = arrays["embedding"].shape
        shapes = {"embedding": (tokens, hidden), "W_logits": (hidden, tokens), "b_logits": (tokens,)}
        for gate in GATES:
            shapes |= {f"W_{gate}": (hidden, hidden), f"U_{gate}": (hidden, hidden), f"b_{gate}": (hidden,)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"expected {name} of shape {list(shape)}; it has {list(arrays[name].shape)}")
        self._arrays = {name: np.asarray(arrays[name], np.float32) for name in names}
        self.num_tokens = tokens
        self._inputs = np.concatenate([self._arrays[f"W_{gate}"] for gate in GATES], axis=1)
        self._states = np.concatenate([self._arrays[f"U_{gate}"] for gate in GATES], axis=1)
        self._biases = np.concatenate([self._arrays[f"b_{gate}"] for gate in GATES])

    @classmethod
    def read(cls, path: str) -> "Oracle":
        """The oracle of a file of numpy arrays (.npz).

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        try:
            content = user_path(path).read_bytes()
            with np.load(io.BytesIO(content)) as file:
                return cls({name: file[name] for name in file.files})
        except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ValueError(
                f"the oracle {path} cannot be read: {reason}. Give a file of numpy arrays (.npz), or a seed for an "
                "oracle of your own."
            ) from error

    @classmethod
    def of_seed(cls, seed: int, *, num_tokens: int = 5_000, hidden: int = 32) -> "Oracle":
        """An oracle whose parameters are standard normal, as those of the released one were drawn."""
        rng = np.random.default_rng(seed)
        shapes = {"embedding": (num_tokens, hidden)}
        for gate in GATES:
            shapes |= {f"W_{gate}": (hidden, hidden), f"U_{gate}": (hidden, hidden), f"b_{gate}": (hidden,)}
        shapes |= {"W_logits": (hidden, num_tokens), "b_logits": (num_tokens,)}
        return cls({name: rng.normal(size=shape) for name, shape in shapes.items()})

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of the parameters."""
        hashed = hashlib.sha256()
        for name, array in self._arrays.items():
            hashed.update(name.encode())
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()

    def draw(self, number: int, *, length: int, seed: int) -> Int[np.ndarray, "number length"]:
        """Texts of the oracle; the first ones do not depend on how many there are."""
        found = np.zeros((number, length), np.int64)
        for part, start in enumerate(range(0, number, TEXTS_AT_A_TIME)):
            # All of a part, so that a shorter one begins alike.
            uniforms = np.random.default_rng([seed, part]).random((TEXTS_AT_A_TIME, length))
            texts = found[start : start + TEXTS_AT_A_TIME]
            state, inputs = self._start(len(texts))
            for place in range(length):
                logits, state = self._step(inputs, state)
                weights = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
                cumulative = np.cumsum(weights, axis=1)
                amounts = uniforms[: len(texts), place] * cumulative[:, -1]
                inputs = np.minimum((cumulative <= amounts[:, None]).sum(axis=1), self.num_tokens - 1)
                texts[:, place] = inputs
        return found

    def negative_log_likelihoods(self, texts: Int[np.ndarray, "texts length"]) -> Float[np.ndarray, "texts length"]:
        """Of each token (nats)."""
        found = np.zeros(texts.shape, np.float64)
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            part = slice(start, start + TEXTS_AT_A_TIME)
            state, inputs = self._start(len(texts[part]))
            for place in range(texts.shape[1]):
                logits, state = self._step(inputs, state)
                largest = logits.max(axis=1)
                normalizer = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64))
                inputs = texts[part, place]
                found[part, place] = normalizer - np.take_along_axis(logits, inputs[:, None], axis=1)[:, 0]
        return found

    def _start(self, number: int):
        state = np.zeros((number, self._states.shape[0]), np.float32)
        return (state, state), np.full(number, START_TOKEN)

    def _step(self, inputs, state):
        """Logits of the next token after these, and the state after them."""
        hidden, cell = state
        gates = self._arrays["embedding"][inputs] @ self._inputs + hidden @ self._states + self._biases
        into, forget, out, change = np.split(gates, 4, axis=1)
        cell = _sigmoid(forget) * cell + _sigmoid(into) * np.tanh(change)
        hidden = _sigmoid(out) * np.tanh(cell)
        return hidden @ self._arrays["W_logits"] + self._arrays["b_logits"], (hidden, cell)


def _sigmoid(values):
    return 1.0 / (1.0 + np.exp(-values))


@functools.lru_cache(maxsize=4)
def oracle_of(path: str | None, seed: int, num_tokens: int) -> Oracle:
    """The oracle of a file, or of a seed.

    Raises:
        ValueError: see `Oracle.read`; or its file has another number of tokens.
    """
    if path is None:
        return Oracle.of_seed(seed, num_tokens=num_tokens)
    found = Oracle.read(path)
    if found.num_tokens != num_tokens:
        raise ValueError(f"the oracle {path} has {found.num_tokens:,} tokens, not {num_tokens:,}: correct num_tokens.")
    return found


def as_text(tokens: Sequence[int]) -> str:
    """Tokens as words: their numbers."""
    return " ".join(map(str, tokens))


def as_tokens(text: str, *, num_tokens: int, most: int | None = None) -> list[int] | None:
    """The tokens of a text, the first ones of a longer one; None = a word is none."""
    words = text.split()[:most]
    if not all(word.isdecimal() and word.isascii() and int(word) < num_tokens for word in words):
        return None
    return [int(word) for word in words]
