"""Transformers as CTranslate2 computes them: log-probabilities of random weights."""

import importlib.util

import numpy as np
import pytest
from architectures import convolutional, parameters, recurrent, transformer
from made_tokenizers import characters

from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.front_end import FeaturesConfig
from seq2seq_jax.modules.position import RotaryConfig
from seq2seq_jax.pretrained.ctranslate2_files import check_model, scores, tokens_of, write_model
from seq2seq_jax.pretrained.table import flat
from seq2seq_jax.run.ctranslate2_exports import log_probabilities

needs_ctranslate2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed (the extra `peers`)"
)
TOKENIZER = characters()
LEARNED = {"positions": "learned", "max_positions": 30, "position_offset": 2}

CASES = {
    "run": transformer(),
    "post, BART": transformer(norm_position="post", embedding_norm=True, activation="gelu_exact", norm_epsilon=1e-3,
                              **LEARNED),
    "T5 1.1": transformer(normalization="rms", positions="relative", relative_buckets=8, relative_max_distance=20,
                          attention_scale=1.0, attention_bias=False, gated=True, activation="gelu", head_dim=6),
    "UMT5": transformer(normalization="rms", positions="relative", relative_buckets=8, relative_max_distance=20,
                        relative_per_layer=True, gated=True, activation="gelu", attention_bias=False),
    "rotary": transformer(positions="rotary", rotary=RotaryConfig(base=500.0), num_kv_heads=2, gated=True,
                          activation="silu", normalization="rms_plus_one",
                          biased_projections=("query", "key", "value")),
    "token types": transformer(encoder={**LEARNED, "token_types": 2, "norm_position": "post", "embedding_norm": True}),
}  # fmt: skip
SOURCE, TARGET = [1, 5, 4, 7, 5, 8, 2], [6, 4, 5, 5, 2]


def changed(config: ModelConfig, **settings) -> ModelConfig:
    return ModelConfig(encoder=config.encoder, decoder=config.decoder, **settings)


@needs_ctranslate2
@pytest.mark.parametrize("name", [*CASES, "tables apart"])
def test_the_same_log_probabilities(name, tmp_path):
    config = CASES.get(name) or changed(
        CASES["run"], tied_embeddings="none", scaled_embeddings="target", logit_bias=True, logit_scale=0.5
    )
    model = config.build(TOKENIZER.vocabulary)
    params = parameters(model)
    expected = log_probabilities(model, params, SOURCE, TARGET)
    assert expected.min() < -3.0
    write_model(tmp_path, config, flat(params), TOKENIZER, longest=20, quantization="float32")
    tokens = tokens_of(TOKENIZER)
    texts = [tokens["source"][token] for token in SOURCE], [tokens["target"][token] for token in TARGET[:-1]]
    np.testing.assert_allclose(scores(tmp_path, *texts, quantization="float32"), expected, atol=1e-4)


@needs_ctranslate2
@pytest.mark.parametrize(("quantization", "least", "most"), [("int8", 1e-4, 0.3), ("int16", 1e-5, 0.05)])
def test_quantised_models_are_near_and_the_parameters_stay_as_they_are(quantization, least, most, tmp_path):
    config = CASES["run"]
    model = config.build(TOKENIZER.vocabulary)
    params = parameters(model)
    expected = log_probabilities(model, params, SOURCE, TARGET)
    leaves = {path: np.asarray(values) for path, values in flat(params).items()}
    before = {path: values.copy() for path, values in leaves.items()}
    write_model(tmp_path, config, leaves, TOKENIZER, longest=20, quantization=quantization)
    tokens = tokens_of(TOKENIZER)
    texts = [tokens["source"][token] for token in SOURCE], [tokens["target"][token] for token in TARGET[:-1]]
    difference = np.abs(scores(tmp_path, *texts, quantization=quantization) - expected).max()
    assert least < difference < most
    for path, values in leaves.items():
        np.testing.assert_array_equal(values, before[path], err_msg=path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (recurrent(), "its encoder is no Transformer"),
        (convolutional(), "its encoder is no Transformer"),
        (transformer(decoder={"norm_position": "both"}), "model.decoder.norm_position is both"),
        (transformer(encoder={"query_key_norm": True}), "model.encoder.query_key_norm is True"),
        (transformer(encoder={"norm_epsilon": 1e-3}), "norm_epsilon is 0.001 in its encoder and 1e-06 in its decoder"),
        (transformer(encoder={"convolution_kernel": 3}), "model.encoder.convolution_kernel is set"),
        (changed(CASES["run"], copying=True), "it copies from its source"),
        (transformer(decoder={"attention_window": 4}), "model.decoder has an attention_cap or an attention_window"),
        (changed(CASES["run"], logit_cap=30.0), "model.logit_cap is 30"),
        (changed(CASES["run"], tied_embeddings="decoder", front_end=FeaturesConfig()), "its sources are frames"),
    ],
)
def test_models_that_ctranslate2_has_not_are_refused(config, reason):
    with pytest.raises(ValueError, match=r"^RUN has a model that CTranslate2 has not: [^\n]*$") as caught:
        check_model(config, name="RUN")
    assert reason in str(caught.value)


def test_tokens_have_different_names():
    names = tokens_of(characters(letters=("____aab ", "____xyz ")))["source"]
    assert names[4:] == ["a", "a<5>", "b", "▁", "<8>"][: len(names) - 4] and len(set(names)) == len(names)
