"""Recurrent layers against loops over NumPy arrays in float64, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from differences import gradients, in_double
from recurrences import outputs_of_layer

from seq2seq_jax.modules.recurrence import CELLS
from seq2seq_jax.modules.recurrent import RecurrentConfig, RecurrentLayer

SEGMENTS = np.array([[1, 1, 2, 2, 2], [1, 2, 2, 0, 0]])
FIRST = np.array([[1, 0, 1, 0, 0], [1, 1, 0, 1, 0]])
LAST = np.array([[0, 1, 0, 0, 1], [1, 0, 1, 0, 1]])
INPUT, HIDDEN = 2, 3


def recurrent_layer(cell, *, layer_norm=False, recurrent_dropout=0.0, precision="float32"):
    return RecurrentLayer(
        cell=cell,
        input_dim=INPUT,
        hidden_dim=HIDDEN,
        layer_norm=layer_norm,
        recurrent_dropout=recurrent_dropout,
        precision=precision,
    )


def wave(*shape, phase):
    index = np.arange(np.prod(shape))
    return jnp.asarray(np.sin(0.7 * index + 0.3 * index**2 + phase).reshape(shape), jnp.float32)


# torch.nn.LSTM and torch.nn.GRU(2, 3, bidirectional=True), PyTorch 2.13 in float64, of wave(2, 4, 2, phase=0.1): the
# result, and the gradients of sum(result * wave(2, 4, 6, phase=0.2)). The parameters are those of
# `parameters_of_pytorch`, weight_ih and weight_hh transposed, bias_hh 0 but for the GRU's candidate; `start` holds the
# gradients of h_0 and, in an LSTM, of c_0.
RECORDED_FROM_PYTORCH = {
    "lstm": {
        "result": """-0.1333371 0.1811766 0.1563476 -0.3464845 0.0690349 0.1089034 0.0012601 0.5539005 0.0540979
            -0.5109991 0.2871100 0.2289158 0.0280539 0.4789882 0.0327961 -0.6560203 0.5976883 0.3327837 -0.1023203
            0.2878711 0.1925685 -0.4015095 0.2992454 0.5053808 -0.2340783 -0.0100639 0.0602329 -0.3740124 0.1725206
            0.0476361 -0.2447667 0.1008891 0.1491844 -0.2750463 0.0761174 -0.0573124 0.0315646 0.3485763 0.1516231
            -0.5237860 0.5081165 0.2945628 -0.1817781 0.3547848 0.1926515 -0.0299113 0.0887124 0.1798993""",
        "x": """-0.0779747 -0.1489868 0.2299157 -0.0764913 0.0817454 0.0397965 -0.1907311 0.0408605 -0.0058726
            0.0077445 0.8312248 -0.0966388 -0.2974769 0.4151250 0.0923885 0.4300331""",
        "forward": {
            "input": """0.0663847 -0.0262103 0.0521465 0.0346463 0.0070035 0.0249464 -0.0019892 -0.1213815 0.2362969
                0.0671485 -0.0396864 0.0479319 0.1263334 0.0283814 0.0601322 0.0360681 -0.0063602 0.0096951 -0.3079365
                0.0157705 0.0110337 0.0220338 0.1996706 0.0827215""",
            "kernel": """0.1894100 -0.0054250 -0.0562598 0.0220854 0.0053338 -0.0013038 -0.0886479 -0.0363538
                -0.2000602 0.0806712 0.0315727 -0.0134059 -0.2066899 0.0507163 0.1767930 0.0458891 0.0161088 -0.0111404
                0.3383723 -0.0196984 0.1736228 -0.0704649 0.1892019 0.1292134 0.1903113 0.0041307 -0.0421250 -0.0037282
                0.0131445 0.0164263 -0.1221275 0.0619824 -0.0589896 0.0673903 0.0388918 -0.0117519""",
            "bias": """-0.2412146 0.1347321 0.3268671 0.0166821 0.0535536 0.0266309 0.5180066 0.3080775 0.5492558
                -0.1387961 0.4331640 0.2318002""",
            "start": """0.0408196 -0.1796722 0.1164480 -0.0680608 -0.2316688 -0.0467309 0.0614077 0.1249378 0.0086081
                0.6974718 -0.0544721 0.3362085""",
        },
        "backward": {
            "input": """-0.0798024 -0.0498178 -0.1708337 -0.0005147 -0.0442582 -0.1850841 0.1506805 -0.1005083
                -0.2130022 -0.2187582 -0.1278969 -0.0885991 0.0442549 -0.0241351 -0.0515313 -0.1219963 0.0615400
                -0.1153303 0.1497677 0.2564287 -0.5499673 0.0516924 0.0327100 -0.0547898""",
            "kernel": """-0.1100272 0.0351828 0.0172776 -0.1071692 -0.0426102 0.0521056 0.2756722 -0.0146732 0.0967440
                -0.2645672 -0.0338739 0.0499909 0.0437328 -0.0145876 -0.1669012 0.1195720 -0.0192623 -0.1232768
                -0.1066694 -0.0729344 -0.0759187 0.1078185 -0.0875569 -0.0368327 0.0916185 -0.0365452 -0.0739842
                0.0087881 0.0481015 -0.1427739 -0.1755368 0.0733678 -0.1904287 0.0654030 0.0012936 -0.0973981""",
            "bias": """0.2445226 -0.1760713 -0.2523833 0.1776424 0.0808197 -0.4273650 -0.6992871 -0.1429565 -0.5328939
                0.3434703 -0.1023802 -0.2465685""",
            "start": """-0.2395519 0.1553508 0.2188296 0.0285532 0.4712237 0.4477570 0.0129756 -0.1181937 -0.2285951
                -0.4121321 0.1694671 -0.2648305""",
        },
    },
    "gru": {
        "result": """0.5059367 0.9950711 -0.6459188 -0.4349577 0.7758206 0.5684458 0.0895797 0.9953092 0.1866745
            -0.2182515 0.3455670 0.6813819 0.5699143 0.9945488 0.5405323 -0.3930784 0.8513339 0.5336237 0.6766157
            0.9946186 -0.5414679 -0.1656272 0.9803095 0.2146807 -0.6918099 0.9089595 -0.5909264 -0.0448562 -0.2488383
            0.5869736 -0.6090661 0.8116807 -0.5754248 -0.3185631 0.0171068 0.4436973 -0.0370508 0.8518638 -0.4374751
            -0.3882063 0.3829280 0.6207716 -0.0223058 0.8935306 -0.5521759 -0.3211887 0.1007696 0.3464171""",
        "x": """0.0271593 0.1731326 0.3848892 0.6207153 0.2933983 0.3146531 -0.3926520 -0.1115768 0.3545115 -0.3219439
            0.4521571 0.0818633 -0.3694955 -0.8596515 0.0005036 0.5881449""",
        "forward": {
            "input": """0.0698940 -0.0124863 -0.3226531 0.1636617 0.0020738 0.0478039 0.1771487 -0.0420524 0.7452218
                -0.0782401 0.0396532 0.1002976 0.0619062 0.0158968 0.4472374 -1.2279725 0.1124133 0.1157819""",
            "kernel": """0.0434851 0.0151593 0.3839049 0.0581819 0.0161283 0.3730839 0.2180106 0.0219443 -0.1702045
                0.0883285 0.0046374 -0.8364523 -0.0445130 -0.0253608 -0.0689911 0.9786778 0.0099371 0.9657425 0.0204598
                0.0114550 0.4882376 -0.0130292 0.0228707 0.3433809 -0.3824492 0.0155187 -0.2997869""",
            "bias": "0.0834689 0.0084296 -0.9377817 -0.0200847 -0.0273299 -0.0822477 1.1785477 0.0361093 2.0114181",
            "candidate_bias": "0.9316824 0.0146681 1.0627781",
            "start": "0.2408828 0.6558700 0.2698459 1.2454732 -0.8805286 1.4803906",
        },
        "backward": {
            "input": """0.0956234 0.0492552 0.0502192 0.0485241 0.1494170 0.3183703 0.1449527 -0.0690429 -0.1826018
                0.0649200 -0.0837560 0.1051506 -0.1462756 -0.0642621 -0.3725950 0.5375148 0.4679726 -0.4327667""",
            "kernel": """0.2114968 0.0116527 0.0008190 -0.0190982 0.0229079 -0.0332591 0.4748657 -0.0283038 -0.0017859
                -0.1224068 0.0287995 0.0428545 0.1852251 0.0170926 0.4157818 -0.4375646 0.0738736 -0.0847121 -0.3257896
                -0.0294590 0.0406328 0.0480041 -0.0652854 0.0390004 -0.7143540 0.1162720 -0.0803806""",
            "bias": "-0.6253663 -0.0373355 0.1177043 0.2279506 -0.0657907 0.2773268 -2.5316502 0.3297169 -0.4946016",
            "candidate_bias": "-1.3373023 0.2075952 -0.2255465",
            "start": "0.2279194 0.1769205 -1.5342308 -0.7832211 0.3849435 -0.7959074",
        },
    },
}


def parameters_of_pytorch(cell, phase):
    num_gates = CELLS[cell].num_gates
    params = {
        "input": wave(INPUT, num_gates, HIDDEN, phase=phase + 0.3),
        "kernel": wave(HIDDEN, num_gates, HIDDEN, phase=phase + 0.6),
        "bias": wave(num_gates, HIDDEN, phase=phase + 0.9),
    }
    return params | ({"candidate_bias": wave(HIDDEN, phase=phase + 1.2)} if cell == "gru" else {})


@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_and_their_gradients_are_those_of_pytorch(cell):
    batch, length = 2, 4
    segment_ids = jnp.ones((batch, length), jnp.int32)
    starts = [wave(2, batch, HIDDEN, phase=0.5 + state) for state in range(CELLS[cell].num_states)]
    directions = {
        name: {
            "params": parameters_of_pytorch(cell, phase),
            "start": jnp.stack([both[direction] for both in starts]),
        }
        for direction, (name, phase) in enumerate({"forward": 0.0, "backward": 1.0}.items())
    }

    def objective(directions, x):
        results = []
        for name in ("forward", "backward"):
            arguments = directions[name]
            at_ends = jnp.zeros((len(starts), batch, length, HIDDEN))
            at_ends = at_ends.at[:, :, 0 if name == "forward" else -1].set(arguments["start"])
            results.append(
                recurrent_layer(cell).apply(
                    {"params": arguments["params"]},
                    x,
                    segment_ids,
                    start=tuple(at_ends),
                    reverse=name == "backward",
                    deterministic=True,
                )
            )
        result = jnp.concatenate(results, axis=-1)
        return jnp.sum(result * wave(*result.shape, phase=0.2)), result

    (of_directions, of_x), result = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))(
        directions, wave(batch, length, INPUT, phase=0.1)
    )
    found = {"result": result, "x": of_x} | {
        name: of_direction["params"] | {"start": of_direction["start"]} for name, of_direction in of_directions.items()
    }

    def compare(path, found, recorded):
        expected = np.array(recorded.split(), np.float64).reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, found, RECORDED_FROM_PYTORCH[cell])


def example(module, *, starts=True):
    """Parameters, inputs and states that the segments begin with, [batch, states, length, hidden]."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*SEGMENTS.shape, INPUT)).astype(np.float32)
    num_states = CELLS[module.cell].num_states
    start = rng.normal(size=(len(SEGMENTS), num_states, SEGMENTS.shape[1], HIDDEN)).astype(np.float32)
    arguments = {"start": None, "reverse": False, "deterministic": True}
    params = random_parameters(module, jnp.asarray(x), jnp.asarray(SEGMENTS), **arguments)
    return {"params": params, "x": jnp.asarray(x), "start": jnp.asarray(start) if starts else None}


def apply(module, arguments, *, reverse, **settings):
    start = arguments["start"]
    if start is not None:
        at_ends = start * jnp.asarray(LAST if reverse else FIRST)[:, None, :, None]
        start = tuple(jnp.moveaxis(at_ends, 1, 0))
    settings = {"deterministic": True} | settings
    rngs = None if settings["deterministic"] else {"dropout": jax.random.key(0)}
    return module.apply(
        {"params": arguments["params"]},
        arguments["x"],
        jnp.asarray(SEGMENTS),
        start=start,
        reverse=reverse,
        rngs=rngs,
        **settings,
    )


def reference(module, arguments, *, reverse, masks=None):
    return outputs_of_layer(
        module.cell,
        arguments["params"],
        arguments["x"],
        SEGMENTS,
        reverse=reverse,
        starts=arguments["start"],
        masks=masks,
    )


@pytest.mark.parametrize(
    ("layer_norm", "reverse", "starts"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, True)],
)
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_and_its_gradients_equal_loops(cell, layer_norm, reverse, starts):
    module = recurrent_layer(cell, layer_norm=layer_norm)
    arguments = example(module, starts=starts)
    weights = np.random.default_rng(1).normal(size=(*SEGMENTS.shape, HIDDEN))

    def objective(arguments):
        outputs = apply(module, arguments, reverse=reverse)
        return jnp.sum(outputs * weights), outputs

    gradient, outputs = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    np.testing.assert_allclose(outputs, reference(module, in_double(arguments), reverse=reverse), rtol=1e-5, atol=1e-5)
    by_differences = gradients(
        lambda arguments: np.sum(reference(module, arguments, reverse=reverse) * weights), arguments
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, by_differences)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_recurrent_dropout_is_one_mask_a_row_for_all_steps(layer_norm):
    module = recurrent_layer("lstm", layer_norm=layer_norm, recurrent_dropout=0.5)
    arguments = example(module)
    # The same draw, the module's first.
    masks = module.apply(
        {"params": arguments["params"]},
        len(SEGMENTS),
        deterministic=False,
        method="mask",
        rngs={"dropout": jax.random.key(0)},
    )
    assert set(np.unique(masks)) == {0.0, 2.0}
    assert masks.shape == (len(SEGMENTS), HIDDEN)
    weights = np.random.default_rng(1).normal(size=(*SEGMENTS.shape, HIDDEN))

    def objective(arguments):
        outputs = apply(module, arguments, reverse=False, deterministic=False)
        return jnp.sum(outputs * weights), outputs

    gradient, outputs = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    masks = in_double(masks)
    expected = reference(module, in_double(arguments), reverse=False, masks=masks)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    by_differences = gradients(
        lambda arguments: np.sum(reference(module, arguments, reverse=False, masks=masks) * weights), arguments
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, by_differences)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", jnp.bfloat16), ("bfloat16_products", jnp.float32)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_layer_in_low_precision(layer_norm, precision, dtype):
    module = recurrent_layer("gru", layer_norm=layer_norm, precision=precision)
    arguments = example(module)
    arguments["x"] = arguments["x"].astype(dtype)
    outputs = jax.jit(lambda arguments: apply(module, arguments, reverse=True))(arguments)
    assert outputs.dtype == dtype
    expected = reference(module, in_double(arguments), reverse=True)
    np.testing.assert_allclose(np.asarray(outputs, np.float64), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("cell", CELLS)
def test_initial_values(cell):
    hidden, num_gates = 16, CELLS[cell].num_gates
    module = RecurrentLayer(
        cell=cell, input_dim=24, hidden_dim=hidden, layer_norm=True, recurrent_dropout=0.0, precision="float32"
    )
    arguments = {"start": None, "reverse": False, "deterministic": True}
    boxed = jax.jit(lambda key: module.init(key, jnp.ones((1, 1, 24)), jnp.ones((1, 1), int), **arguments))(
        jax.random.key(0)
    )["params"]
    assert boxed["input"].names == boxed["kernel"].names == ("model", None, "hidden")
    assert all(box.names[-1] == "hidden" for box in boxed.values())
    params = {name: np.asarray(box.value) for name, box in boxed.items()}
    # Glorot's uniform distribution, over all gates of a layer.
    limit = np.sqrt(6 / (24 + num_gates * hidden))
    assert 0.98 * limit < np.abs(params["input"]).max() <= limit
    for gate in range(num_gates):
        square = params["kernel"][:, gate]
        np.testing.assert_allclose(square @ square.T, np.eye(hidden), atol=1e-5)
    assert np.abs(params["kernel"][:, 0] - params["kernel"][:, 1]).max() > 0.1
    if cell == "lstm":
        np.testing.assert_array_equal(params["bias"], np.repeat([[0.0], [1.0], [0.0], [0.0]], hidden, axis=1))
        assert not params["cell_bias"].any() and np.all(params["cell_scale"] == 1.0)
    else:
        assert not params["bias"].any() and not params["candidate_bias"].any()
    assert np.all(params["input_scale"] == 1.0) and np.all(params["product_scale"] == 1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, not 0."),
        ({"model_dim": -1}, "model_dim must be at least 1, not -1."),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, not 0."),
        ({"dropout": 1.0}, "dropout must lie in [0, 1), not 1.0."),
        ({"recurrent_dropout": -0.1}, "recurrent_dropout must lie in [0, 1), not -0.1."),
        (
            {"num_layers": 3, "residual_from": 1},
            "residual_from must be None or one of layers 2 to num_layers = 3, not 1.",
        ),
        (
            {"num_layers": 3, "residual_from": 4},
            "residual_from must be None or one of layers 2 to num_layers = 3, not 4.",
        ),
        ({"variational_dropout": True, "dropout": 0.0}, "variational_dropout needs a dropout above 0."),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError) as error:
        RecurrentConfig(**wrong)
    assert str(error.value) == f"RecurrentConfig.{message}"


def test_residual_connections_begin_at_their_layer():
    config = RecurrentConfig(num_layers=4, residual_from=3)
    assert [config.is_residual(index) for index in range(4)] == [False, False, True, True]
    assert not any(RecurrentConfig(num_layers=4).is_residual(index) for index in range(4))
