"""Model FLOPs against the products that the compiler finds in small models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, convolutional, recurrent, transformer
from batches import batch, random_pairs

from seq2seq_jax.compilation.hlo import Program
from seq2seq_jax.compilation.kernels import dot_flops
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.modules.flops import TRAINING, causal_pairs
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, DotAttentionConfig, GeneralAttentionConfig
from seq2seq_jax.modules.recurrence import CELLS

SOURCE, TARGET, ROWS = 40, 32, 3

STACK = {"num_layers": 3, "model_dim": 48, "hidden_dim": 96, "dropout": 0.0}
HEADS = {"num_heads": 4, "attention_dropout": 0.0, "hidden_dropout": 0.0}
RECURRENT = {"num_layers": 2, "model_dim": 48, "dropout": 0.0}

TRANSFORMERS = {
    "plain": transformer(**STACK, **HEADS),
    "wide heads, gated, grouped": transformer(**STACK, **HEADS, head_dim=20, gated=True, num_kv_heads=2),
    "two widths": transformer(**STACK, **HEADS, encoder={"model_dim": 64, "num_layers": 2}, tied_embeddings="decoder"),
    "scanned": transformer(**STACK, **HEADS, scan_layers=True),
}
OTHERS = {
    "LSTM, additive": recurrent(
        **RECURRENT, encoder={"hidden_dim": 40}, decoder={"hidden_dim": 64, "attention": AdditiveAttentionConfig()}
    ),
    "GRU, general, fed": recurrent(
        **RECURRENT,
        cell="gru",
        encoder={"hidden_dim": 40},
        decoder={"hidden_dim": 64, "attention": GeneralAttentionConfig(), "input_feeding": True},
    ),
    "GNMT": recurrent(
        **RECURRENT,
        encoder={"hidden_dim": 64, "bidirectional_layers": 1},
        decoder={
            "hidden_dim": 64,
            "attention": DotAttentionConfig(scaled=True),
            "attention_layer": "first",
            "deep_output": True,
        },
    ),
    "LSTM, fixed vector": recurrent(
        **RECURRENT, encoder={"hidden_dim": 40}, decoder={"hidden_dim": 64, "attention": None}
    ),
    "convolutional": convolutional(num_layers=3, model_dim=48, hidden_dim=64, max_positions=64, dropout=0.0),
}
OTHERS["copying"] = dataclasses.replace(OTHERS["convolutional"], copying=True)
OTHERS["copying in order"] = dataclasses.replace(OTHERS["copying"], copying_in_order=True)


def compiled_flops(config, *, training):
    """Products of a pass over rows that are full of one pair each."""
    model = config.build(VOCABULARY)
    rng = np.random.default_rng(0)
    rows = [random_pairs(rng, [SOURCE], [TARGET], VOCABULARY) for _ in range(ROWS)]
    inputs = jax.tree.map(jnp.asarray, batch(rows, SOURCE, TARGET, VOCABULARY))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs)["params"])

    def forward(params, inputs):
        return jnp.sum(jnp.square(model.apply({"params": params}, inputs)))

    function = jax.jit(jax.grad(forward) if training else forward)
    program = Program(function.lower(params, inputs).compile().as_text())
    return sum(run.trips * dot_flops(run.instruction, run.computation) for run in program.runs())


def masked_pairs(config):
    """What the compiled product counts of causal self-attention, and the model does not."""
    decoder = config.decoder
    pairs = TARGET**2 - causal_pairs(TARGET)
    return decoder.num_layers * 2 * 2 * pairs * decoder.num_heads * decoder.dim_per_head


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer(name, training):
    config = TRANSFORMERS[name]
    expected = config.forward_flops(SOURCE, TARGET, vocabulary=VOCABULARY) + masked_pairs(config)
    expected *= ROWS * (TRAINING if training else 1)
    assert compiled_flops(config, training=training) == pytest.approx(expected, rel=0.01)


def not_of_the_model(config, *, training):
    """What the compiled program counts beyond the model's own FLOPs (less, if negative) in a recurrent decoder.

    It computes first states of as many segments as a row could hold: two products with selections of places, which
    have no gradient of their own, and one with a parameter. And in training, what stands in the tanh of additive
    attention gets an outer product with the vector of the scores, which is no matrix product.
    """
    decoder, summary = config.decoder, config.encoder.summary_dim
    if not isinstance(decoder, RecurrentDecoderConfig):
        return 0
    states = decoder.num_layers * CELLS[decoder.cell].num_states * decoder.hidden_dim
    selections = 2 * (SOURCE * SOURCE * summary + TARGET * SOURCE * states)
    mapped = 2 * SOURCE * summary * states
    if not training:
        return selections + mapped
    outer = 2 * SOURCE * TARGET * decoder.hidden_dim if isinstance(decoder.attention, AdditiveAttentionConfig) else 0
    return 2 * selections + TRAINING * mapped - outer


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name, training):
    config = OTHERS[name]
    expected = (TRAINING if training else 1) * config.forward_flops(SOURCE, TARGET, vocabulary=VOCABULARY)
    expected += not_of_the_model(config, training=training)
    assert compiled_flops(config, training=training) == pytest.approx(ROWS * expected, rel=0.01)


def test_flops_of_an_lstm_with_additive_attention_by_hand():
    """3 {S [Σ n 8h (x + h) + 4hA] + T [Σ 8H (x' + H) + 2HA + 2 (H + 2h) m + 2mV] + ST (2A + 4h)}."""
    config = recurrent(
        model_dim=12,
        num_layers=2,
        encoder={"hidden_dim": 10},
        decoder={"hidden_dim": 14, "attention": AdditiveAttentionConfig(attention_dim=9)},
    )
    source, target, model, h, hidden, attention = 7, 9, 12, 10, 14, 9
    encoder = 2 * 8 * h * (model + h) + 2 * 8 * h * (2 * h + h) + 4 * h * attention
    decoder = 8 * hidden * (model + hidden) + 8 * hidden * (hidden + hidden) + 2 * hidden * attention
    decoder += 2 * (hidden + 2 * h) * model + 2 * model * VOCABULARY.target_size
    expected = 3 * (source * encoder + target * decoder + source * target * (2 * attention + 4 * h))
    assert TRAINING * config.forward_flops(source, target, vocabulary=VOCABULARY) == expected


def test_flops_of_a_transformer_by_hand():
    """6 [L_e S (4da + gdf) + L_d (T (6da + gdf) + 2S da) + T dV] + 12 [L_e S² a + L_d (T² a / 2 + STa)]."""
    config = transformer(num_layers=2, model_dim=16, num_heads=2, head_dim=5, hidden_dim=24)
    source, target, model, attention, hidden, vocabulary = 7, 9, 16, 10, 24, VOCABULARY.target_size
    linear = 2 * source * (4 * model * attention + 2 * model * hidden)
    linear += 2 * (target * (6 * model * attention + 2 * model * hidden) + 2 * source * model * attention)
    linear += target * model * vocabulary
    pairs = 2 * source**2 * attention + 2 * (target**2 * attention / 2 + source * target * attention)
    found = TRAINING * config.forward_flops(source, target, vocabulary=VOCABULARY)
    assert found == 6 * linear + 12 * pairs


def test_lengths_may_be_arrays():
    config = TRANSFORMERS["plain"]
    sources, targets = np.array([3, 8]), np.array([5, 2])
    found = config.forward_flops(sources, targets, vocabulary=VOCABULARY)
    alone = [config.forward_flops(int(s), int(t), vocabulary=VOCABULARY) for s, t in zip(sources, targets, strict=True)]
    np.testing.assert_allclose(found, alone)


@pytest.mark.parametrize("config", [TRANSFORMERS["plain"], *OTHERS.values()], ids=["plain", *OTHERS])
def test_hypotheses_share_the_source(config):
    """Each further one costs the same, and less than the first with its source."""
    flops = [config.forward_flops(SOURCE, TARGET, vocabulary=VOCABULARY, hypotheses=count) for count in (1, 2, 5)]
    assert flops[2] - flops[1] == pytest.approx(3 * (flops[1] - flops[0]))
    assert flops[1] < 2 * flops[0]
