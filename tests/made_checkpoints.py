"""Small checkpoints of BART and of a run, written without transformers."""

import json
from pathlib import Path

import numpy as np

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.pretrained.checkpoint import TINY, unboxed_shapes
from seq2seq_jax.pretrained.family import SOURCE, TARGET, Family
from seq2seq_jax.pretrained.registry import FAMILIES
from seq2seq_jax.pretrained.safetensors_files import DTYPES, NewTensor, write_files
from seq2seq_jax.pretrained.table import Entry, places
from seq2seq_jax.pretrained.transforms import Table

LETTERS, SOUNDS = "____abcdefgh '", "____ABCDEFGH '"
BART = {
    "model_type": "bart", "vocab_size": len(LETTERS), "d_model": 8, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 1, "encoder_ffn_dim": 12, "decoder_ffn_dim": 10,
    "max_position_embeddings": 20, "activation_function": "gelu", "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "grapheme_chars": LETTERS, "phoneme_chars": SOUNDS,
    "transformers_version": "5.0.0",
}  # fmt: skip
WHISPER = {
    "model_type": "whisper", "vocab_size": 9, "d_model": 8, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 10,
    "num_mel_bins": 80, "max_source_positions": 12, "max_target_positions": 16, "pad_token_id": 1, "bos_token_id": 1,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip


def arrays(config: dict, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of a config with random values, under the names of its table."""
    family: Family = FAMILIES[config["model_type"]]
    values = family.values(config, origin="config.json")
    described = family.describe(values, ["final_logits_bias"], origin="config.json")
    tied = "all" if SOURCE in family.tied else "decoder"
    model = ModelConfig(
        encoder=described.encoder,
        decoder=described.decoder,
        tied_embeddings=tied,
        scaled_embeddings="none",
        **described.model,
    )
    size = described.vocabulary_size
    vocabulary = Vocabulary(source_size=size, target_size=size, joint=True, pad_id=0, bos_id=1, eos_id=2)
    shapes = unboxed_shapes(model.build(vocabulary))
    rows = [Entry(family.tied[TARGET][0], (TARGET,), Table()), *family.table(described)]
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.3, place.stored_shape(shapes)).astype(np.float32)
        for name, place in places(rows, shapes).items()
    }


def arrays_of_part(config: dict, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of an encoder or a decoder with random values and one table of tokens."""
    family: Family = FAMILIES[config["model_type"]]
    described = family.describe(family.values(config, origin="config.json"), [], origin="config.json")
    [path, *_], size = family.tied, described.vocabulary_size
    model = ModelConfig(
        encoder=described.encoder or TransformerEncoderConfig(**TINY),
        decoder=described.decoder or TransformerDecoderConfig(**TINY),
        tied_embeddings="decoder",
        **described.model,
    )
    vocabulary = Vocabulary(source_size=size, target_size=size, joint=True, pad_id=0, bos_id=1, eos_id=2)
    shapes = unboxed_shapes(model.build(vocabulary))
    rows = [Entry(family.tied[path][0], (path,), Table()), *family.table(described)]
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.3, place.stored_shape(shapes)).astype(np.float32)
        for name, place in places(rows, shapes).items()
    }


def write(
    directory: Path, tensors: dict[str, np.ndarray], config: dict, *, dtype: str = "F32", files: dict | None = None
) -> Path:
    """A directory as transformers writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    stored = [
        NewTensor(name=name, dtype=dtype, shape=array.shape, values=lambda array=array: array.astype(DTYPES[dtype]))
        for name, array in tensors.items()
    ]
    write_files(directory, stored, metadata={"format": "pt"}, files=files)
    return directory
