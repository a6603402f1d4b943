"""BERT, RoBERTa (XLM-R) and ELECTRA: encoders."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.pretrained.family import SOURCE, Described, Family, attention, linear, norm, table_row
from seq2seq_jax.pretrained.fields import REQUIRED, Only, activation
from seq2seq_jax.pretrained.table import Entry


class Bert(Family):
    """Post-norm, learned positions, token types, embeddings normalised."""

    model_type = "bert"
    part = "encoder"
    architecture = "BertModel"
    read: ClassVar[Mapping[str, Any]] = {
        "vocab_size": REQUIRED,
        "hidden_size": REQUIRED,
        "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED,
        "intermediate_size": REQUIRED,
        "max_position_embeddings": REQUIRED,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    only: ClassVar[Mapping[str, Only]] = {
        "position_embedding_type": Only(("absolute",), "relative positions of BERT are not built"),
        "tie_word_embeddings": Only((True, False), ""),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "pooler_fc_size": "the pooler is left out",
        "pooler_num_attention_heads": "the pooler is left out",
        "pooler_num_fc_layers": "the pooler is left out",
        "pooler_size_per_head": "the pooler is left out",
        "pooler_type": "the pooler is left out",
        "directionality": "says nothing of the model",
    }
    prefixes = ("", "bert.")
    unused = (
        r"pooler\..*", r"embeddings\.position_ids", r"embeddings\.token_type_ids", r"cls\..*", r"lm_head\..*",
        r"classifier\..*", r"qa_outputs\..*",
    )  # fmt: skip
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {SOURCE: ("embeddings.word_embeddings.weight",)}

    def own_name(self, name: str) -> str:
        # Norms of the first released checkpoints, such as bert-base-uncased, have other names.
        own = super().own_name(name)
        return own.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    def offset(self, values: Mapping[str, Any]) -> int:
        """Row of the first position."""
        return 0

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        encoder = TransformerEncoderConfig(
            num_layers=values["num_hidden_layers"],
            model_dim=values["hidden_size"],
            num_heads=values["num_attention_heads"],
            hidden_dim=values["intermediate_size"],
            activation=activation(values["hidden_act"], origin=origin),
            normalization="layer",
            norm_position="post",
            norm_epsilon=values["layer_norm_eps"],
            embedding_norm=True,
            positions="learned",
            max_positions=values["max_position_embeddings"],
            position_offset=self.offset(values),
            token_types=values["type_vocab_size"],
            dropout=float(values["hidden_dropout_prob"]),
            attention_dropout=float(values["attention_probs_dropout_prob"]),
        )
        return Described(values=values, encoder=encoder, vocabulary_size=values["vocab_size"])

    def table(self, described: Described) -> tuple[Entry, ...]:
        layer, path, frame = "encoder.layer.{layer}", "encoder/layer", "encoder/frame"
        names = {part: f"{layer}.attention.self.{part}" for part in ("query", "key", "value")}
        names["output"] = f"{layer}.attention.output.dense"
        return (
            table_row("embeddings.position_embeddings.weight", f"{frame}/learned/table"),
            table_row("embeddings.token_type_embeddings.weight", f"{frame}/types"),
            *norm("embeddings.LayerNorm", f"{frame}/embedding_norm"),
            *attention(names, f"{path}/attention", biases=described.encoder.biases),
            *norm(f"{layer}.attention.output.LayerNorm", f"{path}/attention_residual/norm"),
            *linear(f"{layer}.intermediate.dense", f"{path}/feed_forward/expand", bias=True),
            *linear(f"{layer}.output.dense", f"{path}/feed_forward/contract", bias=True),
            *norm(f"{layer}.output.LayerNorm", f"{path}/feed_forward_residual/norm"),
        )


class Roberta(Bert):
    """BERT with positions behind the pad token's id."""

    model_type = "roberta"
    architecture = "RobertaModel"
    prefixes = ("", "roberta.")
    read: ClassVar[Mapping[str, Any]] = Bert.read | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

    def offset(self, values: Mapping[str, Any]) -> int:
        return values["pad_token_id"] + 1


class XlmRoberta(Roberta):
    """RoBERTa of 100 languages."""

    model_type = "xlm-roberta"
    architecture = "XLMRobertaModel"


class Electra(Bert):
    """BERT, where embeddings are as wide as the layers."""

    model_type = "electra"
    architecture = "ElectraModel"
    prefixes = ("", "electra.")
    unused = (*Bert.unused, r"discriminator_predictions\..*", r"generator_.*")
    read: ClassVar[Mapping[str, Any]] = Bert.read | {"embedding_size": REQUIRED}
    ignored: ClassVar[Mapping[str, str]] = Bert.ignored | dict.fromkeys(
        ("summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj"), "is of another head"
    )

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        if values["embedding_size"] != values["hidden_size"]:
            raise ValueError(
                f"{origin} has embedding_size = {values['embedding_size']}, and embeddings of another width than the "
                f"layers are not built; expected hidden_size = {values['hidden_size']}."
            )
        return super().describe(values, names, origin=origin)


FAMILIES = (Bert(), Roberta(), XlmRoberta(), Electra())
