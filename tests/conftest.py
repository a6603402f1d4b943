"""Turns on the checks of jaxtyping's shapes, before anything of the package is imported."""

from jaxtyping import install_import_hook

install_import_hook("seq2seq_jax", "beartype.beartype")
