"""The causal discriminator: any encoder with any decoder, and one number instead of the vocabulary."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Memory, TokenRows, Vocabulary
from seq2seq_jax.discriminators.discriminator import DiscriminatorConfig, DiscriminatorModule
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.linear import Linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalDiscriminatorConfig(DiscriminatorConfig):
    """An encoder–decoder that reads the text itself, not the text shifted right, so that one pass gives a logit for
    every prefix. Packs and shards as the model does.
    """

    is_causal: ClassVar[bool] = True

    model: ModelConfig | None = None
    """Its encoder and decoder; None = those of the generator, whose parameters it then starts from."""

    def __post_init__(self):
        super().__post_init__()
        if self.model is not None and (self.model.copying or self.model.num_experts > 1):
            raise ValueError(
                "objective.discriminator.model has no use for copying or experts: set copying to False and num_experts "
                "to 1."
            )

    @property
    def starts_from_generator(self) -> bool:
        """See DiscriminatorConfig.starts_from_generator."""
        return self.model is None

    def module(self, model: ModelConfig, vocabulary: Vocabulary) -> "CausalDiscriminator":
        """See DiscriminatorConfig.module."""
        own = model if self.model is None else self.model
        return CausalDiscriminator(own, vocabulary)

    def forward_flops(self, source: Amount, target: Amount, *, model: ModelConfig, texts: int = 1) -> Amount:
        """See DiscriminatorConfig.forward_flops."""
        own = model if self.model is None else self.model
        decoder = own.decoder.forward_flops(source, target, memory_dim=own.encoder.memory_dim, hypotheses=texts)
        return own.encoder.forward_flops(source) + decoder + texts * product_flops(target, own.decoder.model_dim, 1)


class CausalDiscriminator(DiscriminatorModule):
    """The module."""

    config: ModelConfig
    vocabulary: Vocabulary

    def setup(self):
        self.model = self.config.build(self.vocabulary)
        self.score = Linear(
            input_dims=(self.config.decoder.model_dim,),
            output_dims=(1,),
            axes=("model", None),
            bias=True,
            precision="float32",
        )

    def encode(self, source: TokenRows, *, deterministic: bool) -> Memory:
        """See DiscriminatorModule.encode."""
        return self.model.encode(source, deterministic=deterministic)

    def embed(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """See DiscriminatorModule.embed."""
        return self.model.target_embedding(tokens)

    def judge(
        self, embedded: Float[Array, "batch target model"], target: TokenRows, encoded: Any, *, deterministic: bool
    ) -> Float[Array, "batch target"]:
        """See DiscriminatorModule.judge."""
        hidden = self.model.decoder(embedded, target, encoded, deterministic=deterministic)
        return self.score(hidden.astype(jnp.float32))[..., 0]
