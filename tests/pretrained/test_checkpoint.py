"""Checkpoints are read as their bytes and their config say, or refused in one line."""

import json
import math

import jax
import numpy as np
import pytest
from made_checkpoints import BART, arrays, arrays_of_part, write

from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.registry import FAMILIES
from seq2seq_jax.pretrained.safetensors_files import NewTensor, TensorFiles, write_file
from seq2seq_jax.pretrained.table import Entry, load, places, stored_arrays
from seq2seq_jax.pretrained.transforms import Convolution, Joined, Matrix, Reshaped, Table


@pytest.fixture(scope="module")
def tensors():
    return arrays(BART)


@pytest.mark.parametrize(
    ("transform", "shapes", "stored"),
    [
        (Reshaped(), [(4, 6)], (24,)),
        (Reshaped(leading=1), [(9,)], (1, 9)),
        (Table(), [(5, 3)], (5, 3)),
        (Matrix(), [(8, 2, 3)], (6, 8)),
        (Matrix(2), [(2, 3, 8)], (8, 6)),
        (Joined(), [(8, 2, 3), (8, 2, 3), (8, 6)], (8, 18)),
        (Joined(2), [(2, 3, 8)], (6, 8)),
        (Joined(0), [(2, 3), (5,)], (11,)),
    ],
)
def test_each_transform_is_the_inverse_of_itself_and_a_view(transform, shapes, stored):
    assert transform.stored_shape(shapes) == stored
    values = np.arange(math.prod(stored), dtype=np.float32).reshape(stored)
    own = [transform.own(values, index, shapes) for index in range(len(shapes))]
    assert [each.shape for each in own] == shapes
    assert all(np.shares_memory(each, values) for each in own)
    np.testing.assert_array_equal(transform.stored(own), values)


def test_a_convolution_reads_the_vectors_of_its_window_one_behind_the_other():
    """Dims that are merged in another order are no view; kernels of convolutions are small."""
    stored = np.arange(5 * 4 * 3).reshape(5, 4, 3)
    own = Convolution(3).own(stored, 0, [(12, 5)])
    assert own[2 * 4 + 1, 3] == stored[3, 1, 2]
    assert Convolution(3).stored_shape([(12, 5)]) == (5, 4, 3)
    np.testing.assert_array_equal(Convolution(3).stored([own]), stored)


def test_a_matrix_is_transposed_and_its_heads_are_split():
    stored = np.arange(6 * 8).reshape(6, 8)
    own = Matrix().own(stored, 0, [(8, 2, 3)])
    assert own[5, 1, 2] == stored[1 * 3 + 2, 5]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_layers_are_stacked_and_come_back(tmp_path, tensors, dtype):
    checkpoint = Checkpoint.open(write(tmp_path, tensors, BART, dtype=dtype))
    assert checkpoint.tied_embeddings == "all"
    params = checkpoint.load()
    assert params.keys() == checkpoint.shapes.keys()
    assert all(leaf.dtype == np.float32 for leaf in params.values())
    kernel = params["encoder/layer/attention/query/kernel"]
    for layer in range(2):
        stored = checkpoint.files.tensors[f"model.encoder.layers.{layer}.self_attn.q_proj.weight"].open()
        np.testing.assert_array_equal(kernel[layer].reshape(8, 8), stored.T.astype(np.float32))
    for name, shape, values in stored_arrays(checkpoint.places, params):
        there = checkpoint.files.tensors[name]
        assert there.shape == shape
        assert values().astype(there.open().dtype).tobytes() == there.open().tobytes(), name


def test_a_part_of_a_parameter_is_read_for_the_device_that_holds_it(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    stored = [NewTensor(name=f"{layer}.w", dtype="F32", shape=(6, 8), values=lambda: values) for layer in range(2)]
    write_file(tmp_path / "model.safetensors", stored, metadata={})
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    layouts = {"x/layer/kernel": jax.ShapeDtypeStruct((2, 8, 6), np.float32, sharding=sharding)}
    found = load(
        TensorFiles.open(tmp_path).tensors,
        places([Entry("{layer}.w", ("x/layer/kernel",), Matrix())], layouts),
        layouts,
    )
    np.testing.assert_array_equal(found["x/layer/kernel"], np.stack([values.T] * 2))
    assert found["x/layer/kernel"].sharding == sharding


def test_several_files_are_one_checkpoint(tmp_path, tensors):
    files = {name: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, name in enumerate(tensors)}
    checkpoint = Checkpoint.open(write(tmp_path, tensors, BART, files=files))
    assert len(checkpoint.files.files) == 2
    np.testing.assert_array_equal(checkpoint.load()["logit_bias"], tensors["final_logits_bias"][0])


@pytest.mark.parametrize(
    ("config", "equal", "tied"),
    [({}, True, "all"), ({}, False, "inputs"), ({"tie_word_embeddings": False}, True, "inputs")],
)
def test_ties_are_decided_by_the_bytes(tmp_path, tensors, config, equal, tied):
    output = tensors["model.shared.weight"] + (0 if equal else 1)
    directory = write(tmp_path, {**tensors, "lm_head.weight": output}, BART | config)
    assert Checkpoint.open(directory).tied_embeddings == tied


def test_names_without_their_prefix_and_tensors_that_nothing_reads(tmp_path, tensors):
    """As bart-base and bart-large were released."""
    bare = {name.removeprefix("model."): array for name, array in tensors.items()}
    checkpoint = Checkpoint.open(write(tmp_path / "bare", bare | {"encoder.version": np.zeros(1)}, BART))
    params, expected = (each.load() for each in (checkpoint, Checkpoint.open(write(tmp_path / "b", tensors, BART))))
    assert params.keys() == expected.keys()
    assert all(np.array_equal(params[path], expected[path]) for path in expected)
    assert checkpoint.unused == ("encoder.version",)


def test_norms_by_their_first_names(tmp_path):
    """As bert-base-uncased was released."""
    config = dict.fromkeys(FAMILIES["bert"].read, 4) | {
        "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }  # fmt: skip
    tensors = arrays_of_part(config)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def renamed(name):
        ending = ".".join(name.split(".")[-2:])
        return f"bert.{name.removesuffix(ending)}{old.get(ending, ending)}"

    renamed_tensors = {renamed(name): array for name, array in tensors.items()}
    assert "bert.embeddings.LayerNorm.gamma" in renamed_tensors
    params = Checkpoint.open(write(tmp_path, renamed_tensors, config)).load()
    np.testing.assert_array_equal(
        params["encoder/layer/attention_residual/norm/scale"][0],
        tensors["encoder.layer.0.attention.output.LayerNorm.weight"],
    )


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def with_tensor(name, array):
    return lambda tensors: {**tensors, name: array}


FIRST = "model.encoder.layers.0.fc1.weight"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (
            with_tensor("model.extra.weight", np.zeros(3)),
            {},
            "1 tensors that its config.json does not describe: model.ex",
        ),
        (without(FIRST), {}, f"lacks 1 tensors that its config.json describes: {FIRST}"),
        (with_tensor(FIRST, np.zeros((8, 12))), {}, r"fc1.weight is F32 \[8, 12\] instead of \[12, 8\]"),
        (None, {"encoder_layers": 3}, "lacks 16 tensors that its config.json describes: .* and 11 more"),
        (without("model.shared.weight"), {}, "has no table of embeddings: expected model.shared.weight"),
        (None, {"tie_word_embeddings": False}, "tie_word_embeddings = false, and there is no lm_head.weight"),
        (
            with_tensor("lm_head.weight", np.zeros((14, 8))),
            {"tie_word_embeddings": True},
            "tie_word_embeddings = true, and lm_head.weight differs",
        ),
        (
            with_tensor("model.decoder.embed_tokens.weight", np.zeros((14, 8))),
            {},
            "different tables as model.shared.weight, model.decoder.embed_tokens.weight",
        ),
        (None, {"activation_function": "tanh"}, "has the activation 'tanh'; built are gelu"),
        (None, {"normalize_before": True}, "normalize_before = True, and BART's layers normalise residual sums"),
        (None, {"new_switch": 1}, "fields that are not known here: new_switch.*--ignore_fields"),
        (None, {"model_type": "bort"}, "model_type = 'bort'; built are bart, bert"),
        (None, {"d_model": None}, "lacks d_model, which its model_type needs"),
        (None, {"d_model": 9}, "num_heads must divide model_dim"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, tensors, change, config, message):
    directory = write(tmp_path, tensors if change is None else change(tensors), BART | config)
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        Checkpoint.open(directory)


def test_fields_that_change_nothing_may_be_named(tmp_path, tensors):
    directory = write(tmp_path, tensors, BART | {"new_switch": 1})
    assert Checkpoint.open(directory, ignore_fields=("new_switch",)).config["new_switch"] == 1


@pytest.mark.parametrize(
    ("model_type", "field", "value", "message"),
    [
        ("qwen2", "use_sliding_window", True, "sliding windows of the upper layers alone are not built"),
        ("bert", "position_embedding_type", "relative_key", "relative positions of BERT are not built"),
        ("gpt2", "scale_attn_weights", False, "not built for GPT-2"),
    ],
)
def test_what_is_not_built_is_refused(model_type, field, value, message):
    family = FAMILIES[model_type]
    sizes = dict.fromkeys(family.read, 4)
    with pytest.raises(ValueError, match=rf"^config.json has {field} = {value!r}, and [^\n]*{message}[^\n]*$"):
        family.values(sizes | {field: value}, origin="config.json")


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("bart", {"extra_pos_embeddings": 0, "student_encoder_layers": None, "replacing_rate": 0, "save_step": 58}),
        ("umt5", {"scalable_attention": True}),
        ("llama", {"max_sequence_length": 2048, "is_llama_config": True, "rope_interleaved": False}),
        ("qwen2", {"use_mrope": False, "max_window_layers": 21}),
        ("gemma2", {"sliding_window_size": 4096}),
    ],
)
def test_fields_of_released_configs_that_change_nothing_are_taken(model_type, fields):
    """Of bart-large-cnn and its distilled ones, umt5-small, llama-7b, SmolLM2, Qwen2.5, gemma-2-9b."""
    family = FAMILIES[model_type]
    family.values(dict.fromkeys(family.read, 4) | fields, origin="config.json")


def test_the_gelu_of_the_first_configs_of_gemma_is_the_one_with_the_tanh():
    family = FAMILIES["gemma"]
    none = dict.fromkeys(("hidden_activation", "rope_parameters", "rope_scaling"))
    fields = (
        dict.fromkeys(family.read, 4) | none | {"hidden_act": "gelu", "attention_dropout": 0.0, "rms_norm_eps": 1e-6}
    )
    values = family.values(fields, origin="config.json")
    assert family.describe(values, [], origin="config.json").decoder.activation == "gelu"


@pytest.mark.parametrize(("fields", "first"), [({}, 0), ({"forced_bos_token_id": 3}, 3)])
def test_old_configs_say_otherwise_that_targets_begin_with_the_bos_token(fields, first):
    sizes = dict.fromkeys(FAMILIES["bart"].read, 4) | {"bos_token_id": 0, "forced_bos_token_id": None}
    found = FAMILIES["bart"].values(sizes | {"force_bos_token_to_be_generated": True} | fields, origin="config.json")
    assert found["forced_bos_token_id"] == first


def damage_size(path, tensors):
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(path, tensors):
    path.write_bytes(path.read_bytes()[:50])


def pickle(path, tensors):
    path.unlink()
    path.with_name("pytorch_model.bin").write_bytes(b"\x80\x04")


def no_config(path, tensors):
    path.with_name("config.json").unlink()


def broken_config(path, tensors):
    path.with_name("config.json").write_text("[1]")


def missing_shard(path, tensors):
    path.unlink()
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_size, "was cut off: tensor .* ends at byte .*Copy it again"),
        (damage_header, "is not a whole safetensors file: its header is cut off"),
        (pickle, "has pytorch_model.bin and no model.safetensors: such files run code.*Convert it"),
        (no_config, "has no config.json"),
        (broken_config, "must hold a JSON object, and holds a list"),
        (missing_shard, "names model-00001-of-00002.safetensors, and there is no such file"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, tensors, damage, message):
    directory = write(tmp_path, tensors, BART)
    damage(directory / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        Checkpoint.open(directory)


def test_every_family_has_one_row_for_each_parameter(tmp_path, tensors):
    """Of BART here; of all others the comparison with transformers."""
    checkpoint = Checkpoint.open(write(tmp_path, tensors, BART))
    assert sorted(checkpoint.paths) == sorted(checkpoint.shapes)
