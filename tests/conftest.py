"""Turns on the checks of the shapes in signatures, before anything of the package is imported; compiles fast, not well."""

import flax.struct
import jax
from jaxtyping import install_import_hook

# Most of the tests' time goes to compiling small programs; processes that tests start compile as usual.
jax.config.update("jax_disable_most_optimizations", True)

_dataclass = flax.struct.dataclass


def _dataclass_of_any_leaves(cls=None, **options):
    """A pytree is also built of shapes, shardings and numpy arrays, so its fields are left unchecked."""
    if cls is None:
        return lambda cls: _dataclass_of_any_leaves(cls, **options)
    made = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _dataclass_of_any_leaves
install_import_hook("seq2seq_jax", "beartype.beartype")
