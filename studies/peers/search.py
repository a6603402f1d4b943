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
from seq2seq_jax.pretrained.ctranslate2_files import tokens_of, write_model
from seq2seq_jax.pretrained.table import flat
from studies.peers import pytorch
from studies.peers.hugging_face import bart_weights, use_our_positions_and_epsilon

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
        write_model(directory, model, flat(params), tokenizer, longest=num_positions, quantization="float32")
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        self.translator = ctranslate2.Translator(
            str(directory),
            device=device,
            compute_type="float16" if device == "cuda" else "float32",
            inter_threads=1,
            intra_threads=threads or usable_cores(),
        )
        self._names = tokens_of(tokenizer)
        self._ids = {name: token for token, name in enumerate(self._names["target"])}

    def search(self, sources: list[list[int]], *, batch_size: int) -> list[list[int]]:
        """See SearchPeer.search; batch_size counts source tokens."""
        results = self.translator.translate_batch(
            [[self._names["source"][token] for token in source] for source in sources],
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
            [[self._names["source"][token] for token in source]],
            [[self._names["target"][token] for token in target[:-1]]],
        )
        return np.array(scored.log_probs)
