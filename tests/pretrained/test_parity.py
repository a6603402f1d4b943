"""Models of transformers with random weights, and the same ones here: equal logits, or a switch is wrong."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.batch import FrameRows, TokenRows, shift_right
from seq2seq_jax.modules.position import RotaryConfig
from seq2seq_jax.pretrained.checkpoint import Checkpoint, unboxed_shapes
from seq2seq_jax.pretrained.table import nested

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")),
    reason="PyTorch or transformers is not installed (the extra `peers`)",
)

TOLERANCE = 1e-4
"""Of logits in float32. Anything looser hides an epsilon."""
LENGTHS = (1, 7, 33)
VOCABULARY_SIZE = 40

SIDES = {
    "vocab_size": VOCABULARY_SIZE, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40,
    "max_position_embeddings": 36, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 2, "scale_embedding": True, "forced_eos_token_id": None,
}  # fmt: skip
T5_SIZES = {
    "vocab_size": VOCABULARY_SIZE, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1,
    "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0, "layer_norm_epsilon": 1e-3,
}  # fmt: skip
MARIAN = SIDES | {"decoder_vocab_size": VOCABULARY_SIZE, "activation_function": "swish"}
GATED = T5_SIZES | {"feed_forward_proj": "gated-gelu"}
GPT2 = {
    "vocab_size": VOCABULARY_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40,
    "layer_norm_epsilon": 1e-3, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
STACK = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip
BERT = STACK | {"max_position_embeddings": 40, "layer_norm_eps": 1e-3}
GROUPED = STACK | {"num_key_value_heads": 2, "head_dim": 10, "rms_norm_eps": 1e-3, "pad_token_id": 0}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
GEMMA = GROUPED | {"query_pre_attn_scalar": 7, "sliding_window": 5, "attn_implementation": "eager"}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0}
"""transformers' default attention does not bound scores."""
GEMMA2 = GEMMA | CAPS
BY_KIND = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
GEMMA3 = GEMMA | {
    "num_hidden_layers": 3, "rope_parameters": BY_KIND, "final_logit_softcapping": 6.0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
T5GEMMA = {
    "encoder": GEMMA2, "decoder": GEMMA2 | {"hidden_size": 24, "rms_norm_eps": 1e-2}, "vocab_size": VOCABULARY_SIZE,
    "attn_implementation": "eager",
}  # fmt: skip
FSMT = {name: value for name, value in SIDES.items() if name != "vocab_size"} | {
    "src_vocab_size": VOCABULARY_SIZE + 3, "tgt_vocab_size": VOCABULARY_SIZE, "use_cache": False,
}  # fmt: skip

POSITIONS, FRAMES, BANDS = 16, 32, 6
WHISPER = {name: value for name, value in SIDES.items() if name != "max_position_embeddings"} | {
    "num_mel_bins": BANDS, "max_source_positions": POSITIONS, "max_target_positions": 36, "activation_function": "gelu",
    "scale_embedding": False, "suppress_tokens": [7], "begin_suppress_tokens": None,
}  # fmt: skip

CASES = {
    "bart": ("BartConfig", "BartForConditionalGeneration", SIDES),
    "bart_unscaled": ("BartConfig", "BartForConditionalGeneration", SIDES | {"scale_embedding": False}),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", SIDES | {"activation_function": "relu"}),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", SIDES | {"pad_token_id": 0, "bos_token_id": 1}),
    "marian": ("MarianConfig", "MarianMTModel", MARIAN),
    "m2m_100": ("M2M100Config", "M2M100ForConditionalGeneration", SIDES),
    "fsmt": ("FSMTConfig", "FSMTForConditionalGeneration", FSMT),
    "t5": ("T5Config", "T5ForConditionalGeneration", T5_SIZES),
    "t5_1.1": ("T5Config", "T5ForConditionalGeneration", GATED | {"tie_word_embeddings": False}),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", GATED),
    # With its default attention, 5.17's decoder attends to later tokens.
    "umt5": ("UMT5Config", "UMT5ForConditionalGeneration", GATED | {"attn_implementation": "eager"}),
    "whisper": ("WhisperConfig", "WhisperForConditionalGeneration", WHISPER),
    "t5gemma": ("T5GemmaConfig", "T5GemmaForConditionalGeneration", T5GEMMA),
    "bert": ("BertConfig", "BertModel", BERT),
    "roberta": ("RobertaConfig", "RobertaModel", BERT),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", BERT),
    "electra": ("ElectraConfig", "ElectraModel", BERT | {"embedding_size": 32}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED | {"rope_parameters": LLAMA3}),
    "llama_tied": ("LlamaConfig", "LlamaForCausalLM", GROUPED | {"tie_word_embeddings": True, "attention_bias": True}),
    "mistral": ("MistralConfig", "MistralForCausalLM", GROUPED | {"sliding_window": 5}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", GROUPED | {"rope_parameters": LINEAR}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", GROUPED),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", GROUPED),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", GEMMA2),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", GEMMA3),
}  # fmt: skip


def draw_weights(model, *, seed=0, tables=0.3):
    """All weights from a normal distribution with standard deviation 0.3; those of norms around 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    inputs = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        biases = [(name, buffer) for name, buffer in model.named_buffers() if name == "final_logits_bias"]
        for name, weight in [*model.named_parameters(), *biases]:
            of_module = type(model).__module__
            is_constant = "fsmt" in of_module or (not weight.requires_grad and "pegasus" not in of_module)
            if "embed_positions" in name and is_constant:
                continue
            scale = tables if id(weight) in inputs else 0.3
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            if "norm" in name.lower().replace("layernorm_embedding", "norm") or ".ln_" in name:
                if name.endswith("weight") and "gemma" not in type(model).__name__.lower():
                    weight.add_(1.0)
    return model.eval()


def made(name, directory, **options):
    """A model of transformers with random weights, saved to a directory."""
    import transformers

    config, model, settings = CASES[name]
    settings = dict(settings)
    untied = settings.get("tie_word_embeddings") is False
    config = getattr(transformers, config)(**settings)
    model = getattr(transformers, model)(config)
    if untied:
        # What transformers forces to be one table, and what T5 1.1 has as two.
        import torch

        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    draw_weights(model, **options)
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Name of a case -> the model of transformers, and the checkpoint that it was saved to."""
    kept = {}

    def find(name):
        if name not in kept:
            directory = tmp_path_factory.mktemp(name)
            kept[name] = made(name, directory), Checkpoint.open(directory)
        return kept[name]

    return find


def rows(texts, pad_id):
    """A row of each text."""
    tokens = np.full((len(texts), max(map(len, texts))), pad_id, np.int32)
    mask = np.zeros(tokens.shape, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], mask[row, : len(text)] = text, 1
    return TokenRows(tokens=tokens, segment_ids=mask, positions=np.cumsum(mask, axis=1) * mask - mask)


def packed(texts):
    """One row of all texts."""
    return TokenRows(
        tokens=np.concatenate(texts)[None],
        segment_ids=np.repeat(np.arange(len(texts)) + 1, list(map(len, texts)))[None],
        positions=np.concatenate([np.arange(len(text)) for text in texts])[None],
    )


def texts(seed, lengths):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCABULARY_SIZE, length).astype(np.int32) for length in lengths]


SOUNDS = np.random.default_rng(3).normal(size=(len(LENGTHS), FRAMES, BANDS)).astype(np.float32)
"""As long as Whisper's encoder has positions, which transformers insists on."""


def sounds(*, pack):
    """Rows of SOUNDS, one of each or one of all."""
    number = len(SOUNDS)
    ids = np.repeat(np.arange(number) + 1, POSITIONS)[None] if pack else np.ones((number, POSITIONS), np.int32)
    shape = (1, number * POSITIONS) if pack else (number, POSITIONS)
    stride = FRAMES // POSITIONS
    return FrameRows(
        values=SOUNDS.reshape(*shape, stride, BANDS),
        counts=np.full(shape, stride, np.int32),
        segment_ids=ids.astype(np.int32),
        positions=np.tile(np.arange(POSITIONS), number).reshape(shape),
    )


SOURCES, TARGETS = texts(1, LENGTHS), texts(2, (33, 1, 7))


def with_new_parameters(params, model):
    """Those that a decoder without an encoder lacks: cross-attention that adds nothing."""
    shapes = unboxed_shapes(model)
    return nested({path: params.get(path, jnp.zeros(leaf.shape)) for path, leaf in shapes.items()})


def theirs(model, checkpoint):
    """What transformers computes: logits of targets, states of sources, or logits of texts."""
    import torch

    def tensor(array):
        return torch.tensor(np.asarray(array)).long()

    vocabulary, part = checkpoint.vocabulary, checkpoint.family.part
    source = rows(SOURCES, vocabulary.pad_id)
    inputs = {"input_ids": tensor(source.tokens), "attention_mask": tensor(source.segment_ids)}
    if "front_end" in checkpoint.described.model:
        inputs = {"input_features": torch.tensor(SOUNDS.transpose(0, 2, 1))}
    with torch.no_grad():
        if part == "encoder":
            return model(**inputs).last_hidden_state.numpy(), SOURCES
        if part == "decoder":
            return model(**inputs).logits.numpy(), SOURCES
        target = rows(TARGETS, vocabulary.pad_id)
        shifted = shift_right(jax.tree.map(jnp.asarray, target), vocabulary.bos_id)
        return model(**inputs, decoder_input_ids=tensor(shifted.tokens)).logits.numpy(), TARGETS


def ours(checkpoint, *, model_config=None, pack=False):
    """The same here, at the positions of `packed` or `rows`."""
    config, vocabulary = model_config or checkpoint.model(), checkpoint.vocabulary
    model, part = config.build(vocabulary), checkpoint.family.part
    lay = packed if pack else (lambda given: rows(given, vocabulary.pad_id))
    source, target = lay(SOURCES), lay(TARGETS if part == "encoder_decoder" else SOURCES)
    if config.front_end is not None:
        source = sounds(pack=pack)

    @jax.jit
    def compute(params, source, target):
        memory = model.apply(params, source, deterministic=True, method="encode")
        if part == "encoder":
            return memory.states
        inputs = target.tokens if part == "decoder" else None
        hidden = model.apply(params, target, memory, deterministic=True, inputs=inputs, method="decode")
        return model.apply(params, hidden, target.segment_ids, memory, method="logits")

    params = {"params": with_new_parameters(checkpoint.load(), model)}
    return np.asarray(compute(params, *jax.tree.map(jnp.asarray, (source, target)))), target


def difference(expected, given, found, laid):
    """The largest difference at the tokens of the texts."""
    ids = np.asarray(laid.segment_ids)
    pieces = [found[0][ids[0] == index + 1] if len(ids) == 1 else found[index] for index in range(len(given))]
    return max(np.abs(pieces[i][: len(text)] - expected[i, : len(text)]).max() for i, text in enumerate(given))


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_as_transformers(checkpoints, name, pack):
    model, checkpoint = checkpoints(name)
    expected, given = theirs(model, checkpoint)
    assert np.abs(expected).max() > 0.5
    assert difference(expected, given, *ours(checkpoint, pack=pack)) < TOLERANCE


def changed(side, **settings):
    """A change of a stack of a model's config."""

    def apply(config):
        return dataclasses.replace(config, **{side: dataclasses.replace(getattr(config, side), **settings)})

    return apply


def of_front_end(**settings):
    """A change of what makes vectors of frames."""
    return lambda config: dataclasses.replace(config, front_end=dataclasses.replace(config.front_end, **settings))


def replaced(**settings):
    """A change of a model's config."""
    return lambda config: dataclasses.replace(config, **settings)


MUTATIONS = {
    ("bart", "approximate activation"): changed("decoder", activation="gelu"),
    ("bart", "embedding_norm"): changed("encoder", embedding_norm=False),
    ("bart", "position_offset"): changed("encoder", position_offset=0),
    ("bart", "scaled_embeddings"): replaced(scaled_embeddings="none"),
    ("bart", "logit_bias"): replaced(logit_bias=False),
    ("bart", "attention_scale"): changed("decoder", attention_scale=1.0),
    ("marian", "sinusoids"): changed("encoder", positions="sinusoidal"),
    ("m2m_100", "sinusoids"): changed("decoder", positions="sinusoidal_open"),
    ("m2m_100", "position_offset"): changed("encoder", position_offset=0),
    ("t5", "logit_scale"): replaced(logit_scale=None),
    ("t5", "attention_scale"): changed("encoder", attention_scale=None),
    ("t5", "relative_max_distance"): changed("decoder", relative_max_distance=40),
    ("t5", "epsilon"): changed("decoder", norm_epsilon=1e-6),
    ("t5_1.1", "logit_scale"): replaced(logit_scale=32**-0.5),
    ("t5_1.1", "tied_embeddings"): replaced(tied_embeddings="all"),
    ("umt5", "relative_max_distance"): changed("encoder", relative_max_distance=40),
    ("bert", "epsilon"): changed("encoder", norm_epsilon=1e-5),
    ("bert", "token_types"): changed("encoder", token_types=0),
    ("bert", "embedding_norm"): changed("encoder", embedding_norm=False),
    ("roberta", "position_offset"): changed("encoder", position_offset=1),
    ("gpt2", "exact activation"): changed("decoder", activation="gelu_exact"),
    ("llama", "rotary"): changed("decoder", rotary=RotaryConfig(base=500.0)),
    ("llama", "epsilon"): changed("decoder", norm_epsilon=1e-6),
    ("llama_tied", "biases"): changed("decoder", biased_projections=("query", "key", "value")),
    ("qwen2", "rotary base"): changed("decoder", rotary=RotaryConfig(factor=4.0)),
    ("qwen3", "query_key_norm"): changed("decoder", query_key_norm=False),
    ("gemma", "normalization"): changed("decoder", normalization="rms"),
    ("gemma", "scaled_embeddings"): replaced(scaled_embeddings="none"),
    ("fsmt", "sinusoids"): changed("decoder", positions="sinusoidal_open"),
    ("fsmt", "position_offset"): changed("encoder", position_offset=0),
    ("whisper", "activation"): of_front_end(activation="relu"),
    ("whisper", "biases"): changed("decoder", biased_projections=("query", "value")),
    ("whisper", "epsilon"): changed("encoder", norm_epsilon=1e-2),
    ("mistral", "attention_window"): changed("decoder", attention_window=None),
    ("gemma2", "norm_position"): changed("decoder", norm_position="pre"),
    ("gemma2", "attention_scale"): changed("decoder", attention_scale=None),
    ("gemma2", "attention_cap"): changed("decoder", attention_cap=None),
    ("gemma2", "attention_window"): changed("decoder", attention_window=6),
    ("gemma2", "full_attention_every"): changed("decoder", full_attention_every=None),
    ("gemma2", "logit_cap"): replaced(logit_cap=None),
    ("gemma3", "query_key_norm"): changed("decoder", query_key_norm=False),
    ("gemma3", "window_rotary"): changed("decoder", window_rotary=None),
    ("t5gemma", "attention_window"): changed("encoder", attention_window=5),
    ("t5gemma", "attention_cap"): changed("encoder", attention_cap=None),
    ("t5gemma", "epsilon"): changed("decoder", norm_epsilon=1e-3),
}


@pytest.mark.parametrize(("name", "switch"), MUTATIONS, ids="-".join)
def test_each_switch_set_wrong_fails_by_ten_times(checkpoints, name, switch):
    model, checkpoint = checkpoints(name)
    wrong = MUTATIONS[name, switch](checkpoint.model())
    expected, given = theirs(model, checkpoint)
    assert difference(expected, given, *ours(checkpoint, model_config=wrong)) > 10 * TOLERANCE


def test_the_epsilon_that_no_config_of_bart_says(tmp_path):
    """Small embeddings before the first norm, so that what is added to their variance counts."""
    model = made("bart_unscaled", tmp_path, tables=0.01)
    checkpoint = Checkpoint.open(tmp_path)
    expected, given = theirs(model, checkpoint)
    assert difference(expected, given, *ours(checkpoint)) < TOLERANCE
    wrong = checkpoint.model()
    for side in ("encoder", "decoder"):
        wrong = changed(side, norm_epsilon=1e-6)(wrong)
    assert difference(expected, given, *ours(checkpoint, model_config=wrong)) > 10 * TOLERANCE
