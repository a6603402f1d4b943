"""The GRU encoder–decoder of g2p-en: its own formulas in NumPy, with random weights, and the same here."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.batch import TokenRows
from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.safetensors_files import NewTensor, write_file
from seq2seq_jax.pretrained.table import nested, stored_arrays
from seq2seq_jax.pretrained.tokenizers import read_pieces, read_tokenizer

HIDDEN = 12
GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcde"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", "A0", "A1", "B", "CH", "D", "E0"]
WORDS = ["a", "bad?", "cabbedae"]
TARGETS = ["A0", "B A1 D", "CH A0 B E0 D A1"]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    shapes = {"fc_w": (len(PHONEMES), HIDDEN), "fc_b": (len(PHONEMES),)}
    for name, size in (("enc", len(GRAPHEMES)), ("dec", len(PHONEMES))):
        shapes |= {
            f"{name}_emb": (size, HIDDEN),
            f"{name}_w_ih": (3 * HIDDEN, HIDDEN),
            f"{name}_w_hh": (3 * HIDDEN, HIDDEN),
            f"{name}_b_ih": (3 * HIDDEN,),
            f"{name}_b_hh": (3 * HIDDEN,),
        }
    return {name: rng.normal(0.0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def checkpoint(arrays, tmp_path_factory):
    directory = tmp_path_factory.mktemp("g2p")
    config = {"model_type": "g2p_en", "hidden_size": HIDDEN, "graphemes": GRAPHEMES, "phonemes": PHONEMES}
    (directory / "config.json").write_text(json.dumps(config))
    tensors = [
        NewTensor(name=name, dtype="F32", shape=array.shape, values=lambda array=array: array)
        for name, array in arrays.items()
    ]
    write_file(directory / "model.safetensors", tensors, metadata={})
    return Checkpoint.open(directory)


@pytest.fixture(scope="module")
def encoded(checkpoint):
    tokenizer = read_tokenizer(checkpoint)
    return tokenizer, tokenizer.encode_source(WORDS), tokenizer.encode_target(TARGETS)


def by_hand(arrays, source, target):
    """Logits of each label, as the package computes them."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def cell(x, h, name):
        of_input = arrays[f"{name}_w_ih"] @ x + arrays[f"{name}_b_ih"]
        of_state = arrays[f"{name}_w_hh"] @ h + arrays[f"{name}_b_hh"]
        reset = sigmoid(of_input[:HIDDEN] + of_state[:HIDDEN])
        update = sigmoid(of_input[HIDDEN : 2 * HIDDEN] + of_state[HIDDEN : 2 * HIDDEN])
        candidate = np.tanh(of_input[2 * HIDDEN :] + reset * of_state[2 * HIDDEN :])
        return (1 - update) * candidate + update * h

    h = np.zeros(HIDDEN)
    for token in source:
        h = cell(arrays["enc_emb"][token], h, "enc")
    logits = []
    for token in [2, *target[:-1]]:
        h = cell(arrays["dec_emb"][token], h, "dec")
        logits.append(arrays["fc_w"] @ h + arrays["fc_b"])
    return np.stack(logits)


def packed(texts):
    return TokenRows(
        tokens=jnp.asarray(np.concatenate(texts)[None], jnp.int32),
        segment_ids=jnp.asarray(np.repeat(np.arange(len(texts)) + 1, list(map(len, texts)))[None], jnp.int32),
        positions=jnp.asarray(np.concatenate([np.arange(len(text)) for text in texts])[None], jnp.int32),
    )


def largest_difference(config, params, encoded, expected):
    """Between logits here, of all pairs in one row, and those by hand."""
    tokenizer, sources, targets = encoded
    model = config.build(tokenizer.vocabulary)
    source, target = packed(sources), packed(targets)
    memory = model.apply({"params": params}, source, deterministic=True, method="encode")
    hidden = model.apply({"params": params}, target, memory, deterministic=True, method="decode")
    found = model.apply({"params": params}, hidden, target.segment_ids, memory, method="logits")
    return float(np.abs(np.asarray(found)[0] - np.concatenate(expected)).max())


def test_words_and_phonemes_have_the_ids_of_their_lists(checkpoint, encoded):
    tokenizer, sources, targets = encoded
    assert sources == [[3, 2], [4, 3, 6, 1, 2], [5, 3, 4, 4, 7, 6, 3, 7, 2]]
    assert targets[1] == [6, 5, 8, 3] and tokenizer.decode_target(targets[1]) == TARGETS[1]
    vocabulary = tokenizer.vocabulary
    assert (vocabulary.source_size, vocabulary.target_size, vocabulary.joint) == (8, 10, False)
    pieces = read_pieces(checkpoint)
    assert (len(pieces.spellings("source")), pieces.spellings("target")[7]) == (8, "▁CH")
    assert tokenizer.encode_target(["B XX"]) == [[6, 1, 3]] and 1 in vocabulary.suppressed_ids


def test_logits_are_those_of_its_formulas(arrays, checkpoint, encoded):
    _, sources, targets = encoded
    expected = [by_hand(arrays, source, target) for source, target in zip(sources, targets, strict=True)]
    params, config = nested(checkpoint.load()), checkpoint.model()
    assert largest_difference(config, params, encoded, expected) < 1e-5
    for side, wrong in (
        ("encoder", {"reverse_source": True}),
        ("decoder", {"cell": "gru", "full_product_bias": False}),
    ):
        stack = dataclasses.replace(getattr(config, side), **wrong)
        extra = {"decoder/layers_0/candidate_bias": jnp.zeros(HIDDEN)} if side == "decoder" else {}
        changed = nested(checkpoint.load() | extra)
        assert largest_difference(dataclasses.replace(config, **{side: stack}), changed, encoded, expected) > 1e-3


def test_step_by_step_logits_are_the_same(arrays, checkpoint, encoded):
    tokenizer, sources, targets = encoded
    model, params = checkpoint.model().build(tokenizer.vocabulary), nested(checkpoint.load())
    expected = by_hand(arrays, sources[2], targets[2])
    memory = model.apply({"params": params}, packed(sources[2:]), deterministic=True, method="encode")
    state = model.apply({"params": params}, memory, max_length=8, beam_size=1, method="start")
    step = jax.jit(lambda tokens, state: model.apply({"params": params}, tokens, state, method="step"))
    for token, scores in zip([2, *targets[2][:-1]], expected, strict=True):
        logits, state = step(jnp.array([token]), state)
        np.testing.assert_allclose(logits[0], scores, atol=1e-5)


def test_all_arrays_go_out_as_they_came(arrays, checkpoint):
    params = checkpoint.load()
    written = {name: values() for name, _, values in stored_arrays(checkpoint.places, params)}
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)
