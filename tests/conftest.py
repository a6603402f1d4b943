"""Compiles fast, and turns on the checks of the shapes in signatures, before anything of the package is imported.

Which tests run: all but those marked `deep`, of which those run that a change can reach; with --quick none that are
marked `long` or `deep`, with --deep all.
"""

from compiling import compile_fast

compile_fast()

import flax.struct  # noqa: E402
import pytest  # noqa: E402
from changed import changed_files, is_reached  # noqa: E402
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


def pytest_addoption(parser):
    group = parser.getgroup("seq2seq_jax", "which tests run")
    group.addoption("--quick", action="store_true", help="leave out what is marked long or deep")
    group.addoption("--deep", action="store_true", help="run all that is marked deep, whatever has changed")


def pytest_collection_modifyitems(config, items):
    quick, deep = config.getoption("--quick"), config.getoption("--deep")
    if quick and deep:
        raise pytest.UsageError("--quick leaves out what --deep adds; give one of them.")
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("deep")
        if mark is None:
            runs = not (quick and item.get_closest_marker("long"))
        else:
            runs = deep or (not quick and is_reached(mark.args, of=item.path, changed=changed_files()))
        (kept if runs else left_out).append(item)
    # What takes long comes first, so that at the end no worker waits for the other one.
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("long") is None)
    config.hook.pytest_deselected(items=left_out)
