"""The encoder–decoder: any encoder with any decoder, their embeddings and the output projection."""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import (
    Batch,
    DecodeState,
    FrameRows,
    Memory,
    SourceRows,
    TokenRows,
    Vocabulary,
    one_position_batch,
    one_token_batch,
    shift_right,
)
from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.effects import changes
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.modules.attention import WEIGHTS
from seq2seq_jax.modules.embedding import Embedding, EmbeddingChange, Scoring
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.front_end import FeaturesConfig, FeatureStatistics, LogMelConfig
from seq2seq_jax.modules.linear import LORA_IN, Linear, merge_lora
from seq2seq_jax.modules.pointer import Pointed, Pointer, PointerSource, mixed
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.recurrence import replicate
from seq2seq_jax.values import check_values

START_OFFSETS = "start_offsets"
"""Name of the parameters that experts have of their own."""

OFFSET_SCALE = 0.1
"""Spread of the initial start tokens of experts around the BOS token, in units of that of an embedding. Experts that
differ little at first are nearly as good as each other, so that none takes all pairs, in a model that was trained
without experts neither; with a spread of 1, small models end with some pairs left to the wrong expert."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of an encoder–decoder."""

    encoder: TransformerEncoderConfig | RecurrentEncoderConfig | ConvolutionalEncoderConfig
    """The encoder."""
    decoder: TransformerDecoderConfig | RecurrentDecoderConfig | ConvolutionalDecoderConfig
    """The decoder."""
    tied_embeddings: Literal["all", "decoder", "inputs", "none"] = "all"
    """Which embedding tables are shared: source, target and output; target and output; source and target; or none.
    "all" and "inputs" need a joint tokenizer and the same model_dim on both sides."""
    scaled_embeddings: Literal["both", "source", "target", "none"] = "both"
    """On which sides embeddings are multiplied by the square root of model_dim."""
    logit_scale: float | None = None
    """What hidden states are multiplied by before the output projection (T5 1.0: 1 / sqrt(model_dim)); None = 1."""
    logit_bias: bool = False
    """Whether each token's logit has a learned bias."""
    logit_cap: float | None = None
    """Bound of the logits, which a tanh keeps within it (Gemma 2: 30); None = there is none."""
    copying: bool = False
    """Whether a token is copied from the source with a probability that the model learns (pointer-generator), so that
    names and numbers that were never a label can be generated. Needs a joint tokenizer, and a decoder with attention.
    """
    copying_in_order: bool = False
    """Whether copying also compares what was written last with the token before each source token, so that names of
    several pieces are copied whole. Only with copying."""
    front_end: LogMelConfig | FeaturesConfig | None = None
    """What makes vectors of sources that are samples or frames (--model.front_end log_mel, features); None = sources
    are tokens."""
    ctc: bool = False
    """Whether each state of the encoder has scores of all target tokens, with the pad token as the blank, for
    connectionist temporal classification."""
    num_experts: int = 1
    """Experts of a mixture, which differ in their start token alone; expert 0 starts with the BOS token, and is what
    all that knows no experts works with. Above 1 only for objective mixture_of_experts."""
    precision: Precision = dataclasses.field(default="float32", metadata=changes("numbers"))
    """Arithmetic: float32; bfloat16 (accelerators); bfloat16_products (CPUs with AMX or AVX512-BF16: float32 except
    for the operands of matrix products)."""

    def __post_init__(self):
        check_values(self, "model")
        if self.num_experts < 1:
            raise ValueError(f"model.num_experts must be at least 1, not {self.num_experts}.")
        if self.shares_inputs and self.encoder.model_dim != self.decoder.model_dim:
            raise ValueError(
                f"model.tied_embeddings = {self.tied_embeddings} needs one model_dim on both sides, not "
                f"{self.encoder.model_dim} and {self.decoder.model_dim}. Change either, or set tied_embeddings to "
                "decoder."
            )
        if self.copying and isinstance(self.decoder, RecurrentDecoderConfig) and self.decoder.attention is None:
            raise ValueError(
                "model.copying needs a decoder with attention, and model.decoder.attention is None. Choose one, or set "
                "copying to False."
            )
        if self.copying_in_order and not self.copying:
            raise ValueError(
                "model.copying_in_order has no effect without copying. Set model.copying to True, or copying_in_order "
                "to False."
            )
        if self.shares_inputs and self.scaled_embeddings in ("source", "target"):
            raise ValueError(
                f"model.scaled_embeddings = {self.scaled_embeddings} needs a table per side, and tied_embeddings is "
                f"{self.tied_embeddings}. Set it to decoder or none, or scaled_embeddings to both or none."
            )
        if self.front_end is not None and (self.shares_inputs or self.copying):
            field = "tied_embeddings" if self.shares_inputs else "copying"
            raise ValueError(
                f"model.{field} = {getattr(self, field)} needs sources of tokens, and model.front_end reads frames. "
                f"Set {field} to {'decoder' if self.shares_inputs else False}."
            )
        if self.front_end is None and self.reduction > 1:
            raise ValueError(
                f"model.encoder makes one state of {self.reduction} vectors, which is for frames: set "
                "pyramid_layers to 0, or model.front_end to log_mel or features."
            )
        if self.logit_scale is not None and self.logit_scale <= 0:
            raise ValueError(f"model.logit_scale must be positive or None, and is {self.logit_scale}.")
        if self.logit_cap is not None and self.logit_cap <= 0:
            raise ValueError(f"model.logit_cap must be positive or None, and is {self.logit_cap}.")

    @property
    def scoring(self) -> Scoring:
        """How scores of the vocabulary are computed from `EncoderDecoder.output_table`."""
        return Scoring(self.precision, self.logit_cap)

    @property
    def shares_inputs(self) -> bool:
        """Whether source and target have one table."""
        return self.tied_embeddings in ("all", "inputs")

    @property
    def has_lora(self) -> bool:
        """Whether linear layers have changes of low rank."""
        return any(getattr(stack, "lora_rank", None) is not None for stack in (self.encoder, self.decoder))

    def without_lora(self) -> "ModelConfig":
        """The model of merged parameters."""
        settings = {"lora_rank": None, "lora_alpha": None, "lora_layers": ("query", "value")}
        stacks = {
            side: dataclasses.replace(stack, **settings)
            for side in ("encoder", "decoder")
            if getattr(stack := getattr(self, side), "lora_rank", None) is not None
        }
        return dataclasses.replace(self, **stacks)

    def merge_lora(self, params: Any) -> Any:
        """The parameters of `without_lora` that compute the same, up to rounding."""

        def merged(tree: Any, stack: Any, name: str) -> Any:
            if not isinstance(tree, dict):
                return tree
            if LORA_IN in tree:
                return merge_lora(tree, stack.lora[name], num_layers=stack.num_layers)
            return {part: merged(inner, stack, part) for part, inner in tree.items()}

        return params | {side: merged(params[side], getattr(self, side), side) for side in ("encoder", "decoder")}

    @property
    def reduction(self) -> int:
        """Vectors of the front end that the encoder makes one state of; one, where an encoder does not say."""
        return getattr(self.encoder, "reduction", 1)

    @property
    def frames_per_position(self) -> int:
        """Frames of which the front end and the encoder make one state; 1 for tokens."""
        return 1 if self.front_end is None else self.front_end.frames_per_position * self.reduction

    @property
    def source_stride(self) -> int:
        """Stored vectors, such as samples, of which one state is made; 1 for tokens."""
        return 1 if self.front_end is None else self.front_end.values_per_frame * self.frames_per_position

    @property
    def seconds_per_position(self) -> float | None:
        """Seconds of a source of which one state is made; None = sources are no sound."""
        return None if self.front_end is None else self.front_end.seconds_per_frame * self.frames_per_position

    def encoder_flops(self, source: Amount, *, vocabulary: Vocabulary) -> Amount:
        """Model FLOPs of encoding an example.

        Args:
            source: tokens, or positions of frames.
        """
        flops = self.encoder.forward_flops(source)
        if self.front_end is not None:
            flops += self.front_end.flops(source * self.reduction, model_dim=self.encoder.model_dim)
        if self.ctc:
            flops += product_flops(source, self.encoder.memory_dim, vocabulary.target_size)
        return flops

    def forward_flops(self, source: Amount, target: Amount, *, vocabulary: Vocabulary, hypotheses: int = 1) -> Amount:
        """Model FLOPs of a forward pass over a pair; see `seq2seq_jax.modules.flops`.

        Args:
            source: tokens of the source, or positions of frames.
            target: tokens of each target.
            hypotheses: number of targets that share one encoded source.
        """
        decoder = self.decoder.forward_flops(source, target, memory_dim=self.encoder.memory_dim, hypotheses=hypotheses)
        logits = product_flops(target, self.decoder.model_dim, vocabulary.target_size)
        forward = self.encoder_flops(source, vocabulary=vocabulary) + decoder + hypotheses * logits
        if not self.copying:
            return forward
        return forward + Pointer.flops(
            source,
            target,
            model_dim=self.decoder.model_dim,
            memory_dim=self.encoder.memory_dim,
            preceding_dim=self.preceding_dim,
            hypotheses=hypotheses,
        )

    @property
    def preceding_dim(self) -> int | None:
        """Size of the embeddings that copying in order reads; None = it is not in order."""
        return self.encoder.model_dim if self.copying_in_order else None

    def check(self, *, joint: bool) -> None:
        """Refuse what the tokenizer does not go with.

        Args:
            joint: whether both sides have one tokenizer.

        Raises:
            ValueError: source and target share a table, or tokens are copied, and each side has its own tokenizer.
        """
        if self.shares_inputs and not joint:
            raise ValueError(
                f"model.tied_embeddings = {self.tied_embeddings} needs a joint tokenizer, and tokenizer.joint is "
                "False. Set tokenizer.joint to True, or tied_embeddings to decoder."
            )
        if self.copying and not joint:
            raise ValueError(
                "model.copying needs a joint tokenizer, since source tokens become target tokens, and tokenizer.joint "
                "is False. Set tokenizer.joint to True, or copying to False."
            )

    def build(self, vocabulary: Vocabulary, statistics: FeatureStatistics | None = None) -> "EncoderDecoder":
        """The module.

        Args:
            statistics: of features, where the front end normalises by them.

        Raises:
            ValueError: see `check`.
        """
        self.check(joint=vocabulary.joint)
        return EncoderDecoder(self, vocabulary, statistics)


class EncoderDecoder(nn.Module):
    """A conditional language model of the target given the source.

    Training calls `__call__`, or `encode`, `decode` and `logits` one by one; generation calls `encode`, `start` and
    `step`. Parameters and logits are float32 in every precision.
    """

    config: ModelConfig
    vocabulary: Vocabulary
    statistics: FeatureStatistics | None = None

    def setup(self):
        config, vocabulary = self.config, self.vocabulary

        def embedding(size, model_dim, side):
            is_scaled = config.scaled_embeddings in ("both", side)
            return Embedding(size, model_dim, config.precision, is_scaled=is_scaled)

        self.target_embedding = embedding(vocabulary.target_size, config.decoder.model_dim, "target")
        if config.front_end is not None:
            self.front_end = config.front_end.build(
                model_dim=config.encoder.model_dim,
                parts=config.reduction,
                precision=config.precision,
                statistics=self.statistics,
            )
        elif config.shares_inputs:
            self.source_embedding = self.target_embedding
        else:
            self.source_embedding = embedding(vocabulary.source_size, config.encoder.model_dim, "source")
        if config.tied_embeddings in ("all", "decoder"):
            self.output = self.target_embedding
        else:
            self.output = embedding(vocabulary.target_size, config.decoder.model_dim, "target")
        if config.logit_bias:
            initializer = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.logit_bias = self.param("logit_bias", initializer, (vocabulary.target_size,))
        if config.num_experts > 1:
            initializer = nn.initializers.normal(OFFSET_SCALE * config.decoder.model_dim**-0.5)
            self.start_offsets = self.param(
                START_OFFSETS,
                nn.with_logical_partitioning(initializer, (None, "model")),
                (config.num_experts - 1, config.decoder.model_dim),
            )
        self.encoder = config.encoder.build(precision=config.precision)
        self.decoder = config.decoder.build(
            memory_dim=config.encoder.memory_dim,
            summary_dim=config.encoder.summary_dim,
            precision=config.precision,
        )
        if config.ctc:
            self.ctc_output = Linear(
                (config.encoder.memory_dim,), (vocabulary.target_size,), ("model", "vocab"), True, config.precision
            )
        if config.copying:
            self.pointer = Pointer(
                config.decoder.model_dim, config.encoder.memory_dim, config.preceding_dim, config.precision
            )

    @property
    def num_experts(self) -> int:
        """Experts of a mixture; see `ModelConfig.num_experts`."""
        return self.config.num_experts

    @property
    def seconds_per_position(self) -> float | None:
        """See `ModelConfig.seconds_per_position`."""
        return self.config.seconds_per_position

    @property
    def has_ctc(self) -> bool:
        """Whether there are `ctc_scores`."""
        return self.config.ctc

    @property
    def position_limit(self) -> int | None:
        """Target tokens that the decoder has positions for; None = unbounded."""
        return self.config.decoder.position_limit

    @property
    def source_position_limit(self) -> int | None:
        """Source tokens that the encoder has positions for; None = unbounded."""
        return self.config.encoder.position_limit

    @property
    def smallest_batch(self) -> Batch:
        """One row with one position per side, enough to initialise the model."""
        front_end = self.config.front_end
        if front_end is None:
            return one_token_batch()
        num_features, kind = front_end.stored
        return one_position_batch(stride=self.config.source_stride, num_features=num_features, kind=kind)

    def encode(self, source: SourceRows, *, deterministic: bool, change: EmbeddingChange | None = None) -> Memory:
        """The encoded source.

        Args:
            deterministic: disables dropout and SpecAugment; otherwise the rng stream "dropout" is used.
            change: of the embeddings, or of what the front end makes; None = none.
        """
        if isinstance(source, FrameRows):
            inputs = self.front_end(source, deterministic=deterministic)
        else:
            inputs = self.embed_source(source.tokens)
        inputs = inputs if change is None else change.apply(inputs)
        memory = self.encoder(inputs, source, deterministic=deterministic)
        if not self.config.copying:
            return memory
        if not self.config.copying_in_order:
            return memory.replace(tokens=source.tokens)
        is_first = (source.positions == 0)[..., None]
        return memory.replace(
            tokens=source.tokens, preceding=jnp.where(is_first, 0.0, jnp.roll(inputs, 1, axis=1)).astype(inputs.dtype)
        )

    def decode(
        self,
        target: TokenRows,
        memory: Memory,
        *,
        deterministic: bool,
        inputs: Int[Array, "batch target"] | None = None,
        change: EmbeddingChange | None = None,
    ) -> Float[Array, "batch target output"]:
        """The decoder's hidden states for each label of the target, with teacher forcing, ready for `logits`.

        Args:
            target: the labels.
            inputs: the decoder's input tokens; None = the labels shifted right, of expert 0.
            change: of the inputs' embeddings; None = none.
        """
        if inputs is None:
            inputs = shift_right(target, self.vocabulary.bos_id).tokens
        embedded = self.embed_inputs(inputs)
        embedded = embedded if change is None else change.apply(embedded)
        hidden = self.decoder(embedded, target, memory, deterministic=deterministic)
        return self._before_output(hidden)

    def ctc_scores(self, memory: Memory) -> Float[Array, "batch source vocab"]:
        """Scores of all target tokens at each position of the source, float32, with `ModelConfig.ctc`; the pad token is
        the blank.
        """
        return self.ctc_output(memory.states).astype(jnp.float32)

    def _before_output(self, hidden: Float[Array, "*dims model"]) -> Float[Array, "*dims output"]:
        """What the output table is multiplied with: scaled hidden states, and a 1 for the column of biases."""
        if self.config.logit_scale is not None:
            hidden = hidden * self.config.logit_scale
        if self.config.logit_bias:
            hidden = jnp.concatenate([hidden, jnp.ones_like(hidden[..., :1])], axis=-1)
        return hidden

    def embed_source(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """Embedded tokens of the source."""
        return self.source_embedding(tokens)

    def embed_inputs(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """Embedded decoder inputs: tokens, and start tokens of experts (`Vocabulary.start_ids`).

        The start token of an expert is embedded as the BOS token and an offset of the expert's own.
        """
        vocabulary, others = self.vocabulary, self.config.num_experts - 1
        if others == 0:
            return self.target_embedding(tokens)
        embedded = self.target_embedding(jnp.where(tokens < vocabulary.target_size, tokens, vocabulary.bos_id))
        is_expert = tokens[..., None] - vocabulary.target_size == jnp.arange(others)
        # A gather as a product with zeros and ones, as in `Embedding`: its gradient needs no scatter.
        offsets = jnp.einsum(
            "...e,ed->...d", is_expert.astype(jnp.float32), self.start_offsets, precision=jax.lax.Precision.HIGHEST
        )
        return embedded + (offsets * offsets.shape[-1] ** 0.5).astype(embedded.dtype)

    def scheduled_inputs(
        self, target: TokenRows, memory: Memory, *, probability: Float[Array, ""], argmax: bool
    ) -> Int[Array, "batch target"]:
        """Decoder inputs for scheduled sampling: labels, some of them replaced by model predictions.

        A recurrent decoder predicts token by token and reads its own predictions; other decoders predict all tokens in
        one pass over the labels. The first input of a segment stays the BOS token. Dropout is off. Uses the rng stream
        "sampling".

        Args:
            probability: of replacing an input with the model's prediction.
            argmax: whether the prediction is the most probable token, or a sample.

        Source: Bengio et al. 2015; Mihaylova and Martins 2019 (two passes).
        """
        replacement_key, sampling_key = jax.random.split(self.make_rng("sampling"))
        labels = shift_right(target, self.vocabulary.bos_id)
        replaced = jax.random.bernoulli(replacement_key, probability, target.tokens.shape) & (target.positions > 0)
        table = replicate(self.output_table())

        is_recurrent = isinstance(self.config.decoder, RecurrentDecoderConfig)

        def predict(hidden, index):
            hidden = self._before_output(hidden) if is_recurrent else hidden
            logits = self.config.scoring.scores(table, hidden)
            if argmax:
                return jnp.argmax(logits, axis=-1)
            return jax.random.categorical(jax.random.fold_in(sampling_key, index), logits)

        if is_recurrent:
            embeddings = replicate(self.target_embedding.table)
            is_scaled = self.target_embedding.is_scaled
            embed = functools.partial(Embedding.rows, embeddings, precision=self.config.precision, is_scaled=is_scaled)
            return self.decoder.scheduled_inputs(labels.tokens, replaced, target, memory, embed=embed, predict=predict)
        hidden = self.decode(target, memory, deterministic=True)
        # One position at a time, so that the logits of all positions never exist at once.
        indices = jnp.arange(hidden.shape[1])
        predicted = jax.lax.map(lambda each: predict(*each), (jnp.swapaxes(hidden, 0, 1), indices))
        predictions = shift_right(target.replace(tokens=predicted.T), self.vocabulary.bos_id)
        return jnp.where(replaced, predictions.tokens, labels.tokens)

    def output_table(self) -> Float[Array, "vocab output"]:
        """The table of the output projection: the scores of it, see `ModelConfig.scoring`, are those of the vocabulary
        of what `decode` gives, and without copying the logits. Biases of logits are its last column.
        """
        if not self.config.logit_bias:
            return self.output.table
        return jnp.concatenate([self.output.table, self.logit_bias[:, None]], axis=1)

    def point(
        self, hidden: Float[Array, "batch target output"], segment_ids: Int[Array, "batch target"], memory: Memory
    ) -> Pointed:
        """Which source tokens are copied with which probability, with copying.

        Args:
            hidden: result of `decode`.
            segment_ids: of its positions.
            memory: what `decode` read.
        """
        return self._point(hidden, segment_ids, self.pointer.source(memory))

    def _point(self, hidden, segment_ids, source: PointerSource) -> Pointed:
        # Where logits have biases, `decode` gives a column for them.
        return self.pointer(hidden[..., : self.config.decoder.model_dim], segment_ids, source)

    def logits(
        self, hidden: Float[Array, "batch target output"], segment_ids: Int[Array, "batch target"], memory: Memory
    ) -> Float[Array, "batch target vocab"]:
        """Unnormalised log-probabilities of the next token, float32; with copying, log-probabilities.

        Args:
            hidden: result of `decode`, for all target positions or some of them.
            segment_ids: of these positions.
            memory: what `decode` read; it makes no difference without copying, as do segment_ids.
        """
        return self._logits(hidden, segment_ids, self.pointer.source(memory) if self.config.copying else None)

    def _logits(self, hidden, segment_ids, source: PointerSource | None):
        scores = self._scores(hidden)
        return scores if source is None else mixed(scores, self._point(hidden, segment_ids, source), source.tokens)

    def _scores(self, hidden: Float[Array, "*dims output"]) -> Float[Array, "*dims vocab"]:
        return self.config.scoring.scores(self.output_table(), hidden)

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, "batch target vocab"]:
        """Logits of every label of the batch, with teacher forcing."""
        memory = self.encode(batch.source, deterministic=deterministic)
        if self.config.ctc and self.is_initializing():
            self.ctc_scores(memory)
        hidden = self.decode(batch.target, memory, deterministic=deterministic)
        return self.logits(hidden, batch.target.segment_ids, memory)

    def start(self, memory: Memory, *, max_length: int, beam_size: int) -> DecodeState:
        """The state before the first token.

        Args:
            memory: rows of one segment each.
            max_length: upper bound on the tokens to decode, EOS token included.
            beam_size: hypotheses per source.
        """
        state = self.decoder.start(memory, max_length=max_length, beam_size=beam_size)
        if not self.config.copying:
            return state
        return state.replace(per_source=(state.per_source, self.pointer.source(memory)))

    def step(
        self, tokens: Int[Array, "hypotheses"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses vocab"], DecodeState]:
        """Logits of the next token of every hypothesis, and the next state.

        Args:
            tokens: the last token of every hypothesis; at first the BOS token, or the start token of an expert.
        """
        return self.step_embedded(self.embed_inputs(tokens), state)

    def step_embedded(
        self, inputs: Float[Array, "hypotheses model"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses vocab"], DecodeState]:
        """`step` of embedded tokens, or of mixtures of them."""
        if not self.config.copying:
            hidden, state = self.decoder.step(inputs, state)
            return self._scores(self._before_output(hidden)), state
        of_decoder, source = state.per_source
        hidden, after = self.decoder.step(inputs, state.replace(per_source=of_decoder))
        by_source = self._before_output(hidden).reshape(len(source.tokens), len(inputs) // len(source.tokens), -1)
        logits = self._logits(by_source, jnp.ones(by_source.shape[:2], jnp.int32), source)
        return logits.reshape(len(inputs), -1), after.replace(per_source=state.per_source)


def attention_weights(
    model: EncoderDecoder, params: Any, batch: Batch
) -> Float[Array, "batch layers heads target source"]:
    """The decoder's cross-attention weights, from each label to each source token, by layer and head.

    Raises:
        ValueError: the decoder has no attention.
    """
    _, recorded = model.apply({"params": params}, batch, mutable=[WEIGHTS])
    return jnp.moveaxis(jnp.concatenate(_cross_attention(recorded)), 0, 1)


def step_with_attention(
    model: nn.Module, params: Any, tokens: Int[Array, "hypotheses"], state: DecodeState
) -> tuple[Float[Array, "hypotheses vocab"], Float[Array, "hypotheses source"], DecodeState]:
    """What `step` gives, with the cross-attention weights of the step: their mean over layers and heads, and over the
    members of an ensemble.

    Raises:
        ValueError: the decoder has no attention.
    """
    (logits, state), recorded = model.apply({"params": params}, tokens, state, method="step", mutable=[WEIGHTS])
    # Of a stack in one loop, layers come first. Heads are as many in all layers of one model.
    by_layer = [
        jnp.mean(leaf, axis=-3).reshape(-1, *leaf.shape[-4:-3], *leaf.shape[-2:]) for leaf in _cross_attention(recorded)
    ]
    mean = jnp.mean(jnp.concatenate(by_layer), axis=0)
    return logits, mean.reshape(len(tokens), -1), state


def _cross_attention(recorded: Any) -> list[Array]:
    """The weights of cross-attention among those that were recorded.

    Raises:
        ValueError: there are none.
    """
    weights = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(recorded)
        if any(getattr(key, "key", None) == "cross_attention" for key in path)
    ]
    if not weights:
        raise ValueError(
            "the model's decoder has no attention: it reads each source as one vector, so no target token has weights "
            "over source tokens. Give a run whose decoder has attention."
        )
    return weights
