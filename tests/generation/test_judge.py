"""What a discriminator thinks of given texts is its logit of their tokens, in whatever batches they come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters, transformer
from batches import batch

from seq2seq_jax.batch import one_token_batch
from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.discriminators.discriminator import logits_of_texts
from seq2seq_jax.discriminators.two_towers import PooledConvolutionConfig, TwoTowersConfig
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.judge import Judge
from seq2seq_jax.generation.methods import Greedy
from seq2seq_jax.objectives.adversarial import AdversarialConfig
from seq2seq_jax.parallel.mesh import MeshConfig

SOURCES, TARGETS = ["ab", "b", "abab", "a"], ["b", "aaab", "", "ba"]


def test_logits_are_those_of_the_texts():
    config = TokenizerConfig(kind="char", vocabulary_size=8, byte_fallback=False)
    tokenizer = Tokenizer.train([("abba", "baab")], config)
    tower = PooledConvolutionConfig(model_dim=4, widths=(1, 2), filters=(4, 4))
    objective = AdversarialConfig(discriminator=TwoTowersConfig(source=tower, target=tower, hidden_dim=4))
    model = transformer(num_layers=1).build(tokenizer.vocabulary)
    discriminator = objective.build_evaluation(model).discriminator
    params = random_parameters(discriminator.module, one_token_batch())
    generator = Generator(
        model, tokenizer, Greedy(), source=Tokens(max_length=8), mesh=MeshConfig().build(jax.devices()[:1])
    )
    judge = Judge(generator, discriminator, max_target_length=8)
    found = judge.logits(params, SOURCES, TARGETS)
    pairs = zip(tokenizer.encode_source(SOURCES), tokenizer.encode_target(TARGETS), strict=True)
    rows = jax.tree.map(jnp.asarray, batch([[pair] for pair in pairs], 8, 8, tokenizer.vocabulary))
    expected = logits_of_texts(
        discriminator.logits(params, rows.target, discriminator.encode(params, rows.source)), rows.target.mask
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 1e-2
    with pytest.raises(ValueError, match="line 1"):
        judge.logits(params, ["a"], ["ab" * 9])
