"""T5Gemma: an encoder and a decoder with the layers of Gemma 2."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.pretrained.families.decoders import Gemma2, gemma2_settings, rotary
from seq2seq_jax.pretrained.family import OUTPUT, SOURCE, TARGET, Described, Family, attention, linear, norm
from seq2seq_jax.pretrained.fields import REQUIRED, Only, activation, read_fields
from seq2seq_jax.pretrained.table import Entry

SIDES = ("encoder", "decoder")


class T5Gemma(Family):
    """Norms by 1 plus their parameter on both sides of each branch, rotary positions, windows, bounded scores."""

    model_type = "t5gemma"
    part = "encoder_decoder"
    architecture = "T5GemmaForConditionalGeneration"
    read: ClassVar[Mapping[str, Any]] = {
        "encoder": REQUIRED,
        "decoder": REQUIRED,
        "vocab_size": None,
        "dropout_rate": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": None,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "decoder_start_token_id": None,
        "forced_bos_token_id": None,
    }
    ignored: ClassVar[Mapping[str, str]] = {"classifier_dropout_rate": "is of another head"}
    of_side: ClassVar[Mapping[str, Any]] = {
        **{name: default for name, default in Gemma2.read.items() if name != "hidden_act"},
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": 30.0,
    }
    """Fields of the config of a side."""
    only_of_side: ClassVar[Mapping[str, Only]] = Gemma2.only
    ignored_of_side: ClassVar[Mapping[str, str]] = Gemma2.ignored | dict.fromkeys(
        ("dropout_rate", "classifier_dropout_rate", "hidden_act"), "the whole config, or another field, says it"
    )
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TARGET: ("model.decoder.embed_tokens.weight",),
        SOURCE: ("model.encoder.embed_tokens.weight",),
        OUTPUT: ("lm_head.out_proj.weight",),
    }

    def values(self, config: Mapping[str, Any], *, allowed: Collection[str] = (), origin: str) -> dict[str, Any]:
        found = super().values(config, allowed=allowed, origin=origin)
        for side in SIDES:
            found[side] = read_fields(
                found[side],
                read=self.of_side,
                only=self.only_of_side,
                ignored=self.ignored_of_side,
                allowed=allowed,
                origin=f"{origin}: {side}",
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if found[name] is None:
                found[name] = found["decoder"][name]
        if found["decoder_start_token_id"] is None:
            found["decoder_start_token_id"] = found["decoder"]["bos_token_id"]
        return found

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        encoder, decoder = (values[side] for side in SIDES)
        if encoder["vocab_size"] != decoder["vocab_size"]:
            raise ValueError(
                f"{origin} has vocab_size {encoder['vocab_size']:,} in its encoder and {decoder['vocab_size']:,} in "
                "its decoder, which is not built; expected one."
            )
        stack = self._settings(values, "encoder", origin=origin)
        if "attention_window" in stack:
            # In both directions transformers 5 reads keys at this distance, too; in one direction it does not.
            stack["attention_window"] += 1
        return Described(
            values=values,
            encoder=TransformerEncoderConfig(**stack),
            decoder=TransformerDecoderConfig(**self._settings(values, "decoder", origin=origin)),
            model={"logit_cap": decoder["final_logit_softcapping"]},
            vocabulary_size=decoder["vocab_size"],
            is_scaled=True,
        )

    @staticmethod
    def _settings(values: Mapping[str, Any], side: str, *, origin: str) -> dict[str, Any]:
        own = values[side]
        return {
            "num_layers": own["num_hidden_layers"],
            "model_dim": own["hidden_size"],
            "num_heads": own["num_attention_heads"],
            "num_kv_heads": own["num_key_value_heads"],
            "head_dim": own["head_dim"],
            "hidden_dim": own["intermediate_size"],
            "activation": activation(own["hidden_activation"], origin=origin),
            "gated": True,
            "normalization": "rms_plus_one",
            "norm_epsilon": own["rms_norm_eps"],
            "attention_bias": bool(own["attention_bias"]),
            "positions": "rotary",
            "rotary": rotary(own, origin=origin),
            "dropout": float(values["dropout_rate"]),
            "attention_dropout": float(values["attention_dropout"]),
            "hidden_dropout": float(values["dropout_rate"]),
            **gemma2_settings(own, origin=origin),
        }

    def table(self, described: Described) -> tuple[Entry, ...]:
        rows: list[Entry] = []
        for side, stack in (("encoder", described.encoder), ("decoder", described.decoder)):
            name, path = f"model.{side}.layers.{{layer}}", f"{side}/layer"
            own, residual = ("attention", "attention") if side == "encoder" else ("self_attention", "self")
            branches = [("self_attn", own, residual)]
            branches += [("cross_attn", "cross_attention", "cross")] if side == "decoder" else []
            for there, here, branch in branches:
                names = {
                    "query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj",
                }  # fmt: skip
                names = {part: f"{name}.{there}.{projection}" for part, projection in names.items()}
                rows += attention(names, f"{path}/{here}", biases=stack.biases)
                rows += _norms(f"{name}.{{place}}_{there}_layernorm", f"{path}/{branch}_residual")
            for there, part in (("gate_proj", "expand"), ("up_proj", "gate"), ("down_proj", "contract")):
                rows += linear(f"{name}.mlp.{there}", f"{path}/feed_forward/{part}", bias=False)
            rows += _norms(f"{name}.{{place}}_feedforward_layernorm", f"{path}/feed_forward_residual")
            rows += norm(f"model.{side}.norm", f"{side}/frame/norm", bias=False)
        return tuple(rows)


def _norms(name: str, path: str) -> list[Entry]:
    """Rows of the norms before and behind a branch."""
    return [
        row
        for place, part in (("pre", "norm"), ("post", "norm_after"))
        for row in norm(name.replace("{place}", place), f"{path}/{part}", bias=False)
    ]


FAMILIES = (T5Gemma(),)
