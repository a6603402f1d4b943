"""Scores texts on meshes of eight devices and on one device; prints the rewards as JSON.

Run in a process of its own, which has eight devices.
"""

import json
import re

import jax
import numpy as np

from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.reward import RewardConfig

MESHES = {"one": (1, 1, 1), "all": (2, 2, 2)}
LENGTH = 32
WORDS = ("Haus", "Baum", "steht", "ein", "3.5", "am", "Holz-", "Tag.")


def capitals(hypotheses: list[str], references: list[str]) -> list[float]:
    """A reward in Python: more capitals than the reference."""
    return [
        sum(map(str.isupper, ours)) - sum(map(str.isupper, theirs)) + len(ours) / 100
        for ours, theirs in zip(hypotheses, references, strict=True)
    ]


def main() -> None:
    """Score the same ids on every mesh."""
    tokenizer = Tokenizer.train([(" ".join(WORDS),) * 2], TokenizerConfig(kind="char"))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, length)) for length in (1, 5, 2, 4, 3, 1, 5, 2)]
    references = np.zeros((len(texts), LENGTH), np.int32)
    for row, ids in zip(references, tokenizer.encode_target(texts), strict=True):
        row[: len(ids)] = ids[:LENGTH]
    noise = rng.integers(0, tokenizer.vocabulary.target_size, (len(texts), 3, LENGTH))
    hypotheses = np.where(rng.random(noise.shape) < 0.1, noise, references[:, None]).astype(np.int32)

    example = RewardExample(references=references[:, None])
    config = RewardConfig(rouge_2=1.0, word_error_rate=1.0, function="rewards_on_meshes:capitals", function_weight=1.0)
    reward = config.build(tokenizer)
    total = {}
    for name, (data, fsdp, tensor) in MESHES.items():
        mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
        with jax.set_mesh(mesh):
            sharded = [jax.device_put(array, batch_sharding(mesh)) for array in (hypotheses, example)]
            compiled = jax.jit(reward).lower(*sharded).compile()
            total[name] = np.asarray(compiled(*sharded)[0]).tolist()
            collectives = re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", compiled.as_text())
    # Seven rows, which eight devices cannot share.
    with jax.set_mesh(MeshConfig(data=8).build()):
        total["uneven"] = np.asarray(
            jax.jit(reward)(hypotheses[:7], RewardExample(references=references[:7, None]))[0]
        ).tolist()
    print(json.dumps({"total": total, "collectives": collectives}))


if __name__ == "__main__":
    main()
