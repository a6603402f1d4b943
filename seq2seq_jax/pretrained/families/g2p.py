"""The GRU encoder–decoder of g2p-en: letters to phonemes, without attention."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.pretrained.family import OUTPUT, SOURCE, TARGET, Described, Family
from seq2seq_jax.pretrained.fields import REQUIRED
from seq2seq_jax.pretrained.table import Entry
from seq2seq_jax.pretrained.transforms import Matrix, Reshaped


class G2p(Family):
    """A GRU that reads a word, and one that begins with its last state; logits are products with states.

    The package has its arrays as npz: `python -m studies.real_weights --g2p` writes them as safetensors, with a config.
    """

    model_type = "g2p_en"
    part = "encoder_decoder"
    architecture = "G2p"
    read: ClassVar[Mapping[str, Any]] = {
        "hidden_size": REQUIRED,
        "graphemes": REQUIRED,
        "phonemes": REQUIRED,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "source_eos_token_id": 2,
    }
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {TARGET: ("dec_emb",), SOURCE: ("enc_emb",), OUTPUT: ("fc_w",)}

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        stack = {
            "cell": "gru",
            "model_dim": values["hidden_size"],
            "hidden_dim": values["hidden_size"],
            "full_product_bias": True,
        }
        return Described(
            values=values,
            encoder=RecurrentEncoderConfig(bidirectional_layers=0, **stack),
            decoder=RecurrentDecoderConfig(attention=None, initial_state="summary", output_layer=False, **stack),
            model={"logit_bias": True},
            vocabulary_size=len(values["phonemes"]),
            source_vocabulary_size=len(values["graphemes"]),
        )

    def table(self, described: Described) -> tuple[Entry, ...]:
        rows = [Entry("fc_b", ("logit_bias",), Reshaped())]
        for name, path in (("enc", "encoder/layers_0_0"), ("dec", "decoder/layers_0")):
            rows += [
                Entry(f"{name}_w_ih", (f"{path}/input",), Matrix()),
                Entry(f"{name}_w_hh", (f"{path}/kernel",), Matrix()),
                Entry(f"{name}_b_ih", (f"{path}/bias",), Reshaped()),
                Entry(f"{name}_b_hh", (f"{path}/product_bias",), Reshaped()),
            ]
        return tuple(rows)


FAMILIES = (G2p(),)
