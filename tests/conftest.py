"""Compiles fast, and turns on the checks of the shapes in signatures, before anything of the package is imported."""

from compiling import compile_fast

_compiled = compile_fast()

import flax.struct  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

_dataclass = flax.struct.dataclass


def _dataclass_of_any_leaves(cls=None, **options):
    """A pytree is also built of shapes, shardings and numpy arrays, so its fields are left unchecked."""
    if cls is None:
        return lambda cls: _dataclass_of_any_leaves(cls, **options)
    made = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _dataclass_of_any_leaves
install_import_hook(["seq2seq_jax", "studies"], "beartype.beartype")
