"""Rewards defined in Python, which the compiled step calls on the host."""

import importlib
import math
import traceback
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq2seq_jax.data.tokenizer import Tokenizer

TextReward = Callable[[list[str], list[str]], list[float]]
"""(hypotheses, references) -> rewards, all of the same length."""


def load_function(path: str) -> TextReward:
    """The function of a path "module:function".

    Raises:
        ValueError: it cannot be imported, or is not callable.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f'objective.reward.function is {path!r}: give it as "module:function"')
    try:
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"objective.reward.function {path} cannot be imported ({type(error).__name__}: {error}): give a module on "
            "Python's path, such as one in a directory of PYTHONPATH, and a function in it"
        ) from error
    if not callable(function):
        raise ValueError(f"objective.reward.function {path} is not a function: name one that can be called")
    return function


def host_rewards(
    function: TextReward,
    tokenizer: Tokenizer,
    hypotheses: Int[Array, "batch samples length"],
    references: Int[Array, "batch reference_length"],
    *,
    fail: Callable[[str], None],
) -> Float[Array, "batch samples"]:
    """The rewards of the decoded texts by a Python function.

    The device waits for the host, and the texts are decoded one by one. The function is called once for the rows of
    each device, and must depend on its arguments alone. Where it fails, all rewards are NaN: an exception would pass
    through the compiled program, and come out as pages of its own.

    Args:
        fail: takes what was wrong, a sentence.
    """

    def scored(texts: list[str], aims: list[str]) -> list[float]:
        try:
            returned = function(texts, aims)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:]
            where = f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
            fail(f"it raised {type(error).__name__}: {error}{where}. Correct the function")
            return [math.nan] * len(texts)
        try:
            rewards = [float(reward) for reward in returned]
        except (TypeError, ValueError) as error:
            fail(f"it must return a list of numbers, and returned a {type(returned).__name__} ({error})")
            return [math.nan] * len(texts)
        if len(rewards) != len(texts):
            fail(f"it must return a number for each of {len(texts)} hypotheses, and returned {len(rewards)}")
            return [math.nan] * len(texts)
        for text, reward in zip(texts, rewards, strict=True):
            if not math.isfinite(reward):
                fail(f"it must return finite numbers, and returned {reward} for the hypothesis {text[:100]!r}")
                return [math.nan] * len(texts)
        return rewards

    def call(hypotheses: Array, references: Array) -> np.ndarray:
        hypotheses, references = np.asarray(hypotheses), np.asarray(references)
        texts = [tokenizer.decode_target(ids) for samples in hypotheses.tolist() for ids in samples]
        aims = [text for ids in references.tolist() for text in [tokenizer.decode_target(ids)] * hypotheses.shape[1]]
        return np.array(scored(texts, aims), np.float32).reshape(hypotheses.shape[:2])

    shape = jax.ShapeDtypeStruct(hypotheses.shape[:2], jnp.float32)
    return jax.pure_callback(call, shape, hypotheses, references)
