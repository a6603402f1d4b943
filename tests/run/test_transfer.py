"""What training starts with: parts of runs and of other projects' models, vocabularies of others, adapters."""

import dataclasses
import importlib.util
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call
from made_checkpoints import BART, arrays, arrays_of_part, write

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.patterns import merged, paths_of
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.pretrained.adapter import Adapter
from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.safetensors_files import NewTensor, TensorFiles, read_header, write_file
from seq2seq_jax.pretrained.table import flat, nested
from seq2seq_jax.pretrained.tokenizers import read_tokenizer
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.run.transfer import NEW_NORM, PartOfCheckpoint, assemble, place_and_checkpoint, silent_attention
from seq2seq_jax.training.origins import Source, sources_of

BERT = {
    "model_type": "bert", "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 20, "pad_token_id": 0,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 10, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("runs/a=1,b=2/seed=0", [(("all",), "runs/a=1,b=2/seed=0")]),
        ("all=runs/x:7", [(("all",), "runs/x:7")]),
        ("encoder=a,decoder=b", [(("encoder",), "a"), (("decoder",), "b")]),
        ("encoder+embeddings=m=1,x=2,decoder=b,", [(("encoder", "embeddings"), "m=1,x=2"), (("decoder",), "b,")]),
        ("encoders=a", [(("all",), "encoders=a")]),
    ],
)
def test_parts_and_their_places(text, sources):
    assert [(source.parts, source.place) for source in sources_of(text)] == sources


@pytest.mark.parametrize("text", ["encoder=", "encoder=a,encoder=b", "all=a,decoder=b", "encoder+encoder=a"])
def test_parts_that_contradict_each_other_are_refused(text):
    with pytest.raises(ValueError, match=r"^init_from [^\n]*$"):
        sources_of(text)


def test_the_directory_and_the_checkpoint_of_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert place_and_checkpoint("a:b") == ("a:b", "best") and place_and_checkpoint("a:7") == ("a", "7")


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A made BART, and a run of it."""
    directory = tmp_path_factory.mktemp("transfer") / "bart"
    write(directory, arrays(BART), BART)
    assert call("import", directory, "--output", directory.parent / "run") == 0
    return directory


def layouts_of(model, vocabulary):
    shapes = jax.eval_shape(lambda: model.build(vocabulary).init(jax.random.key(0), one_row())["params"])
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    unboxed = {path: getattr(leaf, "value", leaf) for path, leaf in flat(shapes).items()}
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) for path, leaf in unboxed.items()}


def one_row(tokens=(1, 2)):
    ids = jnp.array([tokens], jnp.int32)
    rows = TokenRows(tokens=ids, segment_ids=jnp.ones_like(ids), positions=jnp.arange(len(tokens))[None])
    return Batch(source=rows, target=rows)


def test_parts_of_a_checkpoint_go_where_they_belong_and_the_rest_is_new(bart):
    checkpoint = Checkpoint.open(bart)
    tokenizer = read_tokenizer(checkpoint)
    decoder = dataclasses.replace(checkpoint.model().decoder, num_layers=2)
    model = dataclasses.replace(checkpoint.model(), decoder=decoder)
    layouts = layouts_of(model, tokenizer.vocabulary)
    part = PartOfCheckpoint(bart)
    found = assemble({Source(("encoder", "embeddings"), "x"): part}, layouts, model=model, tokenizer=tokenizer, seed=0)
    expected = checkpoint.load()
    assert found.params.keys() == {path for path in expected if not path.startswith("decoder/")}
    for path, values in found.params.items():
        np.testing.assert_array_equal(values, expected[path], err_msg=path)
    assert set(found.new) == {path for path in layouts if path.startswith("decoder/")}
    assert found.described[1].endswith("(14 rows copied, 0 the mean of the pieces that spell them, 0 new)")
    with pytest.raises(ValueError, match=r"^--init-from decoder: .* model.decoder.num_layers is 1 there and 2 here"):
        assemble({Source(("decoder",), "x"): part}, layouts, model=model, tokenizer=tokenizer, seed=0)


def test_attention_to_an_encoder_of_another_width_is_new(bart):
    checkpoint = Checkpoint.open(bart)
    tokenizer = read_tokenizer(checkpoint)
    encoder = dataclasses.replace(checkpoint.model().encoder, model_dim=12, head_dim=None)
    model = dataclasses.replace(checkpoint.model(), encoder=encoder, tied_embeddings="decoder")
    layouts = layouts_of(model, tokenizer.vocabulary)
    parts = {Source(("decoder", "embeddings"), "x"): PartOfCheckpoint(bart)}
    with pytest.raises(ValueError, match=r"source_embedding/table of width 8, and this run of 12"):
        assemble(parts, layouts, model=model, tokenizer=tokenizer, seed=0)
    parts = {Source(("decoder",), "x"): PartOfCheckpoint(bart)}
    found = assemble(parts, layouts, model=model, tokenizer=tokenizer, seed=0)
    new = [path for path in found.new if path.startswith("decoder/")]
    assert new == [f"decoder/layer/cross_attention/{part}/kernel" for part in ("key", "value")]


def test_training_starts_from_parts_of_a_run_with_another_vocabulary(bart, tmp_path, monkeypatch):
    """A tokenizer of the run's own, whose rows are those of its pieces."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for side, text in (("en", "abc ab\nb ca\n" * 9), ("de", "ABC AB\nB CA\n" * 9)):
            (tmp_path / f"{split}.{side}").write_text(text)
    run = Inference.open(bart.parent / "run")
    experiment = dataclasses.replace(
        run.experiment,
        data=dataclasses.replace(
            run.experiment.data, directory=".", source="en", target="de", test=None, cache_directory="cache"
        ),
        tokenizer=dataclasses.replace(run.experiment.tokenizer, kind="char", vocabulary_size=20, byte_fallback=False),
        init_from=f"encoder+decoder+embeddings={bart.parent / 'run'}",
    )
    training = TrainingRun(tmp_path / "new", experiment)
    training.begin("test")
    assert not (tmp_path / "new" / "pretrained").exists()
    params, expected = flat(training.initial_state().players["model"].params), Checkpoint.open(bart).load()
    for path in expected:
        if path.startswith(("encoder/", "decoder/")):
            np.testing.assert_array_equal(params[path], expected[path], err_msg=path)
    # Ids of the shared table are those of letters for sources, and of sounds for targets: targets decide.
    pieces = training.tokenizer.spellings("target")
    for piece, letter in (("A", 4), ("C", 6)):
        np.testing.assert_array_equal(
            params["target_embedding/table"][pieces.index(piece)], expected["target_embedding/table"][letter]
        )
    np.testing.assert_array_equal(params["logit_bias"][pieces.index("B")], expected["logit_bias"][5])


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("{bart}", "is a model of another project. Make a run of it: seq2seq import"),
        ("all={bart}", "is a model of another project"),
        ("encoder={none}", "is not a run directory"),
        ("decoder={bert}", "has no decoder"),
        ("encoder={bert}", "has another encoder: model.encoder."),
    ],
)
def test_origins_that_do_not_suit_are_refused(bart, tmp_path, monkeypatch, origin, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bert", arrays_of_part(BERT), BERT)
    places = {"bart": bart, "none": tmp_path / "none", "bert": tmp_path / "bert"}
    experiment = Inference.open(bart.parent / "run").experiment
    training = TrainingRun(tmp_path / "new", dataclasses.replace(experiment, init_from=origin.format(**places)))
    training.directory.tokenizer = read_tokenizer(Checkpoint.open(bart))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        training.initial_state()
    assert message in str(caught.value)


def with_tokenizers(directory, kind, words):
    """A tokenizer.json beside a made checkpoint."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    made = tokenizers.Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[3]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "bert":
        special = [("[CLS]", 1), ("[SEP]", 2)]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    made.save(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A made encoder and a made decoder with tokenizers."""
    place = tmp_path_factory.mktemp("parts")
    write(place / "bert", arrays_of_part(BERT), BERT)
    write(place / "llama", arrays_of_part(LLAMA, seed=1), LLAMA)
    with_tokenizers(place / "bert", "bert", ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"])
    with_tokenizers(place / "llama", "llama", ["<x>", "<s>", "</s>", "<unk>", *"uvwxyz"])
    return place


@pytest.mark.parametrize("normalization", ["rms_plus_one", "layer"])
def test_new_attention_behind_which_a_norm_stands_adds_nothing_either(normalization):
    """With a gradient of its own that is of the order of others: that of a norm at zero is huge."""
    stack = {"num_layers": 1, "model_dim": 8, "num_heads": 2, "hidden_dim": 8, "dropout": 0.0}
    decoder = TransformerDecoderConfig(norm_position="both", normalization=normalization, **stack)
    vocabulary = Vocabulary(source_size=9, target_size=9, joint=True, pad_id=0, bos_id=1, eos_id=2)
    model = ModelConfig(encoder=TransformerEncoderConfig(**stack), decoder=decoder).build(vocabulary)
    leaves = flat(nn.meta.unbox(model.init(jax.random.key(0), one_row((3, 4)))["params"]))
    layouts = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    params = nested(leaves | silent_attention(layouts, decoder))

    def total(params, source):
        memory = model.apply({"params": params}, one_row(source).source, deterministic=True, method="encode")
        target = one_row((5, 6)).target
        hidden = model.apply({"params": params}, target, memory, deterministic=True, method="decode")
        logits = model.apply({"params": params}, hidden, target.segment_ids, memory, method="logits")
        return jnp.sum(jax.nn.log_softmax(logits)[..., 3]), logits

    (_, one), gradient = jax.value_and_grad(total, has_aux=True)(params, (3, 4))
    np.testing.assert_array_equal(one, total(params, (7,))[1])
    sizes = {path: float(jnp.abs(leaf).max()) for path, leaf in flat(gradient).items()}
    assert 0 < sizes[NEW_NORM] < 100 and max(sizes.values()) < 100


needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="tokenizers is not installed (the extra `pretrained`)"
)


@needs_tokenizers
@pytest.mark.long
def test_a_joined_encoder_and_decoder_are_at_first_the_encoder_and_the_language_model(parts):
    assert call("import", parts / "bert", "--decoder", parts / "llama", "--output", parts / "joined") == 0
    run = Inference.open(parts / "joined")
    tokenizer, vocabulary = run.tokenizer, run.tokenizer.vocabulary
    assert tokenizer.encode_source(["a c"]) == [[1, 4, 6, 2]] and tokenizer.encode_target(["u w"]) == [[4, 6, 2]]
    # A pad token of its own, behind the table of the decoder.
    assert (vocabulary.source_size, vocabulary.target_size, vocabulary.pad_id, vocabulary.bos_id) == (12, 11, 10, 1)
    params, _ = run.parameters()
    leaves = flat(params)
    for name in ("bert", "llama"):
        for path, values in Checkpoint.open(parts / name).load().items():
            own = leaves[path]
            np.testing.assert_array_equal(own[: len(values)], values, err_msg=path)
    model = run.system.model

    def logits(source, target=(4, 5, 6)):
        row = one_row(target).target
        memory = model.apply({"params": params}, one_row(source).source, deterministic=True, method="encode")
        hidden = model.apply({"params": params}, row, memory, deterministic=True, method="decode")
        return model.apply({"params": params}, hidden, row.segment_ids, memory, method="logits")

    np.testing.assert_array_equal(logits((4, 5, 2)), logits((7, 2)))
    assert np.abs(leaves["decoder/layer/cross_attention/query/kernel"]).max() > 0.01
    output = leaves["decoder/layer/cross_attention/output/kernel"]
    assert not np.any(output)
    params = merged(params, nested({"decoder/layer/cross_attention/output/kernel": output + 0.1}))
    assert np.abs(logits((4, 5, 2)) - logits((7, 2))).max() > 1e-3
    assert len(run.generate(["a b", "h"], beam_size=2)) == 2


@needs_tokenizers
@pytest.mark.long
def test_an_encoder_with_a_new_decoder_has_its_tokenizer_and_its_table(parts, capsys):
    assert call("import", parts / "bert", "--output", parts / "new", "--pad_vocabulary", "8",
                "--config", "multi30k/transformer_small") == 0  # fmt: skip
    run = Inference.open(parts / "new")
    params, _ = run.parameters()
    # The decoder of the config is wider, so that the tables are two.
    assert run.experiment.model.tied_embeddings == "decoder"
    assert run.tokenizer.vocabulary.target_size == run.tokenizer.vocabulary.source_size == 16
    assert run.tokenizer.vocabulary.never_ids == (12, 13, 14, 15)
    table = Checkpoint.open(parts / "bert").load()["source_embedding/table"]
    np.testing.assert_array_equal(params["source_embedding"]["table"][:12], table)
    assert not np.any(params["source_embedding"]["table"][12:])
    assert "bert with a new decoder: " in capsys.readouterr().out


def same_tensors(first, second):
    a, b = (TensorFiles.open(directory).tensors for directory in (first, second))
    return {name: (t.dtype, t.shape, t.open().tobytes()) for name, t in a.items()} == {
        name: (t.dtype, t.shape, t.open().tobytes()) for name, t in b.items()
    }


@pytest.mark.long
def test_a_trimmed_and_padded_vocabulary_goes_out_whole_again(bart, tmp_path):
    (tmp_path / "text").write_text("ab\nba ab\n")
    run = tmp_path / "run"
    assert call("import", bart, "--output", run, "--trim_to", tmp_path / "text", "--pad_vocabulary", "4") == 0
    tokenizer = Inference.open(run).tokenizer
    # Four special tokens, a, b and the space; single letters are always kept; one of padding.
    assert tokenizer.vocabulary.target_size % 4 == 0
    found = Inference.open(run).generate(["ab ba"], beam_size=1)
    assert found == Inference.open(bart.parent / "run").generate(["ab ba"], beam_size=1)
    assert call("export", run, "--output", tmp_path / "out") == 0
    assert same_tensors(bart, tmp_path / "out")


def adapter_of(directory, rank=2, alpha=4.0, modules=("q_proj", "fc1"), **config):
    """A made PEFT adapter of BART, and its tensors."""
    places = {name.removesuffix(".weight"): shape for name, shape in
              ((name, values.shape) for name, values in arrays(BART).items())}  # fmt: skip
    rng, tensors = np.random.default_rng(5), {}
    for name, shape in places.items():
        if name.rpartition(".")[2] in modules and len(shape) == 2:
            for factor, size in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
                tensors[f"base_model.model.{name}.lora_{factor}.weight"] = rng.normal(0, 0.3, size).astype(np.float32)
    directory.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": list(modules)} | config
    (directory / "adapter_config.json").write_text(json.dumps(config))
    write_file(
        directory / "adapter_model.safetensors",
        [NewTensor(name=n, dtype="F32", shape=v.shape, values=lambda v=v: v) for n, v in tensors.items()],
        metadata={},
    )
    return tensors


@pytest.mark.long
def test_an_adapter_comes_in_is_merged_at_export_and_goes_out_again(bart, tmp_path, monkeypatch, capsys):
    tensors = adapter_of(tmp_path / "adapter")
    run = tmp_path / "run"
    assert call("import", bart, "--output", run, "--adapter", tmp_path / "adapter") == 0
    model = Inference.open(run).experiment.model
    assert model.encoder.lora_rank == 2 and model.encoder.lora_alpha == 4.0
    assert model.decoder.lora_layers == ("query", "expand")
    assert call("export", run, "--output", tmp_path / "merged") == 0
    base, found = arrays(BART), TensorFiles.open(tmp_path / "merged").tensors
    for name, values in base.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in tensors:
            values = values + 2.0 * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
        np.testing.assert_allclose(found[name].open(), values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert call("export", run, "--output", tmp_path / "out", "--format", "peft") == 0
    written = read_header(tmp_path / "out" / "adapter_model.safetensors")[0]
    assert written.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(written[name].open(), values, err_msg=name)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["lora_alpha"] == 4.0
    assert "model.encoder.layers.1.self_attn.q_proj" in config["target_modules"]
    # A run without LoRA takes the merged model.
    monkeypatch.chdir(tmp_path)
    experiment = Inference.open(bart.parent / "run").experiment
    training = TrainingRun(tmp_path / "new", dataclasses.replace(experiment, init_from=str(run)))
    training.directory.tokenizer = Inference.open(run).tokenizer
    params = flat(training.initial_state().players["model"].params)
    expected = Checkpoint.open(tmp_path / "merged").load()
    assert params.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_allclose(params[path], values, rtol=1e-5, atol=1e-6, err_msg=path)
    assert call("export", bart.parent / "run", "--output", tmp_path / "none", "--format", "peft") == 2
    assert "has no LoRA" in capsys.readouterr().err


def test_lora_begins_from_a_run_without_and_trains_nothing_else(bart, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = Inference.open(bart.parent / "run").experiment
    encoder = dataclasses.replace(experiment.model.encoder, lora_rank=2)
    experiment = dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, encoder=encoder),
        init_from=str(bart.parent / "run"),
        mesh=MeshConfig(),
    )
    training = TrainingRun(tmp_path / "new", experiment)
    training.directory.tokenizer = Inference.open(bart.parent / "run").tokenizer
    state = training.initial_state().players["model"]
    params, expected = flat(state.params), Checkpoint.open(bart).load()
    for path, values in expected.items():
        np.testing.assert_array_equal(params[path], values, err_msg=path)
    own = [path for path in paths_of(state.params) if "lora_" in path]
    assert len(own) == 4 and own == [path for path in params if path not in expected]
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim)
    assert numbers == 2 * sum(params[path].size for path in own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "has use_dora = True; built is False alone"),
        ({"bias": "all"}, "has bias = 'all'; built is 'none' alone"),
        ({"peft_type": "IA3"}, "has peft_type = 'IA3'"),
        ({"alpha_pattern": {"model.encoder.layers.0.self_attn.q_proj": 2.0}}, "another rank or alpha"),
        ({"alpha_pattern": {"q_proj": 2.0}}, "another rank or alpha"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights = 'pissa'"),
    ],
)
def test_adapters_that_are_not_built_are_refused(bart, tmp_path, change, message):
    adapter_of(tmp_path / "adapter", **change)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        Adapter.open(tmp_path / "adapter", Checkpoint.open(bart))
    assert message in str(caught.value)


def test_alpha_by_pattern_is_that_of_the_end_of_a_name(bart, tmp_path):
    adapter_of(tmp_path / "adapter", alpha_pattern={"proj": 9.0, "encoder.layers.*.fc1|q_proj|fc1": 6.0})
    found = Adapter.open(tmp_path / "adapter", Checkpoint.open(bart))
    assert found.scales == {"encoder": 3.0, "decoder": 3.0}


def test_an_adapter_of_another_model_is_refused(bart, tmp_path):
    adapter_of(tmp_path / "adapter", modules=("q_proj", "embed_tokens", "shared"))
    with pytest.raises(ValueError, match=r"model\.shared\.lora_A\.weight.*which belongs to no linear layer here"):
        Adapter.open(tmp_path / "adapter", Checkpoint.open(bart))
    other = tmp_path / "other"
    write(other, arrays(BART | {"d_model": 12}), BART | {"d_model": 12})
    adapter_of(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"has factors \[2, 8\] and \[8, 2\] for a kernel of 12 x 12"):
        Adapter.open(tmp_path / "adapter", Checkpoint.open(other))
