"""python -m studies.discriminators: whether each discriminator finds what can be found, where that is known exactly."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.paths import user_path
from studies.jobs import Claim, JobArguments, Jobs, carry_out

PROGRAM = "python -m studies.discriminators"
DESCRIPTION = """\
Train each discriminator to tell the texts of two Markov chains apart, and compare its accuracy and its logistic loss,
over all texts, with those of the best discriminator there is. What is done is kept in DIR, so that the same command
continues after a kill, and several of them share the jobs; --action table prints what there is.
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
# A maximum does not count how often a pair of symbols occurs; windows of the whole text do.
POOLED = PooledConvolutionConfig(model_dim=16, widths=(1, 2, 3, LENGTH), filters=(16, 96, 64, 128), dropout=0.0)
SOURCE = PooledConvolutionConfig(model_dim=16, widths=(1,), filters=(8,), dropout=0.0, highway=False)
DISCRIMINATORS: dict[str, DiscriminatorConfig] = {
    "causal recurrent": CausalDiscriminatorConfig(),
    "causal Transformer": CausalDiscriminatorConfig(
        model=ModelConfig(encoder=TransformerEncoderConfig(**STACK), decoder=TransformerDecoderConfig(**STACK))
    ),
    "match matrix": MatchMatrixConfig(model_dim=16, channels=(32, 96), hidden_dim=64, dropout=0.0),
    "convolutional towers": TwoTowersConfig(source=SOURCE, target=POOLED, hidden_dim=64),
    "recurrent towers": TwoTowersConfig(
        source=SOURCE,
        target=RecurrentEncoderConfig(model_dim=16, hidden_dim=48, dropout=0.0, cell="gru"),
        hidden_dim=64,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorsArguments(JobArguments):
    """Command line of the study."""

    shifts: tuple[float, ...] = (1.0, 0.5, 0.0)
    """How far the second chain is from the first: standard deviation of the noise on the logits of its transitions."""
    steps: int = 3_000
    """Updates, each on 256 texts of each kind."""
    learning_rate: float = 3e-3
    """The highest; rises for a twentieth of the steps and falls along a cosine."""
    seed: int = 0
    """Of the chains and of training."""
    json: str | None = None
    """File for the results, as JSON."""

    def __post_init__(self):
        if self.steps < 20 or not self.shifts:
            raise ValueError(f"--steps must be at least 20, not {self.steps}, and --shifts at least one.")


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
    prefixes: bool = False,
    seed: int = 0,
) -> Quality:
    """What a discriminator reaches after n updates on fresh texts.

    Args:
        conditional: whether the source says which chain is that of the references: with source 0 the first, with
            source 1 the second, so that only both together tell.
        prefixes: whether it is trained on all prefixes of texts; for a causal one.
    """
    discriminator = config.build(MODEL, VOCABULARY)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.98))
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

            batch = rows(jnp.tile(sources, 2), jnp.concatenate([real, fake]))

            def total(params):
                # Both kinds in one pass: small products take as long as large ones.
                logits = discriminator.logits(params, batch.target, discriminator.encode(params, batch.source))
                found = logits if prefixes else logits_of_texts(logits, batch.target.mask)
                of_real, of_fake = jnp.split(found, 2)
                return 0.5 * jnp.mean(loss.of_real(of_real)) + 0.5 * jnp.mean(loss.of_fake(of_fake))

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


class Study(Jobs):
    """Every discriminator at every shift, conditional on a source first."""

    def __init__(self, directory: Path, chosen: DiscriminatorsArguments):
        super().__init__(directory)
        self.chosen = chosen
        for conditional, shift in itertools.product((True, False), chosen.shifts):
            for name in DISCRIMINATORS:
                condition = "conditional" if conditional else "unconditional"
                self.add(
                    f"{condition}/shift={shift:g}/{name}",
                    lambda claim, settings=(name, shift, conditional): self._measured(claim, *settings),
                )

    def _measured(self, claim: Claim, name: str, shift: float, conditional: bool) -> dict[str, Any]:
        chosen, config = self.chosen, DISCRIMINATORS[name]
        chains = Chains.of(shift, seed=chosen.seed)
        begun = time.process_time()
        reached = train(
            config,
            chains,
            steps=chosen.steps,
            conditional=conditional,
            learning_rate=chosen.learning_rate,
            prefixes=config.is_causal,
            seed=chosen.seed,
        )
        return {
            "discriminator": name,
            "conditional": conditional,
            "shift": shift,
            "steps": chosen.steps,
            "reached": reached._asdict(),
            "best": best_quality(chains)._asdict(),
            "processor_seconds": time.process_time() - begun,
        }

    def show(self) -> None:
        """Print the table of what is done."""
        found = {name: result for name in self.jobs if (result := self.result(name)) is not None}
        header = ("discriminator", "accuracy", "best", "loss", "best", "processor time (s)")
        title = "Of all texts; processor time on all cores, compilation and measurement included"
        report.output().print(report.table(header, [row_of(*each) for each in found.items()], title=title))
        report.write_json(found, self.chosen.json)


def row_of(name: str, result: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    pairs = [f"{result[which][score]:.4f}" for score in ("accuracy", "loss") for which in ("reached", "best")]
    return [name, *pairs, f"{result['processor_seconds']:.0f}"]


def main(arguments: list[str]) -> None:
    """Parse the command line, train, print a table.

    Raises:
        ValueError: there is no directory, no such job, jobs failed, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(DiscriminatorsArguments(), rest, program=f"{PROGRAM} DIR", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs one DIR, new or with a study to go on with. See {PROGRAM} --help.")
    keep_compiled_programs()
    study = Study(user_path(directories[0]), chosen)
    carry_out(study, chosen, study.show)


if __name__ == "__main__":
    report.run_script(main)
