"""The encoder–decoder: any encoder with any decoder, their embeddings and the output projection."""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch, DecodeState, Memory, Sequence, Vocabulary, shift_right
from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.modules.attention import WEIGHTS
from seq2seq_jax.modules.embedding import Embedding
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.recurrence import whole
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of an encoder–decoder."""

    encoder: TransformerEncoderConfig | RecurrentEncoderConfig | ConvolutionalEncoderConfig
    """The encoder."""
    decoder: TransformerDecoderConfig | RecurrentDecoderConfig | ConvolutionalDecoderConfig
    """The decoder."""
    tied_embeddings: Literal["all", "decoder", "none"] = "all"
    """Which tables are one: source, target and output; target and output; or none. "all" needs a joint tokenizer and
    one model_dim."""
    precision: Precision = "float32"
    """Arithmetic: float32; bfloat16 (accelerators); bfloat16_products (CPUs with AMX: float32 but for the operands of
    matrix products)."""

    def __post_init__(self):
        check_values(self, "model")
        if self.tied_embeddings == "all" and self.encoder.model_dim != self.decoder.model_dim:
            raise ValueError(
                f"model.tied_embeddings = all needs one model_dim on both sides, not {self.encoder.model_dim} and "
                f"{self.decoder.model_dim}. Change either, or set tied_embeddings to decoder."
            )

    def forward_flops(self, source: Amount, target: Amount, *, vocabulary: Vocabulary, hypotheses: int = 1) -> Amount:
        """Model FLOPs of a forward pass over a pair; see `seq2seq_jax.modules.flops`.

        Args:
            source: tokens of the source.
            target: tokens of each target.
            hypotheses: targets that share one encoded source.
        """
        decoder = self.decoder.forward_flops(source, target, memory_dim=self.encoder.memory_dim, hypotheses=hypotheses)
        logits = product_flops(target, self.decoder.model_dim, vocabulary.target_size)
        return self.encoder.forward_flops(source) + decoder + hypotheses * logits

    def build(self, vocabulary: Vocabulary) -> "EncoderDecoder":
        """The module.

        Raises:
            ValueError: tied_embeddings = all with a tokenizer a side.
        """
        if self.tied_embeddings == "all" and not vocabulary.joint:
            raise ValueError(
                "model.tied_embeddings = all needs a joint tokenizer, and tokenizer.joint is False. "
                "Set tokenizer.joint to True, or tied_embeddings to decoder."
            )
        return EncoderDecoder(self, vocabulary)


class EncoderDecoder(nn.Module):
    """A conditional language model of the target given the source.

    Training goes through `__call__`, or through `encode`, `decode` and `logits` apart; generation through `encode`,
    `start` and `step`. Parameters are float32 and logits come in float32, whatever the precision between.
    """

    config: ModelConfig
    vocabulary: Vocabulary

    def setup(self):
        config, vocabulary = self.config, self.vocabulary

        def embedding(size, model_dim):
            return Embedding(size, model_dim, config.precision)

        self.target_embedding = embedding(vocabulary.target_size, config.decoder.model_dim)
        if config.tied_embeddings == "all":
            self.source_embedding = self.target_embedding
        else:
            self.source_embedding = embedding(vocabulary.source_size, config.encoder.model_dim)
        if config.tied_embeddings == "none":
            self.output = embedding(vocabulary.target_size, config.decoder.model_dim)
        else:
            self.output = self.target_embedding
        self.encoder = config.encoder.build(precision=config.precision)
        self.decoder = config.decoder.build(
            memory_dim=config.encoder.memory_dim,
            summary_dim=config.encoder.summary_dim,
            precision=config.precision,
        )

    def encode(self, source: Sequence, *, deterministic: bool) -> Memory:
        """What the decoder needs of the source.

        Args:
            deterministic: without dropout; otherwise the rng stream "dropout" is drawn from.
        """
        return self.encoder(self.source_embedding(source.tokens), source, deterministic=deterministic)

    def decode(
        self,
        target: Sequence,
        memory: Memory,
        *,
        deterministic: bool,
        inputs: Int[Array, "batch target"] | None = None,
    ) -> Float[Array, "batch target model"]:
        """Hidden states that predict each label of the target, teacher-forced.

        Args:
            target: the labels.
            inputs: tokens that the decoder reads; None = the labels shifted right.
        """
        if inputs is None:
            inputs = shift_right(target, self.vocabulary.start_id).tokens
        return self.decoder(self.target_embedding(inputs), target, memory, deterministic=deterministic)

    def own_inputs(
        self, target: Sequence, memory: Memory, *, share: Float[Array, ""], likeliest: bool
    ) -> Int[Array, "batch target"]:
        """Decoder inputs of which a share are tokens that the model itself chose for the place before.

        A recurrent decoder chooses one token after the other, having read its own choices; the others choose all of
        them at once, having read the labels. The first input of a segment stays the start id. Nothing is dropped out;
        draws from the rng stream "sampling".

        Args:
            share: probability that an input is the model's own.
            likeliest: whether it chooses the likeliest token, or draws one.

        Source: Bengio et al. 2015; Mihaylova and Martins 2019 (two passes).
        """
        place_key, choice_key = jax.random.split(self.make_rng("sampling"))
        labels = shift_right(target, self.vocabulary.start_id)
        replaced = jax.random.bernoulli(place_key, share, target.tokens.shape) & (target.positions > 0)
        table = whole(self.output.table)

        def choose(hidden, place):
            logits = Embedding.scores(table, hidden, precision=self.config.precision)
            if likeliest:
                return jnp.argmax(logits, axis=-1)
            return jax.random.categorical(jax.random.fold_in(choice_key, place), logits)

        if isinstance(self.config.decoder, RecurrentDecoderConfig):
            embeddings = whole(self.target_embedding.table)
            embed = functools.partial(Embedding.rows, embeddings, precision=self.config.precision)
            return self.decoder.own_inputs(labels.tokens, replaced, target, memory, embed=embed, choose=choose)
        hidden = self.decode(target, memory, deterministic=True)
        # Place after place, so that the logits of all tokens never exist at once.
        places = jnp.arange(hidden.shape[1])
        chosen = jax.lax.map(lambda each: choose(*each), (jnp.swapaxes(hidden, 0, 1), places))
        own = shift_right(target.replace(tokens=chosen.T), self.vocabulary.start_id)
        return jnp.where(replaced, own.tokens, labels.tokens)

    def output_table(self) -> Float[Array, "vocab model"]:
        """What `logits` multiplies with: `Embedding.scores` of it, in the config's precision, are the logits."""
        return self.output.table

    def logits(self, hidden: Float[Array, "*dims model"]) -> Float[Array, "*dims vocab"]:
        """Unnormalised log-probabilities of the next token, float32."""
        return self.output.logits(hidden)

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, "batch target vocab"]:
        """Logits of every label of the batch, teacher-forced."""
        memory = self.encode(batch.source, deterministic=deterministic)
        return self.logits(self.decode(batch.target, memory, deterministic=deterministic))

    def start(self, memory: Memory, *, max_length: int, beam_size: int) -> DecodeState:
        """The state before the first token.

        Args:
            memory: rows of one segment each.
            max_length: most tokens that will be decoded, the end mark counted.
            beam_size: hypotheses a source.
        """
        return self.decoder.start(memory, max_length=max_length, beam_size=beam_size)

    def step(
        self, tokens: Int[Array, "hypotheses"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses vocab"], DecodeState]:
        """Logits of the next token of every hypothesis, and the state after it.

        Args:
            tokens: the tokens decoded last; the start id at first.
        """
        hidden, state = self.decoder.step(self.target_embedding(tokens), state)
        return self.logits(hidden), state


def attention_weights(
    model: EncoderDecoder, params: Any, batch: Batch
) -> Float[Array, "batch layers heads target source"]:
    """How much each label of the batch attended to each source token, by layer and head of the decoder.

    Raises:
        ValueError: the decoder has no attention.
    """
    _, recorded = model.apply({"params": params}, batch, mutable=[WEIGHTS])
    weights = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(recorded)
        if any(getattr(key, "key", None) == "cross_attention" for key in path)
    ]
    if not weights:
        raise ValueError(
            "the model's decoder has no attention: all that it sees of a source is one vector, so no target token has "
            "weights over source tokens. Give a run whose decoder attends."
        )
    return jnp.moveaxis(jnp.concatenate(weights), 0, 1)
