"""Convolutions and multi-step attention against loops over NumPy arrays in float64, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.modules.convolution import (
    Attended,
    ConvolutionalConfig,
    GatedConvolution,
    MultiStepAttention,
    PositionsAndProjections,
    WeightNormalizedLinear,
    unfold,
)
from seq2seq_jax.modules.segments import segment_mask

SEGMENTS = np.array([[1, 1, 1, 2, 3, 3, 3, 3, 0], [1, 2, 2, 2, 2, 2, 0, 0, 0]])
CHANNELS = 6


def convolution(kernel_size=3, *, causal=False, hidden_dim=CHANNELS, dropout=0.0, precision="float32"):
    return GatedConvolution(
        hidden_dim=hidden_dim, kernel_size=kernel_size, causal=causal, dropout=dropout, precision=precision
    )


def in_double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def normalized(params):
    """g v / |v|, output by output."""
    kernel = np.zeros_like(params["kernel"])
    for output in range(kernel.shape[-1]):
        direction = params["kernel"][..., output]
        kernel[..., output] = params["scale"][output] * direction / np.linalg.norm(direction)
    return kernel


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def reference(module, params, x):
    params, x = in_double(params), np.asarray(x, np.float64)
    kernel = normalized(params)
    result = np.zeros_like(x)
    before = module.kernel_size - 1 if module.causal else module.kernel_size // 2
    for row in range(len(x)):
        for place in range(x.shape[1]):
            total = params["bias"].copy()
            for index in range(module.kernel_size):
                read = place + index - before
                if 0 <= read < x.shape[1] and SEGMENTS[row, read] == SEGMENTS[row, place]:
                    total += x[row, read] @ kernel[index]
            result[row, place] = total[: module.hidden_dim] * sigmoid(total[module.hidden_dim :])
    return result


@pytest.mark.parametrize(
    ("kernel_size", "causal"), [(1, False), (3, False), (5, False), (11, False), (1, True), (2, True), (3, True)]
)
def test_a_gated_convolution_equals_loops_and_reads_no_other_segment(kernel_size, causal):
    module = convolution(kernel_size, causal=causal)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, CHANNELS)), jnp.float32)
    segments = jnp.asarray(SEGMENTS)
    params = random_parameters(module, x, segments)
    assert params["kernel"].shape == (kernel_size, CHANNELS, 2 * CHANNELS)
    assert params["scale"].shape == params["bias"].shape == (2 * CHANNELS,)
    found = jax.jit(module.apply)({"params": params}, x, segments)
    np.testing.assert_allclose(found, reference(module, params, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", jnp.bfloat16), ("bfloat16_products", jnp.float32)])
def test_a_gated_convolution_in_low_precision(precision, dtype):
    module = convolution(precision=precision)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, CHANNELS)), dtype)
    params = random_parameters(module, x, jnp.asarray(SEGMENTS))
    found = jax.jit(module.apply)({"params": params}, x, jnp.asarray(SEGMENTS))
    assert found.dtype == dtype
    expected = reference(module, params, x.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=0.03, atol=0.03)


def test_windows_by_hand():
    x, segments = jnp.array([[[1.0], [2.0], [3.0], [4.0]]]), jnp.array([[1, 1, 2, 2]])
    symmetric = unfold(x, segments, kernel_size=3, before=1)
    assert symmetric[0].tolist() == [[0, 1, 2], [1, 2, 0], [0, 3, 4], [3, 4, 0]]
    causal = unfold(x, segments, kernel_size=2, before=1)
    assert causal[0].tolist() == [[0, 1], [1, 2], [0, 3], [3, 4]]


def wave(*shape, phase):
    index = np.arange(np.prod(shape))
    return jnp.asarray(np.sin(0.7 * index + 0.3 * index**2 + phase).reshape(shape), jnp.float32)


# torch.nn.functional.conv1d and glu with torch.nn.utils.parametrizations.weight_norm, PyTorch 2.13 in float64: the
# result, and the gradients of sum(result * wave(1, 5, 2, phase=0.9)).
CONVOLUTION_OF_PYTORCH = {
    False: {
        "result": "0.8148934 0.1136167 0.7954344 0.9128948 0.4195238 0.7228135 0.8755839 0.2438052 0.3217796 0.6569654",
        "x": "0.2672334 -0.0735572 0.0035549 -0.0009561 0.0274404 0.7330518 0.7223693 -0.2247328 0.0085591 0.0809292",
        "kernel": """0.0040997 0.1163349 0.0160894 0.0263331 -0.2321064 -0.1265480 -0.0477087 0.1226587 0.0706438
            -0.1237744 0.0226049 0.0474472 -0.0735670 0.3704342 0.0191419 0.4071409 0.1057109 -0.3419626 0.0209116
            -0.4111259 0.0614144 -0.1687110 0.0229638 -0.1241413""",
        "scale": "0.2716884 -0.3269818 0.0022353 -0.4700718",
        "bias": "0.7989438 -0.2131208 0.3142410 -0.1610074",
    },
    True: {
        "result": "0.1483047 0.1886293 0.8148934 0.1136167 0.7954344 0.9128948 0.4195238 0.7228135 0.8755839 0.2438052",
        "x": "0.0018390 -0.2175609 -0.0251325 0.8881559 1.0657600 -0.4772063 -0.0692378 0.0809291 0.2204561 -0.1067042",
        "kernel": """0.1048970 0.0913260 0.0390617 0.1434245 -0.0239253 -0.4584936 0.0382483 -0.5396364 0.0563707
            0.1581377 0.0588648 0.2775480 -0.2655382 -0.0824142 -0.0584410 -0.1842818 -0.0206801 -0.0730495 0.0476357
            -0.0190680 -0.0645987 0.6433058 -0.1001864 0.6009316""",
        "scale": "0.3846107 0.0194704 -0.1026420 -0.0216907",
        "bias": "0.7838735 0.2767862 0.4141365 0.2647002",
    },
}

# torch.nn.Linear with weight_norm, and the gradients of sum(result * wave(3, 2, phase=0.9)).
LINEAR_OF_PYTORCH = {
    "result": "0.0524008 0.7333712 -1.9766377 0.1667792 0.2980048 1.4253952",
    "x": "1.7282144 -0.8168166 0.1237365 -0.8929688 0.3948630 -0.0133851 0.2770189 -0.4699531 0.6502058",
    "kernel": "0.6913673 0.4228028 1.2649376 -0.2245516 0.4067867 1.3531462",
    "scale": "0.3443585 -0.0584435",
    "bias": "1.2310308 -0.2225226",
}


def assert_as_recorded(module, params, recorded, x, *inputs):
    def objective(params, x):
        result = module.apply({"params": params}, x, *inputs)
        return jnp.sum(result * wave(*result.shape, phase=0.9)), result

    (params_gradient, x_gradient), result = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))(params, x)
    for name, found in {"result": result, "x": x_gradient, **params_gradient}.items():
        expected = np.array(recorded[name].split(), np.float64).reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("causal", [False, True])
def test_a_gated_convolution_and_its_gradients_are_those_of_pytorch(causal):
    params = {
        "kernel": wave(3, 2, 4, phase=1.3),
        "scale": 1.0 + 0.5 * wave(4, phase=2.1),
        "bias": wave(4, phase=0.4),
    }
    module, segments = convolution(causal=causal, hidden_dim=2), jnp.ones((1, 5), jnp.int32)
    assert_as_recorded(module, params, CONVOLUTION_OF_PYTORCH[causal], wave(1, 5, 2, phase=0.1), segments)


def test_a_weight_normalized_linear_and_its_gradients_are_those_of_pytorch():
    params = {"kernel": wave(3, 2, phase=1.3), "scale": 1.0 + 0.5 * wave(2, phase=2.1), "bias": wave(2, phase=0.4)}
    module = WeightNormalizedLinear(3, 2, ("model", "hidden"), "float32")
    assert_as_recorded(module, params, LINEAR_OF_PYTORCH, wave(3, 3, phase=0.1))


def test_initial_values_keep_the_variance():
    x, segments = jnp.asarray(np.random.default_rng(0).normal(size=(4, 50, 64)), jnp.float32), jnp.ones((4, 50), int)
    small = 0.1 * x
    module = convolution(5, hidden_dim=64, dropout=0.25)
    boxed = jax.jit(module.init)(jax.random.key(0), small, segments)["params"]
    assert boxed["kernel"].names == (None, "model", "hidden")
    assert boxed["scale"].names == boxed["bias"].names == ("hidden",)
    params = {name: box.value for name, box in boxed.items()}
    np.testing.assert_allclose(np.std(params["kernel"]), np.sqrt(4 * 0.75 / (5 * 64)), rtol=0.02)
    np.testing.assert_allclose(params["scale"], np.sqrt(np.sum(np.square(params["kernel"]), axis=(0, 1))), rtol=1e-5)
    assert not params["bias"].any()
    # What dropout would add to the variance of its input, the initial values take away.
    kept = jnp.asarray(np.random.default_rng(1).random(x.shape) > 0.25)
    found = module.apply({"params": params}, jnp.where(kept, small / 0.75, 0.0), segments)
    np.testing.assert_allclose(np.std(found), 0.1, rtol=0.1)

    linear = WeightNormalizedLinear(64, 96, ("model", "hidden"), "float32", dropout=0.25)
    boxed = jax.jit(linear.init)(jax.random.key(0), x)["params"]
    assert boxed["kernel"].names == ("model", "hidden")
    np.testing.assert_allclose(np.std(boxed["kernel"].value), np.sqrt(0.75 / 64), rtol=0.02)


def test_embeddings_of_tokens_and_of_positions_begin_with_the_deviation_of_the_paper():
    config = ConvolutionalConfig(model_dim=64, hidden_dim=8, max_positions=300, dropout=0.0)
    frame = PositionsAndProjections(config, "float32")
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 300, 64)), jnp.float32)
    positions = jnp.arange(300)[None]
    embed = jax.jit(
        lambda rng, inputs: frame.init_with_output(rng, inputs, positions, deterministic=True, method="before_layers")[
            0
        ][0]
    )
    rng = jax.random.key(0)
    np.testing.assert_allclose(np.std(embed(rng, jnp.zeros_like(inputs))), 0.1, rtol=0.02)
    np.testing.assert_allclose(np.std(embed(rng, inputs) - embed(rng, jnp.zeros_like(inputs))), 0.1, rtol=0.02)


def test_multi_step_attention_equals_loops():
    query_segments, key_segments = np.array([[1, 2, 2, 3], [1, 1, 1, 0]]), np.array([[2, 2, 1, 2, 3], [1, 1, 0, 0, 0]])
    rng = np.random.default_rng(0)
    x, embeddings, keys, values = (
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 4, 6), (2, 4, 3), (2, 5, 3), (2, 5, 3))
    )
    mask = segment_mask(jnp.asarray(query_segments), jnp.asarray(key_segments))
    inputs = jnp.asarray(x), jnp.asarray(embeddings), Attended(jnp.asarray(keys), jnp.asarray(values), mask)
    module = MultiStepAttention(model_dim=3, hidden_dim=6, precision="float32")
    params = random_parameters(module, *inputs)
    found, recorded = module.apply({"params": params}, *inputs, mutable=["attention_weights"])
    weights = recorded["attention_weights"]["weights"]
    assert weights.shape == (2, 1, 4, 5)
    params = in_double(params)
    for row in range(2):
        for target in range(4):
            query = x[row, target] @ normalized(params["query"]) + params["query"]["bias"] + embeddings[row, target]
            places = [place for place in range(5) if key_segments[row, place] == query_segments[row, target]]
            scores = np.exp([query * 0.5**0.5 @ keys[row, place] for place in places])
            expected = np.zeros(5)
            expected[places] = scores / scores.sum()
            np.testing.assert_allclose(weights[row, 0, target], expected, rtol=1e-5, atol=1e-6)
            context = len(places) * (1 / len(places)) ** 0.5 * expected @ values[row]
            expected = context @ normalized(params["output"]) + params["output"]["bias"]
            np.testing.assert_allclose(found[row, target], expected, rtol=1e-5, atol=1e-5)


def test_a_query_without_any_key_gets_a_finite_context_and_gradient():
    module = MultiStepAttention(model_dim=3, hidden_dim=6, precision="float32")
    x, embeddings, keys = jnp.ones((1, 2, 6)), jnp.ones((1, 2, 3)), jnp.ones((1, 4, 3))
    attended = Attended(keys, keys, jnp.zeros((1, 2, 4), bool))
    params = random_parameters(module, x, embeddings, attended)
    value, gradient = jax.value_and_grad(
        lambda params: jnp.sum(module.apply({"params": params}, x, embeddings, attended) ** 2)
    )(params)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, not 0"),
        ({"kernel_size": 0}, "kernel_size must be at least 1, not 0"),
        ({"max_positions": -3}, "max_positions must be at least 1, not -3"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), not 1.0"),
        ({"kernel_size": 4}, "kernel_size must be odd, since a token's window is centred on it, not 4"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=rf"^ConvolutionalEncoderConfig\.[^\n]*{message}[^\n]*$"):
        ConvolutionalEncoderConfig(**{"max_positions": 9} | wrong)
