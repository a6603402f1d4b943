"""Optimizers under the name by which configs import them; they are a room of their own, which objectives use too."""

from seq2seq_jax.optimizers import AdafactorConfig as AdafactorConfig
from seq2seq_jax.optimizers import AdamWConfig as AdamWConfig
from seq2seq_jax.optimizers import OptimizerConfig as OptimizerConfig
