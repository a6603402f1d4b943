"""Changes of low rank in a whole model: merged, it computes the same; new, it is the model without them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, parameters, transformer
from batches import batch, random_pairs

from seq2seq_jax.modules.linear import LORA_OUT
from seq2seq_jax.modules.patterns import map_with_path, paths_of
from seq2seq_jax.modules.transformer import TransformerConfig

PAIRS = random_pairs(np.random.default_rng(0), (5, 1, 7), (4, 6, 1), VOCABULARY)
BATCH = jax.tree.map(jnp.asarray, batch([[pair] for pair in PAIRS], 8, 8, VOCABULARY))
LAYERS = ("query", "output", "expand", "gate", "contract")
ADAPTED = transformer(
    gated=True,
    encoder={"lora_rank": 2, "lora_alpha": 3.0, "lora_layers": LAYERS},
    decoder={"lora_rank": 3, "lora_layers": ("value",)},
)


def logits(config, params):
    return config.build(VOCABULARY).apply({"params": params}, BATCH)


def test_merged_parameters_compute_the_same():
    params = parameters(ADAPTED.build(VOCABULARY))
    adapters = [path for path in paths_of(params) if "lora_" in path]
    # Of 5 layers of the encoder's and 2 (self- and cross-attention) of the decoder's, both factors.
    assert len(adapters) == 2 * (5 + 2)
    plain = ADAPTED.without_lora()
    assert plain == transformer(gated=True) and not plain.has_lora and ADAPTED.has_lora
    merged = ADAPTED.merge_lora(params)
    assert paths_of(merged) == [path for path in paths_of(params) if path not in adapters]
    found, expected = logits(ADAPTED, params), logits(plain, merged)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)
    without = map_with_path(lambda path, leaf: leaf * 0 if path.endswith(LORA_OUT) else leaf, params)
    assert np.abs(found - logits(ADAPTED, without)).max() > 0.1
    np.testing.assert_allclose(logits(ADAPTED, without), logits(plain, ADAPTED.merge_lora(without)), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": 2.0}, "lora_alpha and lora_layers have no effect without lora_rank"),
        ({"lora_layers": ("key",)}, "lora_alpha and lora_layers have no effect without lora_rank"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"lora_rank": 2, "lora_alpha": -1.0}, "lora_alpha must be positive"),
        ({"lora_rank": 2, "lora_layers": ()}, "must name linear layers that there are, and has none"),
        (
            {"lora_rank": 2, "lora_layers": ("gate",)},
            "must name linear layers that there are, and has gate",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=r"^TransformerConfig[^\n]*$") as caught:
        dataclasses.replace(TransformerConfig(), **settings)
    assert message in str(caught.value)
