"""Rewards defined in Python, which the compiled step calls on the host."""

import abc
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.outside import load
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.terms import RewardTerm


class TextReward(abc.ABC):
    """A reward in Python that sees the whole example, made without arguments."""

    @abc.abstractmethod
    def __call__(self, outputs: list[str], examples: list[Mapping[str, Any]]) -> list[float]:
        """A finite number for each output, more for a better one. It must depend on its arguments alone.

        Args:
            outputs: sampled texts.
            examples: of each, name of a column -> its value, as metrics see them: the source text in "source", the
                references, a list, in "target", and what else the data has.
        """


OutsideReward = Callable[[list[str], list[Mapping[str, Any]]], list[float]]
"""(outputs, examples) -> rewards, all of the same length."""


def load_reward(path: str) -> OutsideReward | RewardTerm:
    """What "module:Name" names: a RewardTerm as it is, a TextReward made, a function with its references.

    Raises:
        ValueError: it cannot be imported, or is none of these.
    """
    what = "objective.reward.function"
    found = load(path, what=what, kind="function")
    if isinstance(found, RewardTerm):
        return found
    if isinstance(found, type) and issubclass(found, TextReward):
        try:
            return found()
        except Exception as error:
            raise ValueError(
                f"{what} {path} cannot be made without arguments ({type(error).__name__}: {error}): give its fields "
                "defaults"
            ) from error
    if isinstance(found, type) or not callable(found):
        raise ValueError(
            f"{what} {path} is not a function: name one that can be called, a class derived from TextReward, or a "
            "RewardTerm"
        )
    return lambda outputs, examples: found(outputs, [example["target"][0] for example in examples])


def host_rewards(
    function: OutsideReward,
    tokenizer: Tokenizer,
    hypotheses: Int[Array, "batch samples length"],
    example: RewardExample,
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

    def scored(texts: list[str], examples: list[Mapping[str, Any]]) -> list[float]:
        try:
            returned = function(texts, examples)
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

    def call(hypotheses: Array, example: RewardExample) -> np.ndarray:
        hypotheses, example = jax.tree.map(np.asarray, (hypotheses, example))
        texts = [tokenizer.decode_target(ids) for samples in hypotheses.tolist() for ids in samples]
        examples = [each for each in _examples(tokenizer, example) for _ in range(hypotheses.shape[1])]
        return np.array(scored(texts, examples), np.float32).reshape(hypotheses.shape[:2])

    shape = jax.ShapeDtypeStruct(hypotheses.shape[:2], jnp.float32)
    return jax.pure_callback(call, shape, hypotheses, example)


def _examples(tokenizer: Tokenizer, example: RewardExample) -> Iterator[dict[str, Any]]:
    """The columns of each row, decoded."""
    pad_id = tokenizer.vocabulary.pad_id
    for row, references in enumerate(example.references):
        # The first is one of a row without an example, too.
        those = [ids.tolist() for index, ids in enumerate(references) if index == 0 or np.any(ids != pad_id)]
        columns: dict[str, Any] = {"target": list(map(tokenizer.decode_target, those))}
        if example.source is not None:
            columns["source"] = tokenizer.decode_source(example.source[row].tolist())
        yield columns | jax.tree.map(lambda leaf, row=row: leaf[row], example.labels)
