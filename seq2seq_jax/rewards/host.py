"""Any reward in Python, called by the host from within the compiled step."""

import importlib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq2seq_jax.data.tokenizer import Tokenizer

TextReward = Callable[[list[str], list[str]], list[float]]
"""Hypotheses and as many references to as many rewards."""


def load_function(path: str) -> TextReward:
    """The function that "module:function" names.

    Raises:
        ValueError: it cannot be imported, or is no function.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f'objective.reward.function is {path!r}: give it as "module:function"')
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"objective.reward.function {path} cannot be imported ({error}): give a module on Python's path, "
            "such as one in a directory of PYTHONPATH, and a function in it"
        ) from error
    if not callable(function):
        raise ValueError(f"objective.reward.function {path} is not a function: name one that can be called")
    return function


def host_rewards(
    function: TextReward,
    tokenizer: Tokenizer,
    hypotheses: Int[Array, "batch samples length"],
    references: Int[Array, "batch reference_length"],
) -> Float[Array, "batch samples"]:
    """The rewards that a function in Python gives to the decoded texts.

    The device waits for the host, and the texts are decoded one by one. The function is called once for the rows of
    each device, and must depend on its arguments alone.
    """

    def call(hypotheses: Array, references: Array) -> np.ndarray:
        hypotheses, references = np.asarray(hypotheses), np.asarray(references)
        texts = [tokenizer.decode_target(ids) for samples in hypotheses.tolist() for ids in samples]
        aims = [text for ids in references.tolist() for text in [tokenizer.decode_target(ids)] * hypotheses.shape[1]]
        rewards = [float(reward) for reward in function(texts, aims)]
        if len(rewards) != len(texts) or not all(map(math.isfinite, rewards)):
            raise ValueError(
                f"objective.reward.function must return a finite number for each of {len(texts)} hypotheses, "
                f"and returned {len(rewards)} numbers, {sum(map(math.isfinite, rewards))} of them finite"
            )
        return np.array(rewards, np.float32).reshape(hypotheses.shape[:2])

    shape = jax.ShapeDtypeStruct(hypotheses.shape[:2], jnp.float32)
    return jax.pure_callback(call, shape, hypotheses, references)
