"""Model FLOPs of a step of every objective, against loops over the pairs and texts of a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, convolutional, recurrent, transformer
from batches import batch, random_pairs

from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, GeneralAttentionConfig
from seq2seq_jax.objectives.estimators import GroupNormalized, LeaveOneOut, Reinforce, SelfCritical
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Prepared, model_flops
from seq2seq_jax.objectives.policy_gradient import PolicyGradient, PolicyGradientConfig

CONFIGS = {
    "transformer": transformer(),
    "recurrent": recurrent(decoder={"attention": AdditiveAttentionConfig()}),
    "convolutional": convolutional(),
    "a Transformer that an LSTM reads": ModelConfig(
        encoder=transformer().encoder, decoder=recurrent(decoder={"attention": GeneralAttentionConfig()}).decoder
    ),
    "copying": dataclasses.replace(recurrent(), copying=True),
}
SOURCES, TARGETS = (5, 2, 7, 3, 4), (4, 6, 1, 3, 8)
PAIRS = random_pairs(np.random.default_rng(0), SOURCES, TARGETS, VOCABULARY)
SCHEDULED = {
    "sampling_schedule": "linear", "sampling_limit": 0.5, "sampling_steps": 10, "sampling_choice": "argmax"
}  # fmt: skip


def lengths(sequence):
    """Of the segments of each row, counted one by one."""
    rows = np.asarray(sequence.segment_ids)
    return [[int((row == segment).sum()) for segment in range(1, row.max(initial=0) + 1)] for row in rows]


step_flops = jax.jit(model_flops, static_argnums=0)


@pytest.mark.parametrize("scheduled", [False, True], ids=["", "scheduled sampling"])
@pytest.mark.parametrize("name", CONFIGS)
def test_maximum_likelihood(name, scheduled):
    """Three times the forward pass of each pair, packed or not, and an empty row; no attention between pairs."""
    config = CONFIGS[name]
    objective = MaximumLikelihoodConfig(**(SCHEDULED if scheduled else {})).build(config.build(VOCABULARY))
    rows = batch([[PAIRS[0], PAIRS[1]], [PAIRS[2], PAIRS[3], PAIRS[4]], []], 16, 14, VOCABULARY)
    expected = 0.0
    for sources, targets in zip(lengths(rows.source), lengths(rows.target), strict=True):
        for source, target in zip(sources, targets, strict=True):
            forward = config.forward_flops(source, target, vocabulary=VOCABULARY)
            expected += 3 * forward
            if scheduled:
                expected += forward - config.encoder.forward_flops(source)
    assert float(step_flops(objective, Prepared(rows=rows))) == pytest.approx(expected, rel=1e-6)
    alone = batch([[pair] for pair in PAIRS], 9, 11, VOCABULARY)
    assert float(step_flops(objective, Prepared(rows=alone))) == pytest.approx(expected, rel=1e-6)


def reward(hypotheses, references):
    return jnp.zeros(hypotheses.shape[:2]), {}


SETTINGS = {
    "leave one out": {"estimator": LeaveOneOut(), "samples_per_source": 3},
    "self-critical, likelihood": {"estimator": SelfCritical(), "samples_per_source": 1, "likelihood_weight": 0.3},
    "divergence, reference": {
        "estimator": LeaveOneOut(), "samples_per_source": 2, "kl_weight": 0.1, "include_reference": True
    },
    "learned baseline": {"estimator": Reinforce(baseline="learned", baseline_decay=None), "samples_per_source": 2},
    "two updates": {
        "estimator": GroupNormalized(updates=2, clip=0.2), "samples_per_source": 2, "likelihood_weight": 0.1,
    },
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", ["transformer", "recurrent"])
def test_policy_gradient(name, settings):
    config = CONFIGS[name]
    objective = PolicyGradient(
        PolicyGradientConfig(maximum_length_ratio=1.0, maximum_length_extra=2, **settings),
        config.build(VOCABULARY),
        reward,
    )
    rows = jax.tree.map(jnp.asarray, batch([[pair] for pair in PAIRS] + [[]], 8, 9, VOCABULARY))
    params = {player.name: player.initialize(jax.random.key(1)) for player in objective.players}
    params = jax.tree.map(
        lambda leaf: getattr(leaf, "value", leaf), params, is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    prepared, _ = jax.jit(objective.prepare)(
        params, objective.initial_state(params), rows, step=jnp.int32(0), rng=jax.random.key(2)
    )
    experience = prepared.rows
    learned, drawn = np.asarray(experience.mask.sum(axis=-1)), np.asarray(experience.drawn_lengths)
    greedy = isinstance(settings["estimator"], SelfCritical)
    assert drawn.shape[1] == settings["samples_per_source"] + greedy
    assert learned.shape[1] == settings["samples_per_source"] + settings.get("include_reference", False)

    def texts(source, lengths):
        """A forward pass: the source once, then each text."""
        once = config.forward_flops(source, 0, vocabulary=VOCABULARY, hypotheses=0)
        return once + sum(config.forward_flops(source, int(n), vocabulary=VOCABULARY) - once for n in lengths)

    expected, updates = 0.0, settings["estimator"].updates
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        expected += texts(source, drawn[row]) + 3 * updates * texts(source, learned[row])
        if "kl_weight" in settings:
            expected += texts(source, learned[row])
        if "likelihood_weight" in settings:
            expected += 3 * updates * (texts(source, [target]) - config.encoder.forward_flops(source))
        if len(objective.players) > 1:
            logits = 2 * int(learned[row].sum()) * config.decoder.model_dim * VOCABULARY.target_size
            expected += texts(source, learned[row]) - config.encoder.forward_flops(source) - logits
    # The row without a source adds nothing.
    assert not drawn[-1].any() and not learned[-1].any()
    assert float(step_flops(objective, prepared)) == pytest.approx(expected, rel=1e-5)
