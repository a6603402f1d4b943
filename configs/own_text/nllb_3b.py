"""Your own parallel text files with the architecture of NLLB-3.3B, for a TPU slice or a GPU host.

24 + 24 layers before which norms stand, width 2048, 16 heads, feed-forward 8192, 3.3 billion parameters (NLLB Team
2022); 256,206 ids, and 50 more, so that a mesh divides them. It is for fine-tuning what was imported:

    seq2seq import nllb-200-3.3B --config own_text/nllb_3b --output runs/nllb --pad_vocabulary 128 \\
        --source_language eng_Latn --target_language deu_Latn

Settings and LoRA are those of own_text/flan_t5_xl. Not measured; docs/results/transfer.md has the commands that say
what a step needs as compiled:

    seq2seq compile own_text/nllb_3b --topology v5e:4x4
"""

import dataclasses

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import Experiment, load_config_by_name


def experiment() -> Experiment:
    """The experiment."""
    base = load_config_by_name("own_text/flan_t5_xl")
    stack = {
        "num_layers": 24,
        "model_dim": 2048,
        "num_heads": 16,
        "hidden_dim": 8192,
        "norm_epsilon": 1e-5,
        "position_offset": 2,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "scan_layers": True,
        "remat": "full",
    }
    model = dataclasses.replace(
        base.model,
        encoder=TransformerEncoderConfig(**stack),
        decoder=TransformerDecoderConfig(**stack),
        tied_embeddings="all",
        scaled_embeddings="both",
    )
    return dataclasses.replace(
        base, model=model, tokenizer=dataclasses.replace(base.tokenizer, vocabulary_size=256_256)
    )
