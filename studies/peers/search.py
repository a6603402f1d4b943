"""Beam search of other systems with the weights of a run of this project: Hugging Face's `generate`, CTranslate2."""

import abc
from collections.abc import Sequence
from pathlib import Path

import ctranslate2
import numpy as np
import torch
import transformers
from jaxtyping import Float, Int

from seq2seq_jax.benchmark.harness import usable_cores
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.context import longest_output
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.objective import Params
from studies.peers import pytorch
from studies.peers.hugging_face import bart_weights, use_our_positions_and_epsilon
from studies.peers.transformer import EPSILON, position_table, weights_by_layer

SAME_FUNCTION = {
    "normalization": "layer",
    "norm_position": "pre",
    "positions": "sinusoidal",
    "activation": "relu",
    "gated": False,
    "attention_bias": True,
    "head_dim": None,
    "num_kv_heads": None,
    "feed_forward_bias": None,
}
"""What the stacks of a run must be, to be copied into the peers."""


def check_form(model: ModelConfig) -> None:
    """Refuse a model that the peers cannot compute.

    Raises:
        ValueError: with the field.
    """
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        for field, needed in SAME_FUNCTION.items():
            found = getattr(stack, field, "no such field")
            if found != needed:
                raise ValueError(
                    f"the peers have this project's Transformer with {field} = {needed} alone, and the run's "
                    f"model.{side}.{field} is {found}. Give another run."
                )
    if model.tied_embeddings != "all":
        raise ValueError(
            f"the peers' tables are tied, and the run's model.tied_embeddings is {model.tied_embeddings}, not all. "
            "Give another run."
        )


class SearchPeer(abc.ABC):
    """A system that searches with the weights of a run."""

    def __init__(self, config: BeamSearch, tokenizer: Tokenizer):
        """Args:
        config: beam and limits, those of this project; without length penalty.
        """
        self.config = config
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary

    def limit(self, source_length: int) -> int:
        """Most tokens that are generated for a source of n, the EOS token counted."""
        return longest_output(
            source_length,
            ratio=self.config.maximum_length_ratio,
            extra=self.config.maximum_length_extra,
            position_limit=None,
        )

    @abc.abstractmethod
    def search(self, sources: list[list[int]], *, batch_size: int) -> list[list[int]]:
        """The best target ids of each source, in order, each ending in the EOS token unless it was cut at the limit.

        Args:
            sources: ids, each ending in the EOS token.
            batch_size: in what the system counts.
        """

    @abc.abstractmethod
    def token_log_probabilities(self, source: list[int], target: list[int]) -> Float[np.ndarray, " target"]:
        """Log-probability (nats) of each target token, given those before it."""


class HuggingFaceSearch(SearchPeer):
    """`generate` of Pegasus, which is this project's pre-norm Transformer: cache, fused attention, sorted batches."""

    unit = "sentences"

    def __init__(
        self,
        params: Params,
        model: ModelConfig,
        tokenizer: Tokenizer,
        config: BeamSearch,
        *,
        longest_source: int,
        threads: int | None,
        early_stopping: bool,
    ):
        """Args:
        early_stopping: end as soon as beam_size hypotheses have ended.
        """
        super().__init__(config, tokenizer)
        torch.set_num_threads(threads or usable_cores())
        vocabulary = self.vocabulary
        num_positions = max(longest_source, self.limit(longest_source)) + 1
        ids = {
            "pad_token_id": vocabulary.pad_id,
            "bos_token_id": vocabulary.bos_id,
            "eos_token_id": vocabulary.eos_id,
            "decoder_start_token_id": vocabulary.bos_id,
        }
        sizes = {
            f"{side}_{name}": value
            for side, stack in (("encoder", model.encoder), ("decoder", model.decoder))
            for name, value in (
                ("layers", stack.num_layers),
                ("attention_heads", stack.num_heads),
                ("ffn_dim", stack.hidden_dim),
            )
        }
        self.model = transformers.PegasusForConditionalGeneration(
            transformers.PegasusConfig(
                vocab_size=vocabulary.target_size,
                d_model=model.encoder.model_dim,
                max_position_embeddings=num_positions,
                activation_function="relu",
                scale_embedding=True,
                forced_eos_token_id=None,
                attn_implementation="sdpa",
                **sizes,
                **ids,
            )
        ).eval()
        use_our_positions_and_epsilon(self.model, num_positions)
        trained = {f"model.{name}": value for name, value in self.model.named_parameters() if value.requires_grad}
        pytorch.load(trained, bart_weights(params))
        self.device = pytorch.device()
        self.model.to(self.device, torch.float16 if self.device.type == "cuda" else torch.float32)
        self._generation = {
            "num_beams": config.beam_size,
            "do_sample": False,
            "length_penalty": 0.0,
            "early_stopping": early_stopping,
            "use_cache": True,
            **ids,
        }

    def _padded(self, rows: Sequence[list[int]]) -> Int[torch.Tensor, "rows longest"]:
        longest = max(map(len, rows))
        filled = [row + [self.vocabulary.pad_id] * (longest - len(row)) for row in rows]
        return torch.tensor(filled, device=self.device)

    def search(self, sources: list[list[int]], *, batch_size: int) -> list[list[int]]:
        """See SearchPeer.search; batch_size counts sentences."""
        order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
        found: dict[int, list[int]] = {}
        with torch.inference_mode():
            for first in range(0, len(order), batch_size):
                indices = order[first : first + batch_size]
                rows = [sources[index] for index in indices]
                tokens = self._padded(rows)
                outputs = self.model.generate(
                    input_ids=tokens,
                    attention_mask=(tokens != self.vocabulary.pad_id).long(),
                    generation_config=transformers.GenerationConfig(
                        max_new_tokens=self.limit(len(rows[0])), **self._generation
                    ),
                ).tolist()
                found |= {index: self._until_end(output[1:]) for index, output in zip(indices, outputs, strict=True)}
        return [found[index] for index in range(len(sources))]

    def _until_end(self, ids: list[int]) -> list[int]:
        end = self.vocabulary.eos_id
        return ids[: ids.index(end) + 1] if end in ids else ids

    def token_log_probabilities(self, source: list[int], target: list[int]) -> Float[np.ndarray, " target"]:
        """See SearchPeer.token_log_probabilities."""
        inputs = [self.vocabulary.bos_id, *target[:-1]]
        with torch.inference_mode():
            logits = self.model(input_ids=self._padded([source]), decoder_input_ids=self._padded([inputs])).logits[0]
        chosen = logits.float().log_softmax(-1).gather(1, torch.tensor(target, device=self.device)[:, None])
        return chosen[:, 0].cpu().numpy()


class CTranslate2Search(SearchPeer):
    """CTranslate2's `translate_batch`: float32 on CPUs, float16 on GPUs, batches by tokens from sorted sentences."""

    unit = "tokens"

    def __init__(
        self,
        params: Params,
        model: ModelConfig,
        tokenizer: Tokenizer,
        config: BeamSearch,
        directory: Path,
        *,
        longest_source: int,
        threads: int | None,
    ):
        """Args:
        directory: where the converted model is written.
        """
        super().__init__(config, tokenizer)
        self._longest = self.limit(longest_source)
        num_positions = max(longest_source, self._longest) + 1
        specification(params, model, tokenizer, num_positions=num_positions).save(str(directory))
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        self.translator = ctranslate2.Translator(
            str(directory),
            device=device,
            compute_type="float16" if device == "cuda" else "float32",
            inter_threads=1,
            intra_threads=threads or usable_cores(),
        )
        pieces = tokenizer.target_pieces(range(self.vocabulary.target_size))
        self._ids = {piece: token for token, piece in enumerate(pieces)}

    def search(self, sources: list[list[int]], *, batch_size: int) -> list[list[int]]:
        """See SearchPeer.search; batch_size counts source tokens."""
        results = self.translator.translate_batch(
            [self.tokenizer.source_pieces(source) for source in sources],
            max_batch_size=batch_size,
            batch_type="tokens",
            beam_size=self.config.beam_size,
            length_penalty=0.0,
            max_decoding_length=self._longest,
            return_end_token=True,
        )
        return [[self._ids[piece] for piece in result.hypotheses[0]] for result in results]

    def token_log_probabilities(self, source: list[int], target: list[int]) -> Float[np.ndarray, " target"]:
        """See SearchPeer.token_log_probabilities."""
        # It adds the EOS token itself.
        [scored] = self.translator.score_batch(
            [self.tokenizer.source_pieces(source)], [self.tokenizer.target_pieces(target[:-1])]
        )
        return np.array(scored.log_probs)


def specification(
    params: Params, model: ModelConfig, tokenizer: Tokenizer, *, num_positions: int
) -> ctranslate2.specs.TransformerSpec:
    """A run's model for CTranslate2."""
    weights = weights_by_layer(params)
    spec = ctranslate2.specs.TransformerSpec.from_config(
        (model.encoder.num_layers, model.decoder.num_layers),
        model.encoder.num_heads,
        pre_norm=True,
        activation=ctranslate2.specs.Activation.RELU,
    )

    def linear(part, *names):
        part.weight = np.concatenate([weights[f"{name}.weight"] for name in names])
        part.bias = np.concatenate([weights[f"{name}.bias"] for name in names])

    def normalization(part, name):
        part.gamma, part.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]

    positions = position_table(num_positions, model.encoder.model_dim).numpy()
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        stack.position_encodings.encodings = positions
        normalization(stack.layer_norm, f"{side}.norm")
        for index, layer in enumerate(stack.layer):
            name = f"{side}.{index}"
            normalization(layer.self_attention.layer_norm, f"{name}.self_norm")
            attention = f"{name}.self_attention"
            linear(layer.self_attention.linear[0], *(f"{attention}.{part}" for part in ("query", "key", "value")))
            linear(layer.self_attention.linear[1], f"{attention}.output")
            if side == "decoder":
                normalization(layer.attention.layer_norm, f"{name}.cross_norm")
                attention = f"{name}.cross_attention"
                linear(layer.attention.linear[0], f"{attention}.query")
                linear(layer.attention.linear[1], f"{attention}.key", f"{attention}.value")
                linear(layer.attention.linear[2], f"{attention}.output")
            normalization(layer.ffn.layer_norm, f"{name}.feed_forward_norm")
            linear(layer.ffn.linear_0, f"{name}.feed_forward.expand")
            linear(layer.ffn.linear_1, f"{name}.feed_forward.contract")
    table = weights["embedding.weight"]
    spec.encoder.embeddings[0].weight = table
    spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight = table

    vocabulary = tokenizer.vocabulary
    pieces = tokenizer.target_pieces(range(vocabulary.target_size))
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.decoder_start_token = spec.config.bos_token = pieces[vocabulary.bos_id]
    spec.config.eos_token = pieces[vocabulary.eos_id]
    spec.config.layer_norm_epsilon = EPSILON
    spec.validate()
    return spec
