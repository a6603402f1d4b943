"""The attention of recurrent decoders: one query per target token, over all states of its source segment."""

from seq2seq_jax.modules.global_attention.additive import AdditiveAttentionConfig
from seq2seq_jax.modules.global_attention.dot import DotAttentionConfig
from seq2seq_jax.modules.global_attention.general import GeneralAttentionConfig

GlobalAttentionKind = AdditiveAttentionConfig | GeneralAttentionConfig | DotAttentionConfig
"""The kinds that a config may name."""
