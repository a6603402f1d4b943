"""python -m studies.discriminators: whether each discriminator finds what can be found, where that is known exactly."""

import dataclasses
import functools
import itertools
import time
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary
from seq2seq_jax.benchmark import report
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.discriminators.causal import CausalDiscriminatorConfig
from seq2seq_jax.discriminators.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    logits_of_texts,
)
from seq2seq_jax.discriminators.losses import Logistic
from seq2seq_jax.discriminators.match_matrix import MatchMatrixConfig
from seq2seq_jax.discriminators.two_towers import PooledConvolutionConfig, TwoTowersConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.overrides import override

PROGRAM = "python -m studies.discriminators"
DESCRIPTION = """\
Train each discriminator to tell the texts of two Markov chains apart, and compare its accuracy and its logistic loss,
over all texts, with those of the best discriminator there is.
"""
SYMBOLS, LENGTH, FIRST = 8, 6, 4
"""Symbols of the chains, tokens of each text of the study, and id of the first symbol."""
VOCABULARY = Vocabulary(
    source_size=FIRST + SYMBOLS, target_size=FIRST + SYMBOLS, joint=True, pad_id=0, bos_id=2, eos_id=3
)
MODEL = ModelConfig(
    encoder=RecurrentEncoderConfig(model_dim=16, hidden_dim=8, dropout=0.0),
    decoder=RecurrentDecoderConfig(model_dim=16, hidden_dim=64, dropout=0.0, attention=None, cell="gru"),
)
STACK = {"num_layers": 2, "model_dim": 32, "num_heads": 4, "hidden_dim": 64, "dropout": 0.0}
POOLED = PooledConvolutionConfig(model_dim=16, widths=(1, 2, 3), filters=(16, 96, 32), dropout=0.0)
SOURCE = PooledConvolutionConfig(model_dim=16, widths=(1,), filters=(8,), dropout=0.0, highway=False)
DISCRIMINATORS: dict[str, DiscriminatorConfig] = {
    "causal, recurrent": CausalDiscriminatorConfig(),
    "causal, Transformer": CausalDiscriminatorConfig(
        model=ModelConfig(encoder=TransformerEncoderConfig(**STACK), decoder=TransformerDecoderConfig(**STACK))
    ),
    "match matrix": MatchMatrixConfig(model_dim=16, channels=(32, 64), hidden_dim=64, dropout=0.0),
    "two towers, convolutional": TwoTowersConfig(source=SOURCE, target=POOLED, hidden_dim=64),
    "two towers, recurrent": TwoTowersConfig(
        source=SOURCE,
        target=RecurrentEncoderConfig(model_dim=16, hidden_dim=48, dropout=0.0, cell="gru"),
        hidden_dim=64,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorsArguments:
    """Command line of the study."""

    shifts: tuple[float, ...] = (0.0, 0.5, 1.0)
    """How far the second chain is from the first: standard deviation of the noise on the logits of its transitions."""
    conditional: bool = True
    """Whether the source says which chain is that of the references, so that a text alone says nothing."""
    steps: int = 4_000
    """Updates, each on 256 texts of each kind."""
    learning_rate: float = 3e-3
    """At the beginning; falls along a cosine."""
    seed: int = 0
    """Of the chains and of training."""
    json: str | None = None
    """File for the results, as JSON."""


class Chains(NamedTuple):
    """Two Markov chains: logarithms of the probabilities of the first symbol and of transitions, of each."""

    first: jax.Array
    """[2, symbols]."""
    transitions: jax.Array
    """[2, symbols, symbols]."""
    length: int
    """Symbols of each text."""

    @classmethod
    def of(cls, shift: float, *, seed: int, length: int = LENGTH) -> "Chains":
        """The chains of a shift."""
        rng = np.random.default_rng(seed)
        logits = [rng.normal(size=(SYMBOLS,)), rng.normal(size=(SYMBOLS, SYMBOLS))]
        both = [np.stack([each, each + shift * rng.normal(size=each.shape)]) for each in logits]
        return cls(*(jax.nn.log_softmax(jnp.asarray(each, jnp.float32)) for each in both), length)

    def draw(self, key: jax.Array, chains: jax.Array) -> jax.Array:
        """Texts of symbols [texts, length], each of the chain of an index."""

        def step(symbols, key):
            following = jax.random.categorical(key, self.transitions[chains, symbols])
            return following, following

        keys = jax.random.split(key, self.length)
        first = jax.random.categorical(keys[0], self.first[chains])
        _, others = jax.lax.scan(step, first, keys[1:])
        return jnp.concatenate([first[:, None], others.T], axis=1)

    def log_probabilities(self, texts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of each text the logarithm of its probability by the first chain, and by the second."""
        values = self.first[:, texts[:, 0]]
        for place in range(1, self.length):
            values += self.transitions[:, texts[:, place - 1], texts[:, place]]
        return values[0], values[1]


class Quality(NamedTuple):
    """Accuracy and logistic loss (nats) on as many references as samples."""

    accuracy: float
    loss: float


def all_texts(length: int) -> jax.Array:
    """All texts of that many symbols."""
    return jnp.asarray(np.array(list(itertools.product(range(SYMBOLS), repeat=length)), np.int32))


def quality(chains: Chains, logits: jax.Array | np.ndarray, texts: jax.Array) -> Quality:
    """Of logits of all texts, exactly: expectations over the two chains."""
    real, fake = (np.exp(np.asarray(each, np.float64)) for each in chains.log_probabilities(texts))
    logits = np.asarray(logits, np.float64)
    right = real * (logits > 0) + fake * (logits < 0) + 0.5 * (real + fake) * (logits == 0)
    losses = real * np.logaddexp(0, -logits) + fake * np.logaddexp(0, logits)
    return Quality(float(0.5 * right.sum()), float(0.5 * losses.sum()))


def best_quality(chains: Chains) -> Quality:
    """Of the discriminator that knows the chains: d = log p/q."""
    texts = all_texts(chains.length)
    real, fake = chains.log_probabilities(texts)
    return quality(chains, real - fake, texts)


def rows(sources: jax.Array, texts: jax.Array) -> Batch:
    """Pairs of a source of one symbol and a text."""

    def side(tokens):
        ones = jnp.ones(tokens.shape, jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return TokenRows(tokens=tokens + FIRST, segment_ids=ones, positions=positions, max_segments=1)

    return Batch(source=side(sources[:, None]), target=side(texts))


def batch_logits(discriminator: Discriminator, params, batch: Batch) -> jax.Array:
    """The logit of each text."""
    found = discriminator.logits(params, batch.target, discriminator.encode(params, batch.source))
    return logits_of_texts(found, batch.target.mask)


def train(
    config: DiscriminatorConfig,
    chains: Chains,
    *,
    steps: int,
    conditional: bool = True,
    learning_rate: float = 3e-3,
    texts_per_step: int = 256,
    seed: int = 0,
) -> Quality:
    """What a discriminator reaches after n updates on fresh texts.

    Args:
        conditional: whether the source says which chain is that of the references: with source 0 the first, with
            source 1 the second, so that only both together tell.
    """
    discriminator = config.build(MODEL, VOCABULARY)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(learning_rate, steps), b2=0.98)
    )
    loss = Logistic()

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            keys = jax.random.split(key, 3)
            sources = (
                jax.random.randint(keys[0], (texts_per_step,), 0, 2)
                if conditional
                else jnp.zeros(texts_per_step, jnp.int32)
            )
            real, fake = chains.draw(keys[1], sources), chains.draw(keys[2], 1 - sources)

            def total(params):
                of_real = batch_logits(discriminator, params, rows(sources, real))
                of_fake = batch_logits(discriminator, params, rows(sources, fake))
                return jnp.mean(loss.losses(of_real, of_fake[:, None]))

            updates, state = optimizer.update(jax.grad(total)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(seed), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    params = run(nn.meta.unbox(discriminator.initialize(jax.random.key(seed))))
    texts = all_texts(chains.length)
    find = jax.jit(functools.partial(batch_logits, discriminator))
    parts = []
    for source in range(1 + conditional):
        found = []
        for part in np.array_split(np.asarray(texts), 16):
            found.append(np.asarray(find(params, rows(jnp.full(len(part), source, jnp.int32), jnp.asarray(part)))))
        logits = np.concatenate(found)
        parts.append(quality(chains, logits if source == 0 else -logits, texts))
    return Quality(*(float(np.mean(each)) for each in zip(*parts, strict=True)))


def main(arguments: list[str]) -> None:
    """Parse the command line, train, print a table."""
    chosen = override(DiscriminatorsArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    found = []
    for shift in chosen.shifts:
        chains = Chains.of(shift, seed=chosen.seed)
        best = best_quality(chains)
        for name, config in DISCRIMINATORS.items():
            started = time.perf_counter()
            reached = train(
                config,
                chains,
                steps=chosen.steps,
                conditional=chosen.conditional,
                learning_rate=chosen.learning_rate,
                seed=chosen.seed,
            )
            seconds = time.perf_counter() - started
            found.append(
                {"shift": shift, "discriminator": name, **reached._asdict(), "best": best._asdict(), "seconds": seconds}
            )
            report.output().print(
                f"shift {shift:g}, {name}: accuracy {reached.accuracy:.4f} of {best.accuracy:.4f}, loss "
                f"{reached.loss:.4f} of {best.loss:.4f}, {seconds:.0f} s",
                soft_wrap=True,
            )
    report.write_json({"steps": chosen.steps, "conditional": chosen.conditional, "results": found}, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
